// Follows mb's events over one connection that is made again for ever. Runs in the page, or in the
// shared worker that all of a browser's pages have in common; so it touches no document.

const SILENCE_MS = 5000; // mb says something each second
const RETRY_MS = 2000;

/** Calls `say` with `{overview: text}` for each event and `{lost: ms}` while mb does not answer. */
export function follow(say) {
  let source = null, heard = 0, lost = null;
  const lose = () => {
    lost ??= Date.now();
    say({ lost });
  };
  const open = () => {
    source?.close();
    heard = Date.now();
    source = new EventSource('/api/v1/events');
    source.addEventListener('overview', (event) => {
      heard = Date.now();
      lost = null;
      say({ overview: event.data });
    });
    source.addEventListener('error', lose);
  };
  // An EventSource gives up after some errors, and one whose connection went away without a word
  // waits for ever.
  setInterval(() => {
    if (Date.now() - heard < (lost === null ? SILENCE_MS : RETRY_MS)) return;
    lose();
    open();
  }, 1000);
  open();
}
