// The overview: the verdict in one line, then the figures behind it. All of it comes with each event.

import { lineChart, tickStrip } from './charts.js';
import { holdControls, sensorControls, settingsPanel } from './controls.js';
import { card, data, el, keyLink } from './dom.js';
import { live } from './live.js';
import { noRuns, runColumns } from './runs.js';
import { table } from './table.js';
import { count, counted, duration, perSecond, short, size, visible } from './text.js';
import { tickWords } from './ticks.js';
import { stuck } from './lag.js';
import { explains, term } from './words.js';

const BARS = 12;
const WORKERS = 32;

export function overviewView() {
  const answer = verdictCard();
  const tiles = tileRow();
  const flow = lineChart({
    title: 'Records in and out', unit: 'records/s', test: 'chart-rates', format: perSecond,
    lines: [{ name: 'in', css: 'in', of: (s) => s.records_arriving }, { name: 'out', css: 'out', of: (s) => s.records_done }],
  });
  const lag = lineChart({ title: 'Lag', unit: 'records', test: 'chart-lag', format: short, lines: [{ name: 'lag', css: 'lag', of: (s) => s.lag }] });
  const strip = tickStrip({ test: 'tick-strip', tickWords });
  const partitions = partitionBars();
  const workers = workerList();
  const runs = table({ caption: 'Newest runs', columns: runColumns().filter(({ brief }) => brief), key: (row) => row.id, test: 'newest-run' });
  const settings = settingsPanel();
  const node = el('div', { class: 'grid' },
    answer.node, tiles.node,
    card('In and out', { class: 'half' }, flow.node), card(term('lag', 'Lag'), { class: 'half' }, lag.node),
    card('Lag per partition', { class: 'half' }, partitions.node), card(term('worker', 'Workers'), { class: 'half' }, workers.node),
    card(term('tick', 'Ticks'), { class: 'whole' }, strip.node),
    card(['Newest ', term('run', 'runs')], { class: 'most' }, runs.node, el('p', {}, el('a', { href: '/runs' }, 'All runs'))),
    card('Settings', { class: 'rest' }, settings.node));
  return {
    title: 'Overview',
    node,
    live(overview) {
      for (const part of [answer, tiles, partitions, workers, settings]) part.live(overview);
      flow.draw(live.samples, overview.now_ms);
      lag.draw(live.samples, overview.now_ms);
      strip.draw(overview.ticks, overview.now_ms);
      runs.fill(overview.newest_runs, { hold: runs.held() });
      if (overview.newest_runs.length) runs.say();
      else runs.say(...noRuns(overview));
    },
    end() {
      for (const chart of [flow, lag, strip]) chart.end();
    },
  };
}

function verdictCard() {
  const words = el('h1', { 'data-test': 'verdict' }, '…');
  const advice = el('p', { class: 'advice', 'data-test': 'advice', hidden: true });
  const reasons = el('ul', { class: 'reasons', hidden: true });
  const controls = sensorControls();
  const hold = holdControls();
  const node = el('section', { class: 'verdict whole wait', 'aria-label': 'State' }, el('div', {}, el('p', { class: 'label' }, term('verdict', 'Verdict')), el('div', { role: 'status' }, words, advice, reasons)), hold.node, controls.node);
  let shown = '';
  return {
    node,
    live(overview) {
      const { level, state, headline, reasons: all } = overview.verdict;
      controls.live(overview);
      hold.live(overview);
      node.className = `verdict whole ${level}`;
      [words.dataset.level, words.dataset.state] = [level, state];
      set(words, visible(headline));
      set(advice, overview.verdict.advice ? visible(overview.verdict.advice) : '');
      advice.hidden = !overview.verdict.advice;
      const others = all.filter(({ detail }) => !headline.includes(detail));
      const said = others.map(({ detail }) => detail).join('\n');
      if (said === shown) return;
      shown = said;
      reasons.hidden = others.length === 0;
      reasons.replaceChildren(...others.map(({ reason, detail }) => el('li', { 'data-test': 'reason', 'data-reason': reason }, data(detail, 600))));
    },
  };
}

