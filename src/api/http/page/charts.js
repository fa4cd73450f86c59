// Charts as SVG: lines over the last 15 minutes, and ticks as boxes on a time axis. Each is a slider for
// the keyboard and for screen readers: its value, in words, is that of the chosen time.

import { el } from './dom.js';
import { clock, count } from './text.js';

const SPAN_MS = 15 * 60 * 1000;
const GAP_MS = 5000;
const LEFT = 52, BOTTOM = 18, TOP = 8;

/** The smallest of 1, 2, 5 × 10^n that is not below `most`, which is 1 at least. */
function nice(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= most);
}

/** A slider around a drawing: calls `choose(index or null)` as a pointer or key moves over `length()`
 * values; `indexAt(x)` finds the one under a pointer; `words(index or null)` says it. */
function scrubber({ label, test, length, indexAt, words, choose }) {
  const node = el('div', { class: 'chart', role: 'slider', tabindex: '0', 'aria-label': label, 'aria-valuemin': '0', 'data-test': test });
  let chosen = null;
  const set = (index) => {
    chosen = index;
    choose(index);
    say();
  };
  const say = () => {
    const last = Math.max(0, length() - 1);
    node.setAttribute('aria-valuemax', last);
    node.setAttribute('aria-valuenow', chosen ?? last);
    node.setAttribute('aria-valuetext', words(chosen));
  };
  node.addEventListener('pointermove', (event) => set(indexAt(event.clientX - node.getBoundingClientRect().left)));
  node.addEventListener('pointerleave', () => set(null));
  node.addEventListener('blur', () => set(null));
  node.addEventListener('keydown', (event) => {
    const last = length() - 1;
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
    if (last < 0 || (!step && !['Home', 'End', 'Escape'].includes(event.key))) return;
    event.preventDefault();
    if (event.key === 'Escape') set(null);
    else if (event.key === 'Home') set(0);
    else if (event.key === 'End') set(last);
    else set(Math.min(last, Math.max(0, (chosen ?? last) + step)));
  });
  return {
    node,
    chosen: () => (chosen !== null && chosen < length() ? chosen : null),
    // Otherwise a screen reader would read a focused value out each second.
    refresh: () => document.activeElement !== node && say(),
  };
}

/** `lines` are `{name, css, of(sample)}`; `format` writes a value, which is in `unit`. */
export function lineChart({ title, unit, test, lines, format }) {
  const svg = el('svg', { 'aria-hidden': 'true', focusable: 'false' });
  const when = el('span', { class: 'when' });
  const values = lines.map(({ name, css }) => {
    const value = el('b', {});
    return { value, node: el('span', { class: `key ${css}` }, `${name} `, value) };
  });
  let samples = [], now = Date.now(), width = 600;
  const height = 170;
  const x = (ms) => LEFT + (width - LEFT - 4) * (1 - (now - ms) / SPAN_MS);
  const nearest = (px) => {
    let best = null;
    samples.forEach((sample, index) => {
      if (best === null || Math.abs(x(sample.at_ms) - px) < Math.abs(x(samples[best].at_ms) - px)) best = index;
    });
    return best;
  };
  const at = (index) => samples[index ?? samples.length - 1];
  const words = (index) => {
    const sample = at(index);
    if (!sample) return 'nothing yet';
    const said = lines.map(({ name, of }) => `${name} ${of(sample) == null ? 'not known' : format(of(sample))}`);
    return `${index === null ? 'now' : clock(sample.at_ms)}: ${said.join(', ')}`;
  };
  const slider = scrubber({ label: `${title} (${unit}), last 15 minutes`, test, length: () => samples.length, indexAt: nearest, words, choose: () => draw() });
  slider.node.append(svg);

  function path(of, y) {
    let out = '', last = null;
    for (const sample of samples) {
      const value = of(sample);
      if (value == null) { last = null; continue; }
      const joined = last !== null && sample.at_ms - last < GAP_MS;
      out += `${joined ? 'L' : 'M'}${x(sample.at_ms).toFixed(1)} ${y(value).toFixed(1)}`;
      last = sample.at_ms;
    }
    return out;
  }

  function draw() {
    const chosen = slider.chosen();
    const top = nice(Math.max(2, ...samples.flatMap((sample) => lines.map(({ of }) => of(sample) ?? 0))));
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - value / top);
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const grid = [0, top / 2, top].map((value) => [
      el('line', { class: 'grid', x1: LEFT, x2: width - 4, y1: y(value), y2: y(value) }),
      el('text', { x: LEFT - 6, y: y(value) + 4, 'text-anchor': 'end' }, format(value)),
    ]);
    const minutes = [15, 10, 5, 0].map((ago) =>
      el('text', { x: x(now - ago * 60_000), y: height - 3, 'text-anchor': ago === 0 ? 'end' : ago === 15 ? 'start' : 'middle' },
        ago === 0 ? 'now' : `−${ago} min`));
    const paths = lines.map(({ css, of }) => el('path', { class: `line ${css}`, d: path(of, y) }));
    const mark = chosen === null ? null : el('line', { class: 'mark', x1: x(at(chosen).at_ms), x2: x(at(chosen).at_ms), y1: TOP, y2: height - BOTTOM });
    svg.replaceChildren(...grid.flat(), ...minutes, ...paths, ...(mark ? [mark] : []));
    const sample = at(chosen);
    when.textContent = chosen === null ? 'now' : clock(sample.at_ms);
    lines.forEach(({ of }, index) => {
      const value = sample && of(sample);
      values[index].value.textContent = value == null ? '–' : format(value);
    });
    slider.refresh();
  }

  const observer = watchWidth(slider.node, (now) => {
    width = now;
    draw();
  });
  return {
    node: el('figure', {}, el('figcaption', {}, el('span', { class: 'note' }, unit), values.map(({ node }) => node), when), slider.node),
    draw(kept, nowMs) {
      samples = kept.filter(({ at_ms: at }) => at >= nowMs - SPAN_MS);
      now = nowMs;
      draw();
    },
    end: () => observer.disconnect(),
  };
}

