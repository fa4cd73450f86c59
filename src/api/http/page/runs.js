// The list of runs: tabs, filters, sorting, pages, and actions on several runs at once. The address
// holds the whole selection, so it can be sent to a colleague.

import { get, post } from './api.js';
import { at } from './base.js';
import { act, badge, button, data, el, enable, keyLink, oneLine, runLink, time, toast } from './dom.js';
import { live } from './live.js';
import { table } from './table.js';
import { count, counted, duration, size } from './text.js';
import { term } from './words.js';

const PAGE = 50;
const REFRESH_MS = 2000;
const TABS = [['', 'All'], ['queued', 'Queued'], ['running', 'Running'], ['failed', 'Failed'], ['succeeded', 'Succeeded'], ['split', 'Split']];
const SPANS = [['', 'Any time'], ['900', 'Last 15 minutes'], ['3600', 'Last hour'], ['86400', 'Last day'], ['between', 'Between…']];

/** The columns of a run; those with `brief` are on the overview too. */
export function runColumns() {
  const waited = ({ queued_ms: queued, started_ms: started }) => (started == null ? null : (started - queued) / 1000);
  return [
    { label: 'Run', word: 'run', sort: 'id', brief: true, cell: (r) => runLink(r.id, String(r.id)) },
    { label: 'State', brief: true, cell: (r) => badge(r.state) },
    { label: 'Key', word: 'run key', brief: true, wide: true, cell: (r) => keyLink(r.id, r.key) },
    { label: 'Records', sort: 'records', num: true, brief: true, cell: (r) => count(r.records) },
    { label: 'Bytes', sort: 'bytes', num: true, cell: (r) => size(r.bytes) },
    { label: 'Attempts', word: 'attempt', sort: 'attempts', num: true, cell: (r) => count(r.attempts) },
    { label: 'Queued', sort: 'queued', brief: true, cell: (r) => time(r.queued_ms) },
    { label: 'Waited', sort: 'wait', num: true, cell: (r) => duration(waited(r)) },
    { label: 'Run time', sort: 'run_time', num: true, brief: true, cell: (r) => duration(r.run_ms == null ? null : r.run_ms / 1000) },
    { label: 'Worker', word: 'worker', num: true, cell: (r) => r.worker ?? '–' },
    { label: 'Error', brief: true, wide: true, cell: (r) => oneLine(r.error) },
  ];
}

/** What to say while nothing has run yet. */
export function noRuns(overview) {
  const topic = overview ? data(overview.topic, 80) : 'the topic';
  return [
    el('p', {}, 'No runs yet. The next tick that finds records in ', topic, ' starts the first ones.'),
    el('p', {}, 'To produce some: ', el('code', {}, 'mb produce --topic TOPIC --count 1000')),
  ];
}

const CANCELLED = {
  waiting: 'is cancelled: its step will not run, and its records become dead letters', ended: 'is cancelled: its command was ended',
  stalled: 'is marked as stalled: its step runs inside mb and cannot be ended',
};

export const cancelRun = (id) => post(`runs/${id}/cancel`, { note: 'from the page' });
export const cancelWords = ({ did }) => CANCELLED[did] ?? did;
export const isWaiting = ({ state }) => state === 'queued' || state === 'running';

/** Ticks the boxes of the chosen rows. */
export function mark(list, chosen) {
  for (const box of list.body.querySelectorAll('[data-test=select]')) {
    box.checked = chosen.has(Number(box.closest('tr').dataset.id));
  }
}

