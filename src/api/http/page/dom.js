// Makes elements. Content from outside becomes text here, never markup.

import { at } from './base.js';
import { live } from './live.js';
import { brief, count, cut, moment, utc, visible } from './text.js';

/** An element: `on` holds listeners, other properties are attributes (null and false are left out). `href` is an
 * address of the page. */
export function el(tag, properties = {}, ...children) {
  const svg = ['svg', 'path', 'line', 'rect', 'text', 'g'].includes(tag);
  const node = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === 'on') for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    else if (name === 'href' && value != null) node.setAttribute(name, at(value));
    else if (value === true) node.setAttribute(name, '');
    else if (value != null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** Foreign text on one line, isolated so that its writing direction does not affect what is around it. */
export function data(text, most) {
  return el('bdi', { class: 'data' }, brief(text ?? '', most));
}

/** A run's key on one line; if it must break, it does so behind a slash. A long topic is cut, the offsets are not. */
export function runKey(key) {
  const at = key.lastIndexOf('/', key.lastIndexOf('/') - 1);
  const topic = key.slice(0, at), [partition, range] = key.slice(at + 1).split('/');
  return el('bdi', { class: 'key-text', title: brief(key, 1000) },
    el('span', { class: 'key-topic' }, visible(topic)), '/', el('wbr'), el('span', {}, `${visible(partition)}/`), el('wbr'), el('span', {}, visible(range ?? '')));
}

/** Foreign text cut to fit a cell; hovering shows more of it. */
export function oneLine(text) {
  return text == null ? '' : el('bdi', { class: 'data line', title: brief(text, 1000) }, brief(text, 300));
}

export function time(ms) {
  return ms == null ? '–' : el('time', { datetime: iso(ms), title: utc(ms) }, moment(ms));
}

function iso(ms) {
  const at = new Date(ms);
  return Number.isNaN(at.getTime()) ? null : at.toISOString();
}

const SHOWN_FIRST = 2000;
const SHOWN_MORE = 200_000; // more at once would make the browser hang

/** Foreign text with its lines, cut if it is long, with a button for the rest. */
export function long(text, name, first = SHOWN_FIRST) {
  const pre = el('pre', { class: 'data', tabindex: '0', role: 'group', 'aria-label': name });
  const more = el('button', { type: 'button', class: 'plain', 'data-test': 'show-all' });
  const box = el('div', { class: 'long' }, pre, more);
  let shown = '';
  const show = (most) => {
    shown = text.length > most ? cut(text, most) : text;
    pre.textContent = visible(shown, true);
    const left = text.length - shown.length;
    more.hidden = left === 0;
    more.textContent = left <= SHOWN_MORE ? `Show all (${count(text.length)} characters)`
      : `Show ${count(SHOWN_MORE)} more of ${count(text.length)} characters`;
  };
  more.addEventListener('click', () => {
    show(shown.length + SHOWN_MORE);
    pre.focus();
  });
  show(first);
  return box;
}

const STATES = {
  queued: 'wait', running: 'run', succeeded: 'good', failed: 'bad', halted: 'bad', voided: 'off', split: 'off',
  open: 'bad', redriving: 'run', redriven: 'good', discarded: 'off', edited: 'run', done: 'good', cancelled: 'off',
};

export function badge(state, words = state) {
  return el('span', { class: `badge ${STATES[state] ?? 'off'}` }, visible(words));
}

/** The link to a run whose words are its key. */
export const keyLink = (id, key) => el('a', { href: `/runs/${id}` }, runKey(key));

export function runLink(id, words = `run ${id}`) {
  return el('a', { href: `/runs/${id}` }, words);
}

/** A section with its heading. */
export function card(title, properties, ...children) {
  return el('section', { ...properties, class: `card ${properties.class ?? ''}` }, el('h2', {}, title), children);
}

/** A button; `acts` if it changes something, so that it is disabled if mb is read-only. */
export function button(words, { test, acts = true, kind = '', ...rest }, click) {
  const node = el('button', { type: 'button', class: `${kind} ${acts ? 'acts' : ''}`.trim(), 'data-test': test, on: { click }, ...rest }, words);
  enable(node, true);
  return node;
}

const READ_ONLY = 'mb was started with --read-only: the page shows and changes nothing';

/** Enables a button unless mb is read-only; `why` is shown while it is disabled. */
export function enable(node, enabled, why) {
  const refused = node.classList.contains('acts') && live.session.read_only;
  node.disabled = refused || !enabled;
  if (refused) node.title = READ_ONLY;
  else if (!enabled && why) node.title = why;
  else node.removeAttribute('title');
}

/** Shows a message for a while at the edge of the page; errors stay until they are closed. */
export function toast(words, kind = 'good', link = null) {
  const close = el('button', { type: 'button', class: 'plain', 'aria-label': 'Close', on: { click: () => node.remove() } }, '×');
  const node = el('div', { class: `toast ${kind}`, role: kind === 'bad' ? 'alert' : 'status', 'data-test': `toast-${kind}` },
    el('p', {}, brief(words, 1000), link && ' ', link), close);
  const box = document.getElementById('toasts');
  // While a dialog is open, everything outside of it is inert.
  (document.querySelector('dialog[open]') ?? document.body).append(box);
  box.append(node);
  while (box.children.length > 5) box.firstChild.remove();
  if (kind !== 'bad') setTimeout(() => node.remove(), 6000);
}

/** Does `action` while its button waits, and says what came of it: `said(answer)` is words, or
 * words and a link. The answer, or undefined after an error. */
export async function act(node, action, said) {
  node.disabled = true;
  try {
    const answer = await action();
    const [words, link] = [said?.(answer)].flat();
    if (words) toast(words, 'good', link);
    return answer ?? true;
  } catch (error) {
    toast(error.message, 'bad');
    return undefined;
  } finally {
    enable(node, true);
  }
}

/** Opens a dialog with its heading and a button to close it; returns the dialog. */
export function dialog(title, test, ...children) {
  const close = el('button', { type: 'button', class: 'plain', 'aria-label': 'Close', on: { click: () => node.close() } }, '×');
  const heading = el('h2', { id: 'dialog-title' }, title);
  const node = el('dialog', { 'aria-labelledby': 'dialog-title', 'data-test': test }, el('div', { class: 'head' }, heading, close), children);
  const opener = document.activeElement;
  node.addEventListener('close', () => {
    document.body.append(document.getElementById('toasts'));
    node.remove();
    if (opener?.isConnected) opener.focus();
  });
  document.body.append(node);
  node.showModal();
  return node;
}
