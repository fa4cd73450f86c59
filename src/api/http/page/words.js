// mb's words: one text for each, which the page shows where the word stands (on hover and on focus), reads
// out with it, and lists under Help. docs/README.md has the same texts.

import { el } from './dom.js';
import { TEXTS } from './glossary.js';

const slug = (word) => word.replaceAll(' ', '-');

/** What makes an element that can have the focus explain a word. */
export const explains = (word) => ({ 'data-word': word, 'aria-describedby': `explained-${slug(word)}` });

/** A word with its explanation, as a link to its place in the list. */
export function term(word, label = word) {
  return el('a', { class: 'term', href: `/help#${slug(word)}`, ...explains(word) }, label);
}

/** A text in which the word is a term. */
export function withTerm(text, word) {
  const from = text.toLowerCase().indexOf(word), to = from + word.length;
  return [text.slice(0, from), term(word, text.slice(from, to)), text.slice(to)];
}

/** A text whose flags do not break. */
const prose = (text) => text.split(/(--[a-z-]+)/).map((part) => (part.startsWith('--') ? el('code', {}, part) : part));

/** All words, with a place for each that a link can point to. */
export function wordList() {
  return el('dl', { class: 'words' }, Object.entries(TEXTS).map(([word, text]) =>
    el('div', { id: slug(word), tabindex: '-1', 'data-test': 'word' }, el('dt', {}, word), el('dd', {}, prose(text)))));
}

const HIDE_MS = 150; // the pointer may go from the word to its explanation

/** From now on, words on the page explain themselves. */
export function explainWords() {
  // What a screen reader reads out with a word; the box is for the eyes.
  const texts = el('div', { hidden: true }, Object.entries(TEXTS).map(([word, text]) => el('p', { id: `explained-${slug(word)}` }, text)));
  const tip = el('div', { class: 'tip', popover: 'manual', 'aria-hidden': 'true', 'data-test': 'tip' });
  document.body.append(texts);
  if (!tip.showPopover) return; // an older browser: the list under Help has the texts
  document.body.append(tip);
  let shown = null, timer;

  function show(node) {
    clearTimeout(timer);
    if (shown === node) return;
    shown = node;
    tip.replaceChildren(el('b', {}, node.dataset.word), ' ', ...prose(TEXTS[node.dataset.word]));
    if (!tip.matches(':popover-open')) tip.showPopover();
    place(node);
  }
  function place(node) {
    const at = node.getBoundingClientRect(), { width, height } = tip.getBoundingClientRect();
    const below = at.bottom + 6 + height <= innerHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - width - 8))}px`;
    tip.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - height - 6)}px`;
  }
  function hide() {
    clearTimeout(timer);
    if (shown) tip.hidePopover();
    shown = null;
  }
  document.addEventListener('pointerover', ({ target, pointerType }) => {
    const node = target.closest?.('[data-word]');
    if (node && pointerType !== 'touch') show(node);
    else if (tip.contains(target)) clearTimeout(timer);
    else if (shown && shown !== document.activeElement) {
      clearTimeout(timer);
      timer = setTimeout(hide, HIDE_MS);
    }
  });
  document.addEventListener('focusin', ({ target }) => {
    const node = target.closest?.('[data-word]');
    if (node?.matches(':focus-visible')) show(node);
    else hide();
  });
  document.addEventListener('focusout', hide);
  document.addEventListener('keydown', ({ key }) => key === 'Escape' && hide());
  document.addEventListener('click', hide);
  // A word that gets the focus is scrolled into view, with its explanation.
  addEventListener('scroll', () => shown && place(shown), { capture: true, passive: true });
}
