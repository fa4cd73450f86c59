// What the page knows of mb now: the newest overview, the session, and the last 15 minutes. Views
// subscribe here.

import { call } from './api.js';
import { at } from './base.js';
import { follow } from './follow.js';

const KEPT_MS = 15 * 60 * 1000;

export const live = {
  overview: null,
  /** Since when mb has not answered, in ms; null while it answers. */
  lost: null,
  session: { read_only: false, token: false, signed_in: false },
  samples: [],
  /** mb was replaced by another version, which has another page. */
  outdated: false,
};

const listeners = new Set();

/** Calls `listener` at each change; returns a function that ends that. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function notify() {
  if (document.hidden) return;
  for (const listener of listeners) listener();
}

let before = null, loading = false;

async function loadSamples() {
  if (loading) return;
  loading = true;
  try {
    const { samples } = await call('GET', '/api/v1/series');
    const newest = samples.at(-1)?.at_ms ?? 0;
    live.samples = samples.concat(live.samples.filter((sample) => sample.at_ms > newest + 500));
    notify();
  } catch {
    // The next event after a gap retries.
  } finally {
    loading = false;
  }
}

/** The figures of an overview as a sample, as in mb's own series. */
function sample({ now_ms, rates, lag, queue, workers }) {
  const { records_arriving, records_in, records_done, bytes_in } = rates;
  const running = workers.filter((worker) => worker.run).length;
  return { at_ms: now_ms, records_arriving, records_in, records_done, bytes_in, lag: lag.total, queued: queue.runs, running };
}

function take(overview) {
  const gap = before && overview.now_ms - before.now_ms;
  if (before === null || before.started_ms !== overview.started_ms || gap > 3000 || gap < 0) {
    if (before && before.version !== overview.version) live.outdated = true;
    loadSamples();
  } else if (gap < 500) {
    live.overview = overview; // a sample each second is enough
    live.lost = null;
    return;
  } else {
    live.samples.push(sample(overview));
    const oldest = overview.now_ms - KEPT_MS;
    while (live.samples.length && live.samples[0].at_ms < oldest) live.samples.shift();
  }
  before = overview;
  live.overview = overview;
  live.lost = null;
}

function handle(message) {
  if (message.overview) {
    take(JSON.parse(message.overview));
  } else {
    // The connection may have ended because the session expired: this call finds out.
    if (live.lost === null) loadSession();
    live.lost = message.lost;
  }
  notify();
}

async function loadSession() {
  try {
    live.session = await call('GET', '/api/v1/session');
    notify();
  } catch {
    // mb does not answer, which the page shows already.
  }
}

/** Begins to follow mb. */
export function begin() {
  loadSession();
  document.addEventListener('visibilitychange', notify);
  let worker;
  try {
    worker = new SharedWorker(at('/assets/follow-worker.js'), { type: 'module', name: 'mb' });
  } catch {
    follow(handle);
    return;
  }
  worker.addEventListener('error', () => follow(handle), { once: true });
  worker.port.addEventListener('message', ({ data }) => handle(data));
  worker.port.start();
  worker.port.postMessage('hello');
  addEventListener('pagehide', () => worker.port.postMessage('bye'));
  addEventListener('pageshow', ({ persisted }) => persisted && worker.port.postMessage('hello'));
}
