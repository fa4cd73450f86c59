// One run: its state, its time line, its attempts with their output, and its records: those that failed first, with
// their errors; the others, read from the log once more, behind a fold.

import { get } from './api.js';
import { act, badge, button, card, data, el, long, runKey, runLink, time } from './dom.js';
import { live } from './live.js';
import { failedList, recordList } from './records.js';
import { cancelRun, cancelWords, isWaiting, runAgain } from './runs.js';
import { count, counted, duration, size, visible } from './text.js';
import { term } from './words.js';

const OUTPUT_SHOWN = 8000; // the last characters of what a command has printed so far

export function runView({ id }) {
  const head = el('div', {}), body = el('div', { class: 'grid' });
  const records = card('Records', { class: 'whole' }, el('p', {}, 'Reading the records from the log…'));
  const again = button('Run again', { test: 'again' }, () => runAgain(again, id));
  const cancel = button('Cancel', { test: 'cancel' }, async () => {
    await act(cancel, () => cancelRun(id), (answer) => `Run ${id} ${cancelWords(answer)}`);
    load();
  });
  const printed = el('pre', { class: 'data', tabindex: '0', role: 'group', 'aria-label': 'Output so far', 'data-test': 'output' });
  const output = card('Output so far', { class: 'whole' }, printed);
  again.hidden = cancel.hidden = true;
  let run = null, sign = '', loading = false, ended = false, failed = false, waited = false, asked = 0;

  async function load() {
    if (loading) return;
    loading = true;
    try {
      run = await get(`runs/${id}`);
      if (!ended) show();
      failed = false;
      // What has failed is known once the run has ended.
      if (isWaiting(run)) waited = true;
      else if (waited) {
        waited = false;
        loadRecords();
      }
    } catch (error) {
      failed = error.status !== 404;
      if (!ended && !run) head.replaceChildren(el('p', { class: 'wrong', 'data-test': 'error' }, data(error.message)), el('a', { href: '/runs' }, 'All runs'));
    }
    loading = false;
  }
  function show() {
    // The overview may be older than the run's row.
    const busy = isWaiting(run) ? live.overview?.workers.find((worker) => worker.run?.id === id)?.run : undefined;
    const state = run.state === 'queued' && busy ? 'running' : run.state;
    again.hidden = isWaiting(run);
    cancel.hidden = !isWaiting(run);
    const now = JSON.stringify(run) + state + (isWaiting(run) ? Math.floor(Date.now() / 1000) : '');
    if (now === sign) return;
    sign = now;
    head.replaceChildren(
      el('p', { class: 'badges', 'data-test': 'run-state', 'data-state': state }, badge(state), ' ',
        facts(run), run.dead_letters ? el('a', { href: '/dead-letters', 'data-test': 'run-dead-letters' }, counted(run.dead_letters, 'dead letter')) : null,
        run.parent ? el('span', {}, 'split from ', runLink(run.parent)) : null,
        state === 'split' ? el('span', {}, 'Split: smaller runs have its records.') : null),
      run.error ? el('div', { class: 'error-box', 'data-test': 'run-error' }, el('h2', {}, 'Error'), long(run.error, 'Error')) : '');
    const shownOutput = busy && run.output ? visible(run.output.slice(-OUTPUT_SHOWN), true) : null;
    const follows = printed.scrollHeight - printed.scrollTop - printed.clientHeight < 30;
    const scrolled = printed.scrollTop;
    if (shownOutput !== null) printed.textContent = shownOutput;
    body.replaceChildren(card('Time line', { class: 'whole' }, timeLine(run, busy)), shownOutput === null ? '' : output, attempts(run, busy), records);
    printed.scrollTop = follows ? printed.scrollHeight : scrolled;
  }
  async function loadRecords() {
    const mine = ++asked;
    let answer;
    try {
      answer = await get(`runs/${id}/records`);
    } catch (error) {
      answer = { failed: [], failed_of: 0, records: [], of: 0, note: error.message };
    }
    if (mine !== asked) return;
    const { failed: bad, failed_of: badOf, records: list, of, note } = answer;
    const others = `${count(list.length)} of ${counted(Math.max(of - badOf, list.length), bad.length ? 'other record' : 'record')}`;
    records.replaceChildren(el('h2', {}, 'Records'),
      note ? el('p', { class: 'note', 'data-test': 'records-note' }, data(note, 600)) : '',
      bad.length ? el('p', { class: 'note' }, `${counted(badOf, 'record')} failed${bad.length < badOf ? `; the first ${count(bad.length)}:` : ':'}`) : '',
      bad.length ? failedList(bad) : '',
      list.length ? el('details', { 'data-test': 'other-records', open: !bad.length && list.length <= 3 }, el('summary', {}, others), recordList(list)) : '');
    records.dataset.loaded = 'true';
  }

  load();
  loadRecords();
  return {
    title: `Run ${id}`,
    node: el('div', { 'data-test': 'run-view' },
      el('div', { class: 'title' }, el('h1', {}, el('a', { href: '/runs' }, 'Runs'), ` / ${id}`), el('div', { class: 'actions' }, again, cancel)), head, body),
    live: () => (run === null ? failed : isWaiting(run)) && load(),
    end() {
      ended = true;
    },
  };
}

