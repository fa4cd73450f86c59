// Follows mb's events over one connection, which it opens anew whenever it ends. Runs in the page, or
// in the worker that all pages of a browser share, so it must not touch the document.

import { at } from './base.js';

const SILENCE_MS = 5000; // mb sends an event each second
const RETRY_MS = 2000;

/** Calls `report` with `{overview: text}` for each event and `{lost: ms}` while mb does not answer. */
export function follow(report) {
  let source = null, last = 0, lost = null;
  const lose = () => {
    lost ??= Date.now();
    report({ lost });
  };
  const open = () => {
    source?.close();
    last = Date.now();
    source = new EventSource(at('/api/v1/events'));
    source.addEventListener('overview', (event) => {
      last = Date.now();
      lost = null;
      report({ overview: event.data });
    });
    source.addEventListener('error', lose);
  };
  // An EventSource gives up after some errors. If its connection vanishes without being closed (the laptop
  // slept), it waits for ever, and the page would show an old state as the present one.
  setInterval(() => {
    if (Date.now() - last < (lost === null ? SILENCE_MS : RETRY_MS)) return;
    lose();
    open();
  }, 1000);
  open();
}
