// Records: key, time, and the value as indented JSON, as text, or as bytes in hex.

import { badge, data, el, long, time } from './dom.js';
import { bytesOfBase64, count, counted, hexDump, prettyJson, size } from './text.js';

/** A list of records in mb's JSON form. */
export function recordList(records) {
  return el('ol', { class: 'records' }, records.map((record) => el('li', { 'data-test': 'record', 'data-id': record.offset }, recordNode(record))));
}

const FAILED_FIRST = 5;

/** Records that failed, each with its error and a link to its dead letter; only the first ones are open. */
export function failedList(failed) {
  const item = (record) => el('li', { 'data-test': 'record', 'data-id': record.offset },
    el('p', { class: 'wrong', 'data-test': 'record-error' }, data(record.error, 600), ' ', el('a', { href: `/dead-letters/${record.dead_letter}` }, `dead letter ${record.dead_letter}`), ' ', badge(record.state)),
    recordNode(record));
  const list = (some) => el('ol', { class: 'records' }, some.map(item));
  const rest = failed.slice(FAILED_FIRST);
  return el('div', {}, list(failed.slice(0, FAILED_FIRST)), rest.length ? el('details', { 'data-test': 'more-failed' }, el('summary', {}, `${count(rest.length)} more that failed`), list(rest)) : null);
}

export function recordNode(record) {
  const key = record.key_base64 != null ? hexDump(bytesOfBase64(record.key_base64)) : record.key;
  const at = record.timestamp_ms ?? record.timestamp;
  return el('article', {},
    el('p', { class: 'record-head' },
      el('span', {}, 'partition ', el('b', {}, String(record.partition))), el('span', {}, 'offset ', el('b', {}, count(record.offset))),
      at != null && at >= 0 && el('span', {}, time(at)),
      el('span', {}, 'key ', key == null ? el('i', {}, 'none') : el('b', {}, data(key, 200))), record.edited ? badge('edited') : null),
    valueNode(record),
    record.headers?.length ? headersNode(record.headers) : null,
    record.cut_bytes ? el('p', { class: 'note' }, `${size(record.cut_bytes)} more not shown.`) : null);
}

/** Headers as text, in their order; a key may occur several times. */
function headersNode(headers) {
  const text = ({ key, key_base64: base64 }) => key ?? `(base64) ${base64}`;
  const value = (header) => (header.value == null && header.value_base64 == null ? el('i', {}, 'null')
    : data(header.value ?? `(base64) ${header.value_base64}`, 300));
  return el('details', { class: 'headers', 'data-test': 'headers', open: headers.length <= 10 }, el('summary', {}, counted(headers.length, 'header')),
    el('dl', { class: 'facts' }, headers.map((header) => el('div', {}, el('dt', {}, data(text(header), 200)), el('dd', {}, value(header))))));
}

/** The value in the form that suits it best, with buttons for the other forms. */
export function valueNode({ value, value_base64: base64 }) {
  if (value == null && base64 == null) return el('p', { class: 'note' }, 'No value (null).');
  const json = value == null ? null : prettyJson(value);
  const bytes = () => (base64 != null ? bytesOfBase64(base64) : new TextEncoder().encode(value));
  const modes = [
    json !== null && ['JSON', () => json],
    value != null && ['Text', () => value],
    ['Hex', () => hexDump(bytes())],
  ].filter(Boolean);
  const place = el('div', {});
  const buttons = modes.map(([name, make]) => el('button', { type: 'button', class: 'plain', 'data-test': `as-${name.toLowerCase()}`, on: { click: () => choose(name, make) } }, name));
  function choose(name, make) {
    buttons.forEach((node) => node.setAttribute('aria-pressed', String(node.textContent === name)));
    place.replaceChildren(long(make(), `Value as ${name}`));
  }
  choose(...modes[0]);
  return el('div', { class: 'value' }, el('div', { class: 'modes', role: 'group', 'aria-label': 'Show the value as' }, buttons), place);
}