function facts(run) {
  const words = [
    runKey(run.key), counted(run.records, 'record'), size(run.bytes), counted(run.attempts, 'attempt'),
    run.worker == null ? null : `worker ${run.worker}`,
    run.read_ms == null ? null : `read in ${duration(run.read_ms / 1000)}`, run.wait_ms == null ? null : `waited ${duration(run.wait_ms / 1000)}`,
    run.run_ms == null ? null : `ran ${duration(run.run_ms / 1000)}`,
  ];
  return words.filter((word) => word !== null).map((word) => el('span', {}, word));
}

/** The parts of a run's life: `{css, from, to, words}`. */
function parts(run, busy) {
  const tries = run.failed_attempts.map((attempt) => ({ css: 'bad', from: attempt.started_ms, to: attempt.started_ms + attempt.run_ms, words: `attempt ${attempt.number} failed` }));
  if (busy) tries.push({ css: 'run', from: Date.now() - busy.running_s * 1000, to: Date.now(), words: `attempt ${busy.attempt} is running` });
  else if (run.state === 'succeeded' && run.started_ms != null) {
    tries.push({ css: 'good', from: run.started_ms, to: run.started_ms + (run.run_ms ?? 0), words: 'ran' });
  }
  const all = [];
  let at = run.queued_ms;
  const wait = (to) => to > at && all.push({ css: 'wait', from: at, to, words: all.length ? 'waited for the next attempt' : 'waited' });
  for (const part of tries) {
    wait(part.from);
    all.push(part);
    at = part.to;
  }
  if (isWaiting(run) && !busy) wait(Date.now());
  return all;
}

function timeLine(run, busy) {
  const all = parts(run, busy);
  const from = run.queued_ms, whole = Math.max(1, (all.at(-1)?.to ?? from) - from);
  const track = el('div', { class: 'track', 'aria-hidden': 'true' }, all.map(({ css, from: start, to }) => {
    const piece = el('i', { class: css });
    piece.style.left = `${(100 * (start - from)) / whole}%`;
    piece.style.width = `${Math.max(0.4, (100 * (to - start)) / whole)}%`;
    return piece;
  }));
  return el('div', {}, track, el('ol', { class: 'legend' },
    el('li', { class: 'wait' }, 'queued at ', time(run.queued_ms)),
    all.map(({ css, from: start, to, words }) => el('li', { class: css }, `${words} ${duration((to - start) / 1000)}`)),
    run.ended_ms == null ? null : el('li', {}, 'ended at ', time(run.ended_ms))));
}

function attempts(run, busy) {
  const failed = run.failed_attempts;
  const entry = (title, css, started, output, error) => el('article', { class: `attempt ${css}`, 'data-test': 'attempt' },
    el('h3', {}, title, started == null ? null : [' ', time(started)]), error ? long(error, `Error of ${title}`, 300) : null,
    output ? el('div', {}, el('h4', {}, 'Output'), streams(output, title)) : el('p', { class: 'note' }, 'No output.'));
  const list = failed.map((attempt) => entry(`Attempt ${attempt.number}: failed after ${duration(attempt.run_ms / 1000)}, worker ${attempt.worker}`, 'bad', attempt.started_ms, attempt.output, attempt.error));
  if (busy) list.push(el('p', {}, `Attempt ${busy.attempt} has been running for ${duration(busy.running_s)}${busy.stalled ? ', stalled' : ''}.`));
  else if (run.state === 'succeeded') list.push(entry(`Attempt ${run.attempts || 1}: succeeded`, 'good', run.started_ms, run.output));
  if (list.length === 0) list.push(el('p', { class: 'note' }, run.output ? '' : 'None yet.'), run.output ? streams(run.output, 'the run') : '');
  return card(term('attempt', 'Attempts'), { class: 'whole' }, list);
}

/** A step's output: mb keeps stdout, then stderr under a line of its own. */
function streams(output, of) {
  const mark = '[stderr]\n';
  const at = output.startsWith(mark) ? 0 : output.indexOf(`\n${mark}`) + 1;
  if (!at && !output.startsWith(mark)) return long(output, `Output of ${of}`);
  const out = output.slice(0, at), err = output.slice(at + mark.length);
  return el('div', {}, out ? [el('h5', {}, 'stdout'), long(out, `stdout of ${of}`)] : null, el('h5', {}, 'stderr'), long(err, `stderr of ${of}`));
}
