// The lag of every partition, and its cursor: where it is, and moving it after a preview of the effect.
// Also the replay of a range of offsets.

import { get, post } from './api.js';
import { act, button, data, dialog, el, toast } from './dom.js';
import { live } from './live.js';
import { table } from './table.js';
import { count, counted, duration, short } from './text.js';
import { term } from './words.js';

const REFRESH_MS = 2000;
const WAIT_S = 60; // for the running runs of the partitions whose cursors are moved

export function lagView() {
  let rows = [], last = 0, loading = false;
  const total = el('b', { 'data-test': 'lag' }, '–'), seconds = el('b', {}, '–'), catchUp = el('b', {}, '–');
  const error = el('p', { class: 'wrong', role: 'status', hidden: true });
  const only = el('input', { type: 'checkbox', 'data-test': 'only-lag', on: { change: () => show() } });
  const order = el('select', { on: { change: () => show() } }, el('option', { value: 'partition' }, 'partition number'), el('option', { value: 'lag' }, 'most lag first'));
  const list = table({
    caption: 'Lag per partition', test: 'partition', key: (row) => row.partition,
    columns: [
      { label: 'Partition', word: 'partition', cell: (row) => String(row.partition) },
      { label: 'Lag (records)', num: true, cell: (row) => count(row.lag) },
      { label: 'Oldest waiting', num: true, cell: (row) => duration(row.lag_s) },
      { label: 'Beginning', num: true, cell: (row) => count(row.beginning) },
      { label: 'Committed', word: 'committed offset', num: true, cell: (row) => count(row.committed) },
      { label: 'Cursor', word: 'cursor', num: true, cell: (row) => count(row.cursor) },
      { label: 'End', num: true, cell: (row) => count(row.end) },
      { label: 'Runs', word: 'run', num: true, cell: (row) => count(row.in_flight) },
      { label: 'State', cell: (row) => (row.stuck_s == null ? '' : stuck(row.stuck_s)) },
      { label: 'Actions', cell: (row) => el('div', { class: 'actions' },
        button('Move cursor…', { test: 'cursor' }, () => moveCursor([row])), button('Replay…', { test: 'replay' }, () => replay(row))) },
    ],
  });
  const moveAll = button('Move all cursors…', { test: 'cursor-all' }, () => rows.length && moveCursor(rows));

  function show() {
    const shown = rows.filter((row) => !only.checked || row.lag > 0);
    if (order.value === 'lag') shown.sort((a, b) => b.lag - a.lag);
    list.fill(shown, { hold: list.held() });
    list.say(...(shown.length ? [] : [el('p', {}, rows.length ? 'No partition has lag.' : 'Not known yet: mb reads the lag as soon as its broker answers.')]));
  }
  async function load() {
    if (loading) return;
    loading = true;
    last = Date.now();
    try {
      const lag = await get('lag');
      rows = lag.top;
      [total.textContent, total.title] = [short(lag.total), count(lag.total)];
      seconds.textContent = duration(lag.seconds);
      catchUp.textContent = lag.catch_up_s == null ? '–' : `~${duration(lag.catch_up_s)}`;
      error.hidden = !lag.error;
      error.replaceChildren(data(lag.error ?? ''));
      show();
    } catch (cause) {
      error.hidden = false;
      error.replaceChildren(data(cause.message));
    }
    loading = false;
  }

  load();
  return {
    title: 'Lag',
    node: el('div', {},
      el('div', { class: 'title' }, el('h1', {}, term('lag', 'Lag')), el('div', { class: 'actions' }, moveAll)),
      el('p', { class: 'lead' }, el('span', {}, total, ' records'), el('span', {}, 'oldest waiting ', seconds), el('span', {}, 'caught up in ', catchUp)),
      error, el('div', { class: 'filters' }, el('label', { class: 'check' }, only, 'Only partitions with lag'), el('label', {}, 'Order', order)), list.node),
    // Heading and rows come from one answer.
    live() {
      if (Date.now() - last >= REFRESH_MS) load();
    },
  };
}

