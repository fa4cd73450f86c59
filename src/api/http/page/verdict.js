// The verdict in one line: whether mb keeps up, and if not, why. Takes an overview, returns words.

import { count, counted, duration, visible } from './text.js';

/** `{level: good|warn|bad|wait, words, brief, reasons}`; `brief` fits a browser's tab. */
export function verdict(overview) {
  const { lag, sensor, health, freshness, waiting_for: waiting } = overview;
  const reasons = health.reasons.map(({ reason, detail }) => ({ reason, detail: visible(detail) }));
  const because = (name) => reasons.find(({ reason }) => reason === name)?.detail;
  const made = (level, words, brief, said) => ({
    level, words, brief, reasons: reasons.filter(({ detail }) => detail !== said),
  });
  if (waiting) return made('wait', `Waiting for ${visible(waiting)}`, 'waiting');
  const causes = [['held', 'Holding', 'holding'], ['stalled', 'Stalled', 'stalled'], ['broker', 'The broker does not answer', 'no broker'], ['disk', 'Cannot write', 'disk'], ['offsets', 'Offsets were moved', 'offsets moved'], ['step', 'The step fails', 'step fails']];
  for (const [name, words, brief] of causes) {
    const detail = because(name);
    if (detail) return made('bad', `${words}: ${detail}`, brief, detail);
  }
  if (sensor.paused) {
    const behind = lag.total ? `, ${counted(lag.total, 'record')} behind` : '';
    return made('warn', `Paused${behind}: no tick begins by itself`, 'paused');
  }
  if (because('starting')) return made('wait', `Starting: ${because('starting')}`, 'starting', because('starting'));
  if (lag.total == null) return made('wait', `The lag is not known${lag.error ? `: ${visible(lag.error)}` : ' yet'}`, 'lag not known');
  if (overview.totals.records_in === 0 && lag.total === 0 && overview.newest_runs.length === 0) {
    return made('good', 'Ready: no records yet', 'ready');
  }
  const late = freshness && !freshness.fresh;
  if (!late && keepsUp(overview)) {
    return made('good', lag.total === 0 ? 'Keeping up: everything is processed' : `Keeping up: ${counted(lag.total, 'record')} in progress`, 'keeping up');
  }
  const end = lag.catch_up_s == null ? ', and not catching up' : `, caught up in ~${duration(lag.catch_up_s)}`;
  const old = late ? ` Not fresh: the oldest record has waited for ${duration(freshness.age_s)}, the limit is ${duration(freshness.policy_s)}.` : '';
  const level = late || lag.catch_up_s == null ? 'bad' : 'warn';
  return made(level, `Behind by ${counted(lag.total, 'record')}${end}.${old}`, `behind ${count(lag.total)}`, because('freshness'));
}

/** Whether no record has waited for longer than a few ticks take. */
export function keepsUp({ lag, sensor, settings }) {
  if (lag.total === 0) return true;
  const usual = 3 * (sensor.tick_runtime_s + settings.tick_interval_s.value) + 5;
  return lag.seconds != null && lag.seconds <= usual;
}