export function runsView({ go, query: given }) {
  let query = given, rows = [], next = null, asked = 0, lastLoad = 0, refreshed = '';
  const chosen = new Set();
  const set = (changes, options) => {
    const changed = new URLSearchParams(query);
    for (const name of ['before', 'skip']) changed.delete(name);
    for (const [name, value] of Object.entries(changes)) {
      if (value == null || value === '') changed.delete(name);
      else changed.set(name, value);
    }
    const text = changed.toString();
    go(`/runs${text ? `?${text}` : ''}`, options);
  };

  const tabs = TABS.map(([state, name]) => ({ state, name, node: el('a', { 'data-test': `tab-${state || 'all'}` }, name) }));
  const filters = filterForm(set);
  const all = el('input', { type: 'checkbox', 'aria-label': 'Select all runs on this page', on: { change: () => select(rows.map((row) => row.id), all.checked) } });
  const box = (row) => el('input', {
    type: 'checkbox', 'aria-label': `Select run ${row.id}`, 'data-test': 'select', checked: chosen.has(row.id),
    on: { change: (event) => select([row.id], event.target.checked) },
  });
  const sortBy = (sort) => {
    const isSorted = (query.get('sort') ?? 'id') === sort;
    set({ sort: sort === 'id' ? null : sort, order: isSorted && query.get('order') !== 'asc' ? 'asc' : null });
  };
  const list = table({
    caption: 'Runs', test: 'run', key: (row) => row.id, onSort: sortBy,
    columns: [{ label: 'Select', head: all, cell: box }, ...runColumns()],
  });
  const chosenRows = () => rows.filter((row) => chosen.has(row.id));
  const cancel = button('Cancel', { test: 'cancel' }, () => several(cancel, chosenRows().filter(isWaiting), cancelRun, 'cancelled'));
  const again = button('Run again', { test: 'again' }, () => several(again, chosenRows().filter((row) => !isWaiting(row)), (id) => post(`runs/${id}/again`), 'will be run again'));
  const picked = el('span', { role: 'status' });
  const newer = button('← Newer', { test: 'newer', acts: false }, () => {
    const trail = history.state?.trail ?? [];
    if (trail.length) history.back();
    else set({});
  });
  const older = button('Older →', { test: 'older', acts: false }, () => {
    const trail = [...(history.state?.trail ?? []), 1];
    set(next, { state: { trail } });
  });
  const where = el('span', { class: 'note', 'data-test': 'page-note', role: 'status' });

  function select(ids, on) {
    for (const id of ids) if (on) chosen.add(id); else chosen.delete(id);
    mark(list, chosen);
    showChosen();
  }
  function showChosen() {
    const marked = chosenRows();
    all.checked = rows.length > 0 && marked.length === rows.length;
    all.indeterminate = marked.length > 0 && !all.checked;
    picked.textContent = marked.length ? `${counted(marked.length, 'run')} selected` : 'Select runs to act on them';
    enable(cancel, marked.some(isWaiting), 'Select runs that wait or run');
    enable(again, marked.some((row) => !isWaiting(row)), 'Select runs that have ended');
  }
  async function several(node, targets, action, words) {
    let done = 0, failed = null;
    node.disabled = true;
    for (const { id } of targets) {
      try {
        await action(id);
        done += 1;
      } catch (error) {
        failed ??= `run ${id}: ${error.message}`;
      }
    }
    if (done) toast(`${counted(done, 'run')} ${words}`);
    if (failed) toast(failed, 'bad');
    chosen.clear();
    await load(true);
  }

  async function load(force = false) {
    const mine = ++asked;
    lastLoad = Date.now();
    const names = ['state', 'partition', 'error', 'since', 'until', 'request', 'sort', 'order', 'before', 'skip'];
    const wanted = Object.fromEntries(names.map((name) => [name, query.get(name)]));
    if (query.get('last')) wanted.since = Date.now() - Number(query.get('last')) * 1000;
    try {
      const request = query.get('request');
      const [page, counts, { requests }] = await Promise.all([
        get('runs', { ...wanted, limit: PAGE }), get('runs/counts'), request ? get('requests', { id: request }) : { requests: [] },
      ]);
      if (mine !== asked) return;
      filters.showRequest(requests[0]);
      const hold = !force && list.held();
      if (!hold) ({ runs: rows, next } = page);
      list.fill(hold ? page.runs : rows, { hold, force });
      showPage(counts, hold);
    } catch (error) {
      if (mine !== asked) return;
      where.textContent = '';
      list.say(el('p', { class: 'wrong' }, data(error.message)));
    }
  }
  function showPage(counts, hold) {
    for (const { state, name, node } of tabs) {
      const number = state ? counts[state] : Object.values(counts).reduce((sum, some) => sum + some, 0);
      node.replaceChildren(name, ' ', el('span', { class: 'count' }, count(number ?? 0)));
      node.hidden = state === 'split' && !number && query.get('state') !== 'split';
    }
    const paged = query.has('before') || query.has('skip');
    enable(newer, paged);
    enable(older, next !== null);
    where.textContent = hold ? 'Paused while you use the list' : paged ? '' : 'Newest first, live';
    if (query.has('sort') && !hold) where.textContent = 'Sorted; refreshed every few seconds';
    if (rows.length) list.say();
    else if ([...query.keys()].length === 0) list.say(...noRuns(live.overview));
    else list.say(el('p', {}, 'No runs match. '), el('a', { href: '/runs' }, 'Show all runs'));
    showChosen();
  }
  function show() {
    chosen.clear();
    next = null;
    enable(older, false);
    for (const { state, node } of tabs) {
      const changed = new URLSearchParams(query);
      for (const name of ['state', 'before', 'skip']) changed.delete(name);
      if (state) changed.set('state', state);
      node.href = at(`/runs${changed.size ? `?${changed}` : ''}`);
      if ((query.get('state') ?? '') === state) node.setAttribute('aria-current', 'true');
      else node.removeAttribute('aria-current');
    }
    filters.show(query);
    list.heads.forEach((head) => head.mark?.(query.get('sort') ?? 'id', query.get('order') ?? 'desc'));
    load(true);
  }

  show();
  return {
    title: 'Runs',
    node: el('div', {},
      el('h1', {}, term('run', 'Runs')), el('nav', { class: 'tabs', 'aria-label': 'Runs by state' }, tabs.map(({ node }) => node)), filters.node,
      el('div', { class: 'actions bar-line' }, picked, cancel, again, el('span', { class: 'push' }, where), el('div', { class: 'pager' }, newer, older)), list.node),
    query(changed) {
      query = changed;
      show();
    },
    live(overview) {
      const state = JSON.stringify([overview.totals, overview.queue.runs, overview.workers.map(({ run }) => run?.id)]);
      const first = !query.has('before') && !query.has('skip');
      if (!first || chosen.size || state === refreshed || Date.now() - lastLoad < REFRESH_MS) return;
      refreshed = state;
      load();
    },
    end() {
      asked += 1;
    },
  };
}

