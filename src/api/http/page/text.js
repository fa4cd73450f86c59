// Text and numbers for people: hidden characters made visible, numbers with their units. Takes values,
// returns strings; makes no elements.

// Control characters, marks that change the writing direction, and other characters without a width.
const HIDDEN = new RegExp(
  '[\\u0000-\\u0008\\u000B-\\u001F\\u007F-\\u009F\\u00AD\\u061C\\u180E\\u200B\\u200E\\u200F' +
    '\\u2028-\\u202E\\u2060-\\u206F\\uFEFF\\uFFF9-\\uFFFB\\u{E0000}-\\u{E007F}\\uD800-\\uDFFF]',
  'gu');

function escape(char) {
  if (char === '\r') return '\\r';
  const code = char.codePointAt(0);
  const hex = code.toString(16).toUpperCase();
  return code < 256 ? `\\x${hex.padStart(2, '0')}` : `\\u{${hex}}`;
}

/** The text with every invisible character as an escape: on one line, or with `lines` with its own line
 * ends and tabs. */
export function visible(text, lines = false) {
  const seen = String(text).replace(HIDDEN, escape);
  return lines ? seen : seen.replaceAll('\n', '\\n').replaceAll('\t', '\\t');
}

/** The first `most` characters, made visible, with an ellipsis if there are more. */
export function brief(text, most = 300) {
  const whole = String(text);
  return whole.length > most ? `${visible(cut(whole, most))}…` : visible(whole);
}

/** At most `most` UTF-16 units, without cutting a character in two. */
export function cut(text, most) {
  const high = text.charCodeAt(most - 1);
  return text.slice(0, high >= 0xD800 && high < 0xDC00 ? most - 1 : most);
}

/** Indented JSON, or null if the text is not JSON. Works on the source, because JavaScript would round
 * large numbers. */
export function prettyJson(text) {
  if (!/^\s*[[{]/.test(text)) return null;
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  let out = '', depth = 0;
  const line = () => `\n${'  '.repeat(depth)}`;
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{[]\s*[}\]]|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    if (/^[{[]\s*[}\]]$/.test(token)) out += token[0] + token.at(-1);
    else if (token === '{' || token === '[') { depth += 1; out += token + line(); }
    else if (token === '}' || token === ']') { depth -= 1; out += line() + token; }
    else if (token === ',') out += token + line();
    else if (token === ':') out += ': ';
    else out += token;
  }
  return out;
}

/** Lines of offset, 16 bytes in hex, and the same in ASCII. */
export function hexDump(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    const ascii = row.map((b) => (b >= 32 && b < 127 ? String.fromCharCode(b) : '.')).join('');
    lines.push(`${at.toString(16).padStart(6, '0')}  ${hex.padEnd(47)}  ${ascii}`);
  }
  return lines.join('\n');
}

/** How the lines of a text end, if all of them do so: '\n' or '\r\n'. Null if they differ: a text field would make them
 * alike. */
export function lineEnd(text) {
  if (!text.includes('\r')) return '\n';
  return /[\r\n]/.test(text.replaceAll('\r\n', '')) ? null : '\r\n';
}

export function bytesOfBase64(base64) {
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

export function base64OfText(text) {
  let bytes = '';
  for (const byte of new TextEncoder().encode(text)) bytes += String.fromCharCode(byte);
  return btoa(bytes);
}

const GROUPED = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });

/** 1234 as "1,234". */
export function count(number) {
  return number == null ? '–' : GROUPED.format(number);
}

/** "1 run", "1,234 runs". */
export function counted(number, one, several = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : several}`;
}

function scaled(number, base, units) {
  let unit = 0;
  while (number >= base && unit < units.length - 1) { number /= base; unit += 1; }
  const digits = unit > 0 && number < 100 ? 1 : 0;
  return `${number.toFixed(digits)} ${units[unit]}`.trim();
}

/** In few characters: "950", "12.3 k", "4.0 M". */
export function short(number) {
  return number == null ? '–' : number < 10_000 ? count(number) : scaled(number, 1000, ['', 'k', 'M', 'G']);
}

export function perSecond(rate) {
  if (rate == null) return '–';
  const small = rate > 0 && rate < 10 ? rate.toFixed(1) : short(rate);
  return `${small}${/[a-zA-Z]$/.test(small) ? '' : ' '}/s`;
}

export function size(bytes) {
  return bytes == null ? '–' : scaled(bytes, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB']);
}

/** Seconds as "3 ms", "139 ms", "3.2 s", "4 min", "2 h 5 min", "3 d 4 h". */
export function duration(seconds) {
  if (seconds == null) return '–';
  const s = Math.max(0, seconds);
  if (s === 0) return '0 s';
  if (s < 0.9995) return s < 0.0005 ? '<1 ms' : `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.round(s)} s`;
  const minutes = Math.round(s / 60);
  if (minutes < 100) return `${minutes} min`;
  const [big, small, names] =
    minutes < 2880 ? [Math.floor(minutes / 60), minutes % 60, ['h', 'min']]
      : [Math.floor(minutes / 1440), Math.floor((minutes % 1440) / 60), ['d', 'h']];
  return small ? `${big} ${names[0]} ${small} ${names[1]}` : `${big} ${names[0]}`;
}

const two = (number) => String(number).padStart(2, '0');

/** Local time of day: "12:03:04". */
export function clock(ms) {
  const at = new Date(ms);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Local time, with the date if it is not today's: "2026-11-23 12:03:04". */
export function moment(ms, now = Date.now()) {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) return String(ms);
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return at.toDateString() === new Date(now).toDateString() ? clock(ms) : `${day} ${clock(ms)}`;
}

export function utc(ms) {
  const at = new Date(ms);
  return Number.isNaN(at.getTime()) ? '' : `${at.toISOString().replace('T', ' ').replace('Z', '')} UTC`;
}
