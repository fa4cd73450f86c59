// Dead letters: counted by error, then listed, searched and sorted; redrive them, or discard them with a reason.
// One of them, with its record: dead-letter.js.

import { get, post } from './api.js';
import { at } from './base.js';
import { act, badge, button, card, data, dialog, el, enable, oneLine, runLink, time, toast } from './dom.js';
import { mark } from './runs.js';
import { table } from './table.js';
import { count, counted, cut } from './text.js';
import { term } from './words.js';

const PAGE = 50;
const LINKED = 400; // characters of an error in an address, which servers bound
const SORTS = [['', 'Newest first'], ['oldest', 'Oldest first'], ['error', 'By error']];
const TABS = [['open', 'Open'], ['redriving', 'Being redriven'], ['redriven', 'Redriven'], ['discarded', 'Discarded'], ['all', 'All']];

/** Redrives the dead letters that `pick` selects. */
export async function redrive(node, pick) {
  const answer = await act(node, () => post('dead-letters/redrive', pick));
  if (!answer) return false;
  answer.requests.forEach(sayRedriven);
  return true;
}

export function sayRedriven({ request, letters, left }) {
  const rest = left ? ` ${counted(left, 'dead letter')} of the same offsets stay open for the next redrive.` : '';
  toast(`${counted(letters, 'dead letter')} will be redriven.${rest}`, 'good', el('a', { href: `/runs?request=${request}` }, 'See the new runs'));
}

/** Asks for the reason, then discards the dead letters that `pick` selects and calls `done`. */
export function discard(words, pick, done) {
  const reason = el('input', { type: 'text', required: true, maxlength: '500', 'data-test': 'discard-reason', autofocus: true });
  const go = el('button', { type: 'submit', class: 'danger acts', 'data-test': 'discard-confirm' }, `Discard ${words}`);
  const form = el('form', {}, el('p', {}, 'Discarded dead letters stay in the history with the reason, and are not processed any more.'),
    el('label', {}, 'Reason', reason), el('div', { class: 'actions' }, go));
  const box = dialog(`Discard ${words}?`, 'discard-dialog', form);
  reason.focus();
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (!reason.value.trim()) return;
    const answer = await act(go, () => post('dead-letters/discard', { ...pick, reason: reason.value.trim() }));
    if (!answer) return;
    box.close();
    toast(`${counted(answer.discarded, 'dead letter')} discarded`);
    done();
  });
}

/** The beginning of a key or value. */
function beginning(text, base64, cutBytes) {
  if (base64 != null) return oneLine(`(base64) ${base64}`);
  return text == null ? el('i', {}, 'none') : oneLine(cutBytes ? `${text}…` : text);
}

