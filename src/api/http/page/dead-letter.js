// One dead letter with its record, and the editor in which the record is mended before it is redriven.

import { get, post } from './api.js';
import { act, badge, button, card, data, el, long, runLink, time, toast } from './dom.js';
import { discard, redrive, sayRedriven } from './dead-letters.js';
import { recordNode } from './records.js';
import { base64OfText, count, lineEnd } from './text.js';

const BODY_BYTES = 1024 * 1024; // mb's limit of a request

export function deadLetterView({ id }) {
  const body = el('div', {}), place = el('div', {});
  const redriveIt = button('Redrive', { test: 'redrive', kind: 'main' }, async () => await redrive(redriveIt, { ids: [id] }) && load());
  const edit = button('Edit…', { test: 'edit' }, () => openEditor());
  const revert = button('Take the edit back', { test: 'revert' }, async () => await act(revert, () => post(`dead-letters/${id}/revert`), () => 'The original will be redriven') && load());
  const discardIt = button('Discard…', { test: 'discard' }, () => discard(`dead letter ${id}`, { ids: [id] }, load));
  const buttons = [redriveIt, edit, revert, discardIt];
  let deadLetter = null;
  for (const node of buttons) node.hidden = true;
  const facts = () => [
    ['State', badge(deadLetter.state)], ['Given up', time(deadLetter.at_ms)], ['Attempts', count(deadLetter.attempts)], ['Run', runLink(deadLetter.run, data(deadLetter.run_key, 120))],
    deadLetter.redrive_run && [deadLetter.state === 'redriven' ? 'Redriven by' : 'Last redriven by', runLink(deadLetter.redrive_run)],
    deadLetter.request && ['Request', el('a', { href: `/runs?request=${deadLetter.request}` }, `request ${deadLetter.request}`)],
    deadLetter.edited_ms != null && ['Edited', time(deadLetter.edited_ms)],
    deadLetter.resolved_ms && ['Resolved', time(deadLetter.resolved_ms)], deadLetter.note && ['Reason', data(deadLetter.note, 600)],
    ['Topic', data(deadLetter.topic, 80)], ['Group', data(deadLetter.group, 80)],
  ].filter(Boolean);
  async function load() {
    try {
      deadLetter = await get(`dead-letters/${id}`);
    } catch (error) {
      body.replaceChildren(el('p', { class: 'wrong', 'data-test': 'error' }, data(error.message)));
      return;
    }
    const { edited, error, record, state } = deadLetter;
    for (const node of buttons) node.hidden = state !== 'open';
    revert.hidden ||= !edited;
    place.replaceChildren();
    body.replaceChildren(
      el('dl', { class: 'facts', 'data-test': 'dead-letter-facts', 'data-state': state }, facts().map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)))),
      place, card('Error', {}, long(error, 'Error')),
      edited ? card('Edited record', { 'data-test': 'edited-record' }, el('p', { class: 'note' }, state === 'redriven' ? 'This one was processed.' : 'A redrive processes this one.'), recordNode(edited)) : '',
      card(edited ? 'Original record' : 'Record', { 'data-test': 'original-record' }, recordNode(record)));
  }
  function openEditor() {
    place.replaceChildren(editor(id, deadLetter.edited ?? deadLetter.record, load, () => place.replaceChildren()));
    place.querySelector('textarea')?.focus();
  }
  load();
  return {
    title: `Dead letter ${id}`,
    node: el('div', { 'data-test': 'dead-letter-view' },
      el('div', { class: 'title' }, el('h1', {}, el('a', { href: '/dead-letters' }, 'Dead letters'), ` / ${id}`), el('div', { class: 'actions' }, buttons)), body),
    live: () => deadLetter?.state === 'redriving' && load(),
  };
}

/** The editor of a record's key and value; calls `done` after it was saved, `close` if it is not wanted any more. */
function editor(id, record, done, close) {
  const byFile = el('p', { class: 'note' }, 'From a file: ', el('code', {}, `mb dead-letters edit ${id} --value-file FILE`));
  const end = button('Close', { test: 'edit-close', acts: false }, close);
  if ((record.value ?? record.value_base64 ?? '').length > BODY_BYTES) {
    return card('Edit', { 'data-test': 'editor' }, el('p', {}, 'The value is too large to be edited here.'), byFile, end);
  }
  const key = field('key', 'Key', record.key, record.key_base64, 1);
  const value = field('value', 'Value', record.value, record.value_base64, 12);
  const save = (node, redriven) => async () => {
    const changed = { ...key.changed(), ...value.changed(), redrive: redriven };
    if (Object.keys(changed).length === 1) return toast('Nothing was changed', 'bad');
    if (new Blob([JSON.stringify(changed)]).size > BODY_BYTES) return toast(`The edited record is larger than a request may be (1 MiB): use mb dead-letters edit ${id} --value-file FILE`, 'bad');
    const answer = await act(node(), () => post(`dead-letters/${id}/edit`, changed), ({ redrive: request }) => (request ? null : 'Saved: a redrive processes the edited record'));
    if (!answer) return undefined;
    if (answer.redrive) sayRedriven(answer.redrive);
    return done();
  };
  const both = button('Save and redrive', { test: 'edit-redrive', kind: 'main' }, save(() => both, true));
  const only = button('Save', { test: 'edit-save' }, save(() => only, false));
  return card('Edit', { 'data-test': 'editor' }, el('form', { class: 'editor', on: { submit: (event) => event.preventDefault() } },
    el('p', { class: 'note' }, 'The original is kept. The step gets the edited record under the same offset, marked as edited.'),
    key.node, value.node, byFile, el('div', { class: 'actions' }, both, only, end)));
}

/** A field for a key or value: text; or base64, for bytes that are no text or that a text field would change. */
function field(name, label, text, base64, rows) {
  const ends = text == null ? '\n' : lineEnd(text);
  const area = el('textarea', { rows: String(rows), spellcheck: 'false', 'data-test': `edit-${name}` });
  area.value = (text ?? '').replaceAll('\r\n', '\n');
  const isText = base64 == null && ends !== null && area.value === (text ?? '').replaceAll('\r\n', '\n');
  if (!isText) area.value = base64 ?? base64OfText(text);
  const isNull = el('input', { type: 'checkbox', 'data-test': `edit-${name}-null`, checked: text == null && base64 == null });
  const before = JSON.stringify([area.value, isNull.checked]);
  const wasJson = isText && isJson(area.value);
  const note = el('span', { class: 'note', role: 'status' });
  const show = () => {
    area.disabled = isNull.checked;
    const broken = wasJson && !isNull.checked && !isJson(area.value);
    note.textContent = broken ? 'This is not JSON, which the original is.' : isText ? '' : 'In base64: the bytes are not plain text.';
  };
  isNull.addEventListener('change', show);
  area.addEventListener('input', show);
  show();
  return {
    node: el('div', {}, el('label', {}, label, area), el('div', { class: 'actions' }, el('label', { class: 'check' }, isNull, `No ${name} (null)`), note)),
    changed() {
      if (JSON.stringify([area.value, isNull.checked]) === before) return {};
      if (isNull.checked) return { [name]: null };
      return isText ? { [name]: area.value.replaceAll('\n', ends) } : { [`${name}_base64`]: area.value.trim() };
    },
  };
}

function isJson(text) {
  try {
    return JSON.parse(text) !== undefined;
  } catch {
    return false;
  }
}