/** Filters, which are kept in the address. */
function filterForm(set) {
  const field = (name, words, properties) => {
    const input = el('input', { ...properties, 'data-test': `filter-${name}` });
    return { input, node: el('label', {}, words, input) };
  };
  const partition = field('partition', 'Partition', { type: 'number', min: '0', class: 'small' });
  const error = field('error', 'Error contains', { type: 'search' });
  const span = el('select', { 'data-test': 'filter-time' }, SPANS.map(([value, words]) => el('option', { value }, words)));
  const since = field('since', 'From', { type: 'datetime-local', step: '1' });
  const until = field('until', 'To', { type: 'datetime-local', step: '1' });
  const request = el('span', { class: 'note', 'data-test': 'request-summary' });
  const ms = ({ input }) => (input.value ? new Date(input.value).getTime() : null);
  let timer;
  const soon = (changes) => {
    clearTimeout(timer);
    timer = setTimeout(() => set(changes(), { replace: true }), 300);
  };
  partition.input.addEventListener('input', () => soon(() => ({ partition: partition.input.value })));
  error.input.addEventListener('input', () => soon(() => ({ error: error.input.value })));
  for (const { input } of [since, until]) input.addEventListener('change', () => set({ since: ms(since), until: ms(until), last: null }));
  span.addEventListener('change', () => {
    since.node.hidden = until.node.hidden = span.value !== 'between';
    if (span.value !== 'between') set({ last: span.value, since: null, until: null });
  });
  const local = (text) => {
    const at = new Date(Number(text));
    return text && !Number.isNaN(at.getTime()) ? new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19) : '';
  };
  return {
    node: el('form', { class: 'filters', role: 'search', on: { submit: (event) => event.preventDefault() } },
      partition.node, error.node, el('label', {}, 'Queued', span), since.node, until.node, request),
    show(query) {
      for (const [name, { input }] of [['partition', partition], ['error', error]]) if (document.activeElement !== input) input.value = query.get(name) ?? '';
      const between = query.has('since') || query.has('until');
      span.value = between ? 'between' : query.get('last') ?? '';
      since.node.hidden = until.node.hidden = !between;
      [since.input.value, until.input.value] = [local(query.get('since')), local(query.get('until'))];
      if (!query.has('request')) request.replaceChildren();
    },
    /** What has become of the request whose runs are shown. */
    showRequest(of) {
      if (!of) return;
      const { id, kind, state, records, records_failed: failed, records_left: left } = of;
      const words = [`${counted(records, 'record')} succeeded`, failed && `${count(failed)} failed`, left && `${count(left)} left`].filter(Boolean);
      request.replaceChildren(`Runs of request ${id} (${kind}, ${state}): ${words.join(', ')}. `, el('a', { href: '/runs' }, 'Show all runs'));
    },
  };
}

/** Runs a run again, says how, and links to the new one. */
export function runAgain(node, id) {
  const words = ({ did, dead_letters: letters }) => (did === 'redrive' ? `The ${counted(letters, 'open dead letter')} of run ${id} will be redriven.` : `Run ${id} will be replayed.`);
  return act(node, () => post(`runs/${id}/again`), (answer) => [words(answer), el('a', { href: `/runs?request=${answer.request}` }, 'See the new run')]);
}