export function deadLettersView({ go, query: given }) {
  let query = given, rows = [], next = null, asked = 0, open = null;
  const chosen = new Set();
  const state = () => query.get('state') ?? 'open';
  const address = (changes) => {
    const changed = new URLSearchParams(query);
    for (const name of ['before', 'after']) changed.delete(name);
    for (const [name, value] of Object.entries(changes)) {
      if (value == null || value === '') changed.delete(name);
      else changed.set(name, value);
    }
    return `/dead-letters${changed.size ? `?${changed}` : ''}`;
  };

  const tabs = TABS.map(([name, words]) => ({ name, node: el('a', { 'data-test': `tab-${name}` }, words) }));
  const errors = table({
    caption: 'Dead letters by error', test: 'error-group', key: (row) => JSON.stringify([row.topic, row.group, row.error]),
    columns: [
      { label: 'Dead letters', num: true, cell: (row) => count(row.letters) },
      { label: 'Error', wide: true, cell: (row) => el('a', { href: address({ error: cut(row.error, LINKED) }), class: 'line' }, oneLine(row.error)) },
      { label: 'Topic', cell: (row) => data(row.topic, 40) },
      { label: 'Actions', cell: (row) => {
        const redriveThese = button('Redrive', { test: 'redrive-error' }, async () => await redrive(redriveThese, { error: row.error }) && load());
        return el('div', { class: 'actions' }, redriveThese,
          button('Discard…', { test: 'discard-error' }, () => discard(`all ${count(row.letters)} with this error`, { error: row.error }, load)));
      } },
    ],
  });
  const all = el('input', { type: 'checkbox', 'aria-label': 'Select all on this page', on: { change: () => select(rows.filter((row) => row.state === 'open').map((row) => row.id), all.checked) } });
  const list = table({
    caption: 'Dead letters', test: 'dead-letter', key: (row) => row.id,
    columns: [
      { label: 'Select', head: all, cell: (row) => el('input', { type: 'checkbox', 'aria-label': `Select dead letter ${row.id}`, 'data-test': 'select', checked: chosen.has(row.id), disabled: row.state !== 'open', on: { change: (event) => select([row.id], event.target.checked) } }) },
      { label: 'ID', cell: (row) => el('a', { href: `/dead-letters/${row.id}` }, String(row.id)) },
      { label: 'State', cell: (row) => [badge(row.state), row.edited_ms == null ? null : [' ', badge('edited')]] },
      { label: 'Key', wide: true, cell: ({ preview: { key, key_base64: base64, cut_key_bytes: cutBytes } }) => beginning(key, base64, cutBytes) },
      { label: 'Value', wide: true, cell: ({ preview: { value, value_base64: base64, cut_bytes: cutBytes } }) => beginning(value, base64, cutBytes) },
      { label: 'Partition', num: true, cell: (row) => String(row.partition) },
      { label: 'Offset', num: true, cell: (row) => count(row.offset) },
      { label: 'Given up', cell: (row) => time(row.at_ms) },
      { label: 'Attempts', num: true, cell: (row) => count(row.attempts) },
      { label: 'Run', cell: (row) => runLink(row.run, String(row.run)) },
      { label: 'New run', cell: (row) => (row.redrive_run ? runLink(row.redrive_run, String(row.redrive_run)) : '') },
      { label: 'Error', wide: true, cell: (row) => oneLine(row.state === 'discarded' && row.note ? `${row.note} (${row.error})` : row.error) },
    ],
  });
  const error = el('p', { class: 'note', hidden: true });
  const searched = el('p', { class: 'note', 'data-test': 'searched', role: 'status', hidden: true });
  const search = el('input', { type: 'search', 'data-test': 'filter-search' });
  const sort = el('select', { 'data-test': 'sort', on: { change: () => go(address({ sort: sort.value })) } }, SORTS.map(([value, words]) => el('option', { value }, words)));
  let timer;
  search.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => go(address({ search: search.value }), { replace: true }), 300);
  });
  const filters = el('form', { class: 'filters', role: 'search', on: { submit: (event) => event.preventDefault() } },
    el('label', {}, 'Key, value or error contains', search), el('label', {}, 'Order', sort));
  const matching = () => (query.get('error') ? { error: query.get('error') } : { all: true });
  const ids = () => ({ ids: rows.filter((row) => chosen.has(row.id) && row.state === 'open').map((row) => row.id) });
  const redriveSome = button('Redrive selected', { test: 'redrive', kind: 'main' }, async () => await redrive(redriveSome, ids()) && load());
  const redriveAll = button('Redrive all', { test: 'redrive-all' }, async () => await redrive(redriveAll, matching()) && load());
  const discardSome = button('Discard selected…', { test: 'discard' }, () => discard(counted(ids().ids.length, 'dead letter'), ids(), load));
  const discardAll = button('Discard all…', { test: 'discard-all' }, () => discard(query.get('error') ? 'all with this error' : 'all open dead letters', matching(), load));
  const newer = button('← Newer', { test: 'newer', acts: false }, () => (history.state?.paged ? history.back() : go(address({}))));
  const place = () => (query.has('sort') ? 'after' : 'before');
  const older = button('Older →', { test: 'older', acts: false }, () => go(address({ [place()]: next }), { state: { paged: true } }));

  function select(some, on) {
    for (const id of some) if (on) chosen.add(id); else chosen.delete(id);
    mark(list, chosen);
    showChosen();
  }
  function showChosen() {
    const { length } = ids().ids;
    redriveSome.textContent = length ? `Redrive selected (${count(length)})` : 'Redrive selected';
    for (const node of [redriveSome, discardSome]) enable(node, length > 0, 'Select open dead letters first');
    const every = query.has('search') ? 'Select those that were found' : 'No dead letter is open';
    for (const node of [redriveAll, discardAll]) enable(node, !query.has('search') && rows.some((row) => row.state === 'open'), every);
    all.checked = length > 0 && rows.every((row) => chosen.has(row.id) || row.state !== 'open');
  }
  async function load() {
    const mine = ++asked;
    try {
      const [page, groups] = await Promise.all([
        get('dead-letters', { state: state(), limit: PAGE, ...Object.fromEntries(['error', 'search', 'sort', 'before', 'after'].map((name) => [name, query.get(name)])) }),
        get('dead-letters/errors', { state: 'open' }),
      ]);
      if (mine !== asked) return;
      ({ dead_letters: rows, next } = page);
      for (const id of chosen) if (!rows.some((row) => row.id === id && row.state === 'open')) chosen.delete(id);
      list.fill(rows, { force: true });
      errors.fill(groups.errors);
      errors.say(...(groups.errors.length ? [] : [el('p', {}, 'No open dead letters. Records that fail at every attempt are kept here with their payload.')]));
      const stopped = page.searched?.stopped;
      list.say(...(rows.length ? [] : [el('p', {}, stopped ? 'None was found so far.' : 'No dead letters match.')]));
      searched.hidden = !page.searched;
      if (page.searched) {
        const words = `Looked at ${counted(page.searched.looked_at, 'dead letter')}`;
        searched.textContent = stopped ? `${words}, and then stopped: there are more. “${older.textContent}” goes on.` : `${words}.`;
      }
      enable(newer, query.has('before') || query.has('after'));
      enable(older, next !== null);
      showChosen();
    } catch (cause) {
      if (mine === asked) list.say(el('p', { class: 'wrong' }, data(cause.message)));
    }
  }
  function show() {
    for (const { name, node } of tabs) {
      node.href = at(address({ state: name === 'open' ? null : name }));
      if (name === state()) node.setAttribute('aria-current', 'true');
      else node.removeAttribute('aria-current');
    }
    const named = query.has('sort');
    newer.textContent = named ? '← Previous' : '← Newer';
    older.textContent = named ? 'Next →' : 'Older →';
    if (document.activeElement !== search) search.value = query.get('search') ?? '';
    sort.value = query.get('sort') ?? '';
    error.hidden = !query.has('error');
    error.replaceChildren('Only those with the error ', data(query.get('error') ?? '', 200), ' ', el('a', { href: address({ error: null }) }, 'show all'));
    chosen.clear();
    next = null;
    enable(older, false);
    load();
  }

  show();
  return {
    title: 'Dead letters',
    node: el('div', {}, el('h1', {}, term('dead letter', 'Dead letters')), card('Open, by error', {}, errors.node),
      el('nav', { class: 'tabs', 'aria-label': 'Dead letters by state' }, tabs.map(({ node }) => node)), filters, error, searched,
      el('div', { class: 'actions bar-line' }, redriveSome, discardSome, redriveAll, discardAll, el('div', { class: 'pager' }, newer, older)), list.node),
    query(changed) {
      query = changed;
      show();
    },
    live(overview) {
      const busy = rows.some((row) => row.state === 'redriving');
      const changed = open !== null && open !== overview.dead_letters_open;
      if (!list.held() && chosen.size === 0 && (busy || changed)) load();
      open = overview.dead_letters_open;
    },
    end() {
      asked += 1;
      clearTimeout(timer);
    },
  };
}