/** Asks for the target, shows the effect, and moves the cursor after a confirmation. */
function moveCursor(rows) {
  const one = rows.length === 1 ? rows[0] : null;
  const to = el('select', { 'data-test': 'cursor-to' },
    one && el('option', { value: 'offset' }, 'an offset'), el('option', { value: 'beginning' }, 'the beginning: everything is read once more'), el('option', { value: 'end' }, 'the end: waiting records are skipped'));
  const offset = el('input', { type: 'number', step: '1', value: one?.committed ?? one?.cursor ?? 0, 'data-test': 'cursor-offset' });
  const offsetLabel = el('label', {}, 'Offset', offset);
  const plan = el('div', { role: 'status' });
  const look = el('button', { type: 'submit', 'data-test': 'cursor-dry-run' }, 'Show the effect');
  const form = el('form', { novalidate: true }, el('label', {}, 'Move to', to), one && offsetLabel, el('div', { class: 'actions' }, look));
  const box = dialog(one ? `Cursor of partition ${one.partition}` : `Cursors of ${counted(rows.length, 'partition')}`, 'cursor-dialog', form, plan);
  const change = () => {
    offsetLabel.hidden = to.value !== 'offset';
    plan.replaceChildren();
  };
  to.addEventListener('change', change);
  offset.addEventListener('input', change);
  const target = (row) => (to.value === 'offset' ? Number(offset.value) : to.value === 'end' ? row.end : row.beginning);

  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const offsets = Object.fromEntries(rows.map((row) => [row.partition, target(row)]));
    const answer = await act(look, () => post('sensor/cursor', { offsets, dry_run: true }));
    if (!answer) return;
    const callOff = button('Call off', { test: 'cursor-call-off' }, () => act(callOff, () => post('sensor/cursor/call-off')));
    const waiting = el('p', { class: 'note', hidden: true }, `Waiting up to ${WAIT_S} s for running runs of ${one ? 'the partition' : 'these partitions'}; the other partitions go on.`);
    const showWaiting = (on) => [callOff.hidden, waiting.hidden] = [!on, !on];
    const go = button('Move', { test: 'cursor-confirm', kind: 'danger' }, async () => {
      showWaiting(true);
      const moved = await act(go, () => post('sensor/cursor', { offsets, wait_s: WAIT_S }, (WAIT_S + 120) * 1000), () => 'The cursor was moved');
      showWaiting(false);
      if (moved) box.close();
    });
    showWaiting(false);
    plan.replaceChildren(el('p', {}, 'Nothing has been moved yet. The effect would be:'), planTable(answer.moves), waiting, el('div', { class: 'actions' }, go, callOff));
    go.focus();
  });
}

/** Replays a range of offsets; the cursor stays. */
function replay(row) {
  const field = (test, value) => el('input', { type: 'number', step: '1', required: true, min: row.beginning, max: row.end - 1, value, 'data-test': test });
  const from = field('replay-from', row.beginning), to = field('replay-to', Math.max(row.beginning, row.end - 1));
  const go = el('button', { type: 'submit', class: 'main acts', 'data-test': 'replay-confirm' }, 'Replay');
  const form = el('form', { novalidate: true },
    el('p', {}, 'The records from the first to the second offset, both included, are processed once more. The cursor and the committed offset do not move.'),
    el('label', {}, 'From offset', from), el('label', {}, 'To offset', to), el('div', { class: 'actions' }, go));
  const box = dialog(`Replay of partition ${row.partition}`, 'replay-dialog', form);
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const answer = await act(go, () => post('replay', { partition: row.partition, from: Number(from.value), to: Number(to.value) }));
    if (!answer) return;
    box.close();
    for (const request of answer.requests) toast(`Partition ${row.partition} will be replayed.`, 'good', el('a', { href: `/runs?request=${request}` }, 'See the new runs'));
  });
}

function planTable(moves) {
  const list = table({
    caption: 'Effect of the move', test: 'cursor-move', key: (move) => move.partition,
    columns: [
      { label: 'Partition', cell: (move) => String(move.partition) },
      { label: 'From', num: true, cell: (move) => count(move.from) },
      { label: 'To', num: true, cell: (move) => count(move.to) },
      { label: 'Effect', cell: ({ from, to }) => (to < from ? `${counted(from - to, 'offset')} read once more` : to > from ? `${counted(to - from, 'offset')} skipped` : 'nothing') },
    ],
  });
  list.fill(moves);
  return list.node;
}

/** For how long a partition has made no progress: a fault only if mb says so (--stall-after). */
export function stuck(seconds) {
  const faulty = live.overview?.verdict.reasons.some(({ reason }) => reason === 'stalled');
  return el('span', { class: faulty ? 'badge bad' : 'note' }, `no progress for ${duration(seconds)}`);
}
