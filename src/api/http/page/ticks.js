// The ticks: what each of them found, how long it took, and what ended it.

import { get } from './api.js';
import { tickStrip } from './charts.js';
import { sensorControls } from './controls.js';
import { badge, button, card, data, el, enable, oneLine, time } from './dom.js';
import { table } from './table.js';
import { clock, count, counted, duration, size, visible } from './text.js';
import { term } from './words.js';

const PAGE = 50;
const ENDED = {
  runtime: 'its runtime was over', 'queue-full': 'the queue was full', 'memory-full': 'the memory for batches was full', interrupted: 'partitions changed',
  stop: 'mb stopped', paused: 'the sensor was paused', error: 'of an error',
};
const FILTERS = [['', 'All ticks'], ['busy', 'Found records or failed'], ...Object.entries(ENDED).map(([name, words]) => [name, `Ended because ${words}`])];

const endedBy = (name) => ENDED[name] ?? visible(name);

export function tickWords(tick) {
  const found = tick.records ? `found ${counted(tick.records, 'record')}, ${counted(tick.batches, 'batch', 'batches')}` : 'found nothing';
  const error = tick.error ? `: ${visible(tick.error).slice(0, 200)}` : '';
  return `${clock(tick.started_ms)}: ${found} in ${duration(tick.run_ms / 1000)}; ended because ${endedBy(tick.ended_by)}${error}`;
}

export function ticksView({ go, query: given }) {
  let query = given, next = null, asked = 0, newest = null;
  const controls = sensorControls();
  const strip = tickStrip({ test: 'tick-strip', tickWords });
  const state = el('p', { class: 'lead', 'data-test': 'sensor-state', role: 'status' });
  const filter = el('select', { 'data-test': 'filter-ticks', on: { change: () => go(`/ticks${filter.value ? `?show=${filter.value}` : ''}`) } },
    FILTERS.map(([value, words]) => el('option', { value }, words)));
  const list = table({
    caption: 'Ticks', test: 'tick-row', key: (tick) => tick.id,
    columns: [
      { label: 'Tick', cell: (t) => String(t.id) }, { label: 'Began', cell: (t) => time(t.started_ms) },
      { label: 'Found (records)', num: true, cell: (t) => count(t.records) }, { label: 'Bytes', num: true, cell: (t) => size(t.bytes) },
      { label: 'Batches', word: 'batch', num: true, cell: (t) => count(t.batches) }, { label: 'Took', num: true, cell: (t) => duration(t.run_ms / 1000) },
      { label: 'Ended because', wide: true, cell: (t) => (t.error ? badge('failed', 'error') : endedBy(t.ended_by)) }, { label: 'Sensor', word: 'sensor', num: true, cell: (t) => String(t.sensor) },
      { label: 'Error', wide: true, cell: (t) => oneLine(t.error) },
    ],
  });
  const page = (before, state) => {
    const changed = new URLSearchParams(query);
    changed.delete('before');
    if (before) changed.set('before', before);
    go(`/ticks${changed.size ? `?${changed}` : ''}`, { state });
  };
  const newer = button('← Newer', { test: 'newer', acts: false }, () => (history.state?.paged ? history.back() : page(null)));
  const older = button('Older →', { test: 'older', acts: false }, () => page(next, { paged: true }));

  async function load(force) {
    const mine = ++asked, show = query.get('show') ?? '';
    try {
      const answer = await get('ticks', { busy: show === 'busy' ? 'true' : null, ended_by: show && show !== 'busy' ? show : null, before: query.get('before'), limit: PAGE });
      if (mine !== asked) return;
      list.fill(answer.ticks, { hold: !force && list.held() });
      next = answer.next;
      enable(newer, query.has('before'));
      enable(older, next !== null);
      if (answer.ticks.length) list.say();
      else list.say(el('p', {}, show ? 'No ticks match.' : 'No ticks yet: the first one begins once the broker answers. “Tick now” begins one at once.'));
    } catch (error) {
      if (mine === asked) list.say(el('p', { class: 'wrong' }, data(error.message)));
    }
  }
  function show() {
    filter.value = query.get('show') ?? '';
    next = null;
    enable(older, false);
    load(true);
  }

  show();
  return {
    title: 'Ticks',
    node: el('div', {},
      el('div', { class: 'title' }, el('h1', {}, term('tick', 'Ticks')), controls.node), state,
      card('Newest ticks', {}, strip.node),
      el('div', { class: 'filters' }, el('label', {}, 'Show', filter), el('span', { class: 'push' }), el('div', { class: 'pager' }, newer, older)), list.node),
    query(changed) {
      query = changed;
      show();
    },
    live(overview) {
      controls.live(overview);
      strip.draw(overview.ticks, overview.now_ms);
      const { sensors, tick_runtime_s: runtime, paused } = overview.sensor;
      const words = paused ? 'The sensor is paused: no tick begins by itself.'
        : `${counted(sensors, 'sensor')}; each tick reads for ${duration(runtime)}, and the next one begins ${duration(overview.settings.tick_interval_s.value)} later.`;
      if (state.textContent !== words) state.textContent = words;
      const top = overview.ticks[0]?.id ?? null;
      if (top !== newest && newest !== null && !query.has('before')) load(false);
      newest = top;
    },
    end() {
      asked += 1;
      strip.end();
    },
  };
}
