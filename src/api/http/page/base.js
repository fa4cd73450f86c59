// Where the page is: at the root of its host, or below a path if a proxy serves it there. Only the browser
// knows that path, from the address of this file.

const ROOT = new URL('..', import.meta.url).pathname.replace(/\/$/, '');

/** The browser's path of an address of the page or the API, which begins with a slash. */
export const at = (address) => ROOT + address;

/** The other way round: the page's address for a path of the browser. */
export const within = (path) => (path.startsWith(`${ROOT}/`) ? path.slice(ROOT.length) : path);