/** Changes the text only if it is another: a screen reader says it again at each change. */
function set(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const TILES = [
  ['in', 'In', (o) => [perSecond(o.rates.records_arriving), `arrive; ${perSecond(o.rates.records_in)} read`]],
  ['out', 'Out', (o) => [perSecond(o.rates.records_done), `done, ${size(o.rates.bytes_done)}/s`]],
  ['lag', 'Lag', (o) => [short(o.lag.total), 'records'], '/lag', 'lag'],
  ['lag-seconds', 'Oldest waiting', (o) => [duration(o.lag.seconds), o.lag.catch_up_s ? `caught up in ~${duration(o.lag.catch_up_s)}` : 'in the slowest partition']],
  ['latency', 'Latency', (o) => [duration(o.latency?.p99_s), o.latency ? `p99; p95 ${duration(o.latency.p95_s)}, p50 ${duration(o.latency.p50_s)}` : 'p99, from timestamp to processed'], null, 'latency'],
  ['queue', 'Queue', (o) => [`${count(o.queue.runs)} of ${count(o.queue.limit)}`, queueWords(o.queue)], '/runs?state=queued', 'run queue'],
  ['succeeded', 'Succeeded', (o) => [short(o.totals.runs_succeeded), 'runs since mb started'], '/runs?state=succeeded', 'run'],
  ['failed', 'Failed', (o) => [short(o.totals.runs_failed + o.totals.runs_halted), `${counted(o.totals.attempts_failed, 'failed attempt')}`], '/runs?state=failed', 'attempt'],
  ['dead-letters', 'Dead letters', (o) => [short(o.dead_letters_open), 'open'], '/dead-letters', 'dead letter'],
];

function queueWords({ waiting_retries: retries, parked, bytes, bytes_limit: limit }) {
  const parts = [`${size(bytes)} of ${size(limit)}`];
  if (retries) parts.push(`${count(retries)} waiting to retry`);
  if (parked) parts.push(`${count(parked)} behind others of their lane`);
  return parts.join(', ');
}

function tileRow() {
  const tiles = TILES.map(([test, name, read, href, word]) => {
    const value = el('b', { 'data-test': test }, '–'), note = el('span', {});
    const node = el(href ? 'a' : 'div', { class: 'tile', href: href ?? null, ...(word && href ? explains(word) : {}) },
      el('span', { class: 'name' }, word && !href ? term(word, name) : name), value, note);
    return { node, test, live: (overview) => [value.textContent, note.textContent] = read(overview) };
  });
  const fill = el('div', { class: 'fill', 'aria-hidden': 'true' }, el('i', {}));
  tiles.find(({ test }) => test === 'queue').node.append(fill);
  return {
    node: el('section', { class: 'tiles whole', 'aria-label': 'Figures' }, tiles.map((tile) => tile.node)),
    live(overview) {
      tiles.forEach((tile) => tile.live(overview));
      const { runs, limit, bytes, bytes_limit: most } = overview.queue;
      fill.firstChild.style.width = `${100 * Math.min(1, Math.max(runs / (limit || 1), bytes / (most || 1)))}%`;
    },
  };
}

function bar(part, whole, words) {
  const inner = el('i', {});
  inner.style.width = `${whole > 0 ? Math.max(part > 0 ? 1 : 0, (100 * part) / whole) : 0}%`;
  return el('div', { class: 'bar' }, el('span', {}, words), el('div', { class: 'fill', 'aria-hidden': 'true' }, inner));
}

function partitionBars() {
  let most = 1, longest = 1;
  const rows = table({
    caption: 'Lag per partition', key: (row) => row.partition, test: 'partition', stamp: () => `${most} ${longest}`,
    columns: [
      { label: 'Partition', word: 'partition', cell: (row) => String(row.partition) },
      { label: 'Lag (records)', cell: (row) => bar(row.lag, most, count(row.lag)) },
      { label: 'Oldest waiting', cell: (row) => (row.lag_s == null ? '–' : bar(row.lag_s, longest, duration(row.lag_s))) },
      { label: 'State', cell: (row) => (row.stuck_s != null ? stuck(row.stuck_s) : row.in_flight ? counted(row.in_flight, 'run') : '') },
    ],
  });
  const all = el('a', { href: '/lag' });
  return {
    node: el('div', {}, rows.node, el('p', {}, all)),
    live({ lag }) {
      const top = lag.top.slice(0, BARS);
      most = Math.max(1, ...top.map((row) => row.lag));
      longest = Math.max(1, ...top.map((row) => row.lag_s ?? 0));
      // Sorted by number, rows do not jump about. If only some of them fit, those with most lag come first.
      if (lag.partitions <= BARS) top.sort((a, b) => a.partition - b.partition);
      rows.fill(top);
      if (top.length) rows.say();
      else rows.say(el('p', {}, lag.error ? visible(lag.error) : 'Not known yet.'));
      all.textContent = lag.partitions > BARS ? `All ${count(lag.partitions)} partitions and their cursors` : 'Offsets and cursors';
    },
  };
}

function workerList() {
  const list = el('ul', { class: 'lanes' });
  const rest = el('p', { class: 'note' });
  return {
    node: el('div', {}, list, rest),
    live({ workers }) {
      const shown = workers.slice(0, WORKERS);
      list.classList.toggle('many', shown.length > BARS);
      const longest = Math.max(1, ...shown.map(({ run }) => run?.running_s ?? 0));
      list.replaceChildren(...shown.map(({ worker, run }) => {
        const lane = el('li', { class: run ? (run.stalled ? 'stalled' : 'busy') : 'idle', 'data-test': 'worker' }, el('span', { class: 'who' }, `worker ${worker}`));
        if (!run) {
          lane.append(el('span', { class: 'what' }, 'idle'));
          return lane;
        }
        const fill = el('i', { 'aria-hidden': 'true' });
        fill.style.width = `${(100 * run.running_s) / longest}%`;
        const attempt = run.attempt > 1 ? `, attempt ${run.attempt}` : '';
        lane.append(el('span', { class: 'what' }, fill, el('span', {}, keyLink(run.id, run.key), attempt, run.stalled ? ', stalled' : '')),
          el('span', { class: 'num' }, duration(run.running_s)));
        return lane;
      }));
      const busy = workers.filter(({ run }) => run).length;
      rest.textContent = `${count(busy)} of ${count(workers.length)} busy${workers.length > WORKERS ? `; the first ${WORKERS} are shown` : ''}`;
    },
  };
}
