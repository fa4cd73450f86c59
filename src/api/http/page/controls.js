// The sensor's controls (pause, resume, tick now, preview a tick), and the settings of a running mb.

import { patch, post } from './api.js';
import { act, button, data, dialog, el, enable, toast } from './dom.js';
import { live } from './live.js';
import { recordList } from './records.js';
import { count, counted, duration, size } from './text.js';
import { withTerm } from './words.js';

/** The buttons that control the sensor; `live(overview)` updates them. */
export function sensorControls() {
  const pause = button('Pause', { test: 'pause', kind: 'main' }, async () => {
    const paused = live.overview?.sensor.paused;
    if (await act(pause, () => post(`sensor/${paused ? 'resume' : 'pause'}`), () => (paused ? 'Resumed: ticks begin by themselves again' : 'Paused: queued runs are still processed'))) show(!paused);
  });
  const tick = button('Tick now', { test: 'tick' }, () => act(tick, () => post('sensor/tick'), () => 'A tick begins now'));
  const preview = button('Preview a tick', { test: 'preview', acts: false }, async () => {
    preview.textContent = 'Reading…';
    const answer = await act(preview, () => post('sensor/preview'));
    preview.textContent = 'Preview a tick';
    if (answer) showPreview(answer);
  });
  const show = (paused) => {
    pause.textContent = paused ? 'Resume' : 'Pause';
    pause.dataset.test = paused ? 'resume' : 'pause';
  };
  return { node: el('div', { class: 'actions' }, pause, tick, preview), live: (overview) => !pause.disabled && show(overview.sensor.paused) };
}

/** What a person can do about a hold, shown while there is one; `live(overview)` updates it. */
export function holdControls() {
  const retry = button('Try the step now', { test: 'retry-now', kind: 'main' }, () => act(retry, () => post('hold/retry-now'), ({ tried }) => tried ? 'The step is tried now' : 'Nothing is held: the step works'));
  const giveUp = button('Give up…', { test: 'give-up' }, () => {
    const runs = live.overview?.hold?.runs ?? 0;
    const go = button('Give up', { test: 'give-up-confirm', kind: 'danger' }, async () => {
      if (await act(go, () => post('hold/give-up'), ({ runs: ended }) => [`${counted(ended, 'run')} given up on`, el('a', { href: '/dead-letters' }, 'See them')])) ask.close();
    });
    const ask = dialog('Give up on the runs that wait?', 'give-up-dialog',
      el('p', {}, `The records of ${counted(runs, 'run')} that failed become dead letters, and their offsets are committed. Runs that were not tried stay.`), go);
  });
  const node = el('div', { class: 'actions', hidden: true }, retry, giveUp);
  return { node, live: ({ hold }) => { node.hidden = !hold; } };
}

function showPreview({ partitions, more, took_ms: took }) {
  const records = partitions.reduce((sum, { records }) => sum + records, 0);
  const batches = partitions.reduce((sum, { batches }) => sum + batches, 0);
  const found = records === 0 ? 'A tick would find nothing now.'
    : `A tick would read ${more ? 'at least ' : ''}${counted(records, 'record')} in ${counted(batches, 'batch', 'batches')}.`;
  dialog('Preview of a tick', 'preview-dialog',
    el('p', {}, `${found} Nothing was queued. The preview took ${duration(took / 1000)}.`),
    partitions.map((part) => el('details', { open: part.records > 0 && partitions.length <= 3 },
      el('summary', {}, `Partition ${part.partition}: ${counted(part.records, 'record')}, ${size(part.bytes)}, offsets ${count(part.cursor)} to ${count(part.next)}`),
      part.error ? el('p', { class: 'wrong' }, data(part.error, 600)) : null, part.first.length ? recordList(part.first) : el('p', {}, 'No records.'))));
}

const SETTINGS = [
  { name: 'rate', test: 'set-rate', label: 'Produce rate (messages/s)', hint: '0: no limit', step: 'any' },
  { name: 'max_batch', test: 'set-max-batch', label: 'Maximum batch size (records)', word: 'batch', step: '1' },
  { name: 'max_concurrent_runs', test: 'set-max-concurrent-runs', label: 'Maximum concurrent runs', word: 'run', step: '1' },
  { name: 'max_wait_s', test: 'set-max-wait', label: 'Maximum wait for a full batch (seconds)', word: 'batch', step: 'any' },
  { name: 'tick_interval_s', test: 'set-tick-interval', label: 'Tick interval (seconds)', word: 'tick', step: 'any' },
];

/** The settings that can be changed while mb runs. */
export function settingsPanel() {
  const fields = SETTINGS.map(settingField);
  const node = el('div', { class: 'settings' }, fields.map((field) => field.node));
  return { node, live: (overview) => fields.forEach((field) => field.live(overview.settings)) };
}

function settingField({ name, test, label, word, hint, step }) {
  const input = el('input', { type: 'number', step, min: '0', inputmode: 'decimal', 'data-test': test, 'aria-describedby': `${test}-note` });
  const set = el('button', { type: 'submit', class: 'acts', 'data-test': `${test}-apply` }, 'Set');
  const note = el('p', { class: 'note', id: `${test}-note`, 'data-test': `${test}-note`, role: 'status' });
  const form = el('form', { novalidate: true, on: { submit } }, el('label', {}, el('span', {}, word ? withTerm(label, word) : label), input), set, note);
  let now = null, edited = false, error = false;

  async function submit(event) {
    event.preventDefault();
    const value = input.value.trim() === '' ? NaN : Number(input.value);
    if (!Number.isFinite(value)) return refuse('expected a number');
    if (live.session.read_only) return undefined;
    set.disabled = true;
    try {
      const settings = await patch('settings', { [name]: value });
      edited = error = false;
      toast(`${label}: ${value}`);
      show(settings);
    } catch (cause) {
      refuse(cause.message);
    }
    set.disabled = false;
    return undefined;
  }
  function refuse(words) {
    error = true;
    form.classList.add('wrong');
    input.setAttribute('aria-invalid', 'true');
    note.replaceChildren(data(words));
  }
  function show(settings) {
    now = settings[name];
    form.hidden = now == null; // without a producer of its own, mb has no rate
    if (now == null) return;
    if (!edited && document.activeElement !== input) input.value = now.value;
    enable(set, Number(input.value) !== now.value, 'The setting has this value');
    if (error) return;
    form.classList.remove('wrong');
    input.removeAttribute('aria-invalid');
    const changed = now.value !== now.start_value;
    form.classList.toggle('changed', changed);
    const words = changed ? `changed from ${now.start_value}` : hint ?? '';
    if (note.textContent !== words) note.textContent = words;
  }
  input.addEventListener('input', () => {
    edited = now === null || Number(input.value) !== now.value;
    error = false;
    if (live.overview) show(live.overview.settings);
  });
  return { node: form, live: show };
}