/** Ticks as boxes: width is their duration, height what they found. `tickWords` describes one. */
export function tickStrip({ test, tickWords }) {
  const svg = el('svg', { 'aria-hidden': 'true', focusable: 'false' });
  const readout = el('p', { class: 'readout' }), scale = el('p', { class: 'note' });
  let ticks = [], now = Date.now(), width = 600;
  const height = 84, floor = height - BOTTOM;
  const start = () => Math.min(now - 30_000, ...ticks.map((tick) => tick.started_ms));
  const x = (ms) => 4 + ((width - 8) * (ms - start())) / (now - start());
  const nearest = (px) => {
    let best = null;
    ticks.forEach((tick, index) => {
      if (best === null || Math.abs(x(tick.started_ms + tick.run_ms / 2) - px) < Math.abs(x(ticks[best].started_ms + ticks[best].run_ms / 2) - px)) best = index;
    });
    return best;
  };
  const words = (index) => (ticks.length ? tickWords(ticks[index ?? ticks.length - 1]) : 'no tick yet');
  const slider = scrubber({ label: 'Newest ticks', test, length: () => ticks.length, indexAt: nearest, words, choose: () => draw() });
  slider.node.append(svg);

  function draw() {
    const most = Math.max(0, ...ticks.map((tick) => tick.records));
    const chosen = slider.chosen();
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const boxes = ticks.flatMap((tick, index) => {
      const left = x(tick.started_ms), wide = Math.max(3, x(tick.started_ms + tick.run_ms) - left - 1);
      const high = tick.error ? floor - TOP : tick.records ? 8 + (floor - TOP - 8) * (tick.records / most) : 4;
      const css = tick.error ? 'bad' : tick.records ? 'good' : 'off';
      const box = el('rect', { class: `tick ${css} ${index === chosen ? 'chosen' : ''}`, x: left, y: floor - high, width: wide, height: high, rx: 2 });
      const label = tick.batches && wide > 20 && high > 16
        && el('text', { class: 'inside', x: left + wide / 2, y: floor - high / 2 + 4, 'text-anchor': 'middle' }, String(tick.batches));
      return label ? [box, label] : [box];
    });
    svg.replaceChildren(
      el('line', { class: 'grid', x1: 4, x2: width - 4, y1: floor, y2: floor }), ...boxes,
      el('text', { x: 4, y: height - 3 }, clock(start())),
      el('text', { x: width - 4, y: height - 3, 'text-anchor': 'end' }, 'now'));
    readout.textContent = words(chosen);
    scale.textContent = `Width: time. Height: records found, at most ${count(most)}. Number: batches.`;
    scale.hidden = ticks.length === 0;
    slider.refresh();
  }

  const observer = watchWidth(slider.node, (now) => {
    width = now;
    draw();
  });
  return {
    node: el('div', {}, slider.node, readout, scale),
    /** `newest` come newest first. */
    draw(newest, nowMs) {
      ticks = newest.toReversed();
      now = nowMs;
      draw();
    },
    end: () => observer.disconnect(),
  };
}

/** Calls `changed` with a chart's width, now and whenever it changes. */
function watchWidth(node, changed) {
  const observer = new ResizeObserver(([entry]) => changed(Math.max(260, Math.round(entry.contentRect.width))));
  observer.observe(node);
  return observer;
}
