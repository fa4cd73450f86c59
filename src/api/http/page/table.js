// Tables whose rows stay in place while their content changes, and which turn into cards on narrow screens.

import { el } from './dom.js';
import { explains, term } from './words.js';

/** `columns` are `{label, cell(row), word?, sort?, num?, head?}`; `word` is the one that the label needs explained; `key(row)` is a row's identity; `stamp(row)`
 * changes if a row must be drawn anew although it is the same. */
export function table({ caption, columns, key, stamp = () => '', test, sorted, onSort }) {
  // The roles are a table's own, but browsers drop them when the rows are shown as cards.
  const body = el('tbody', { role: 'rowgroup' });
  const heads = columns.map((column) => head(column, sorted, onSort));
  const empty = el('div', { class: 'empty', hidden: true });
  const box = el('div', { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': caption },
    el('table', { role: 'table' },
      el('caption', { class: 'hidden' }, caption),
      el('thead', { role: 'rowgroup', class: columns.some(({ sort, head }) => (sort && onSort) || head) ? null : 'fixed' }, el('tr', { role: 'row' }, heads)),
      body));
  const kept = new Map();
  const heading = columns[0].head ? 1 : 0; // a checkbox is no name for a row

  const draw = (row) => {
    const cells = columns.map(({ label, cell, num, wide }, index) =>
      el(index === heading ? 'th' : 'td', {
        role: index === heading ? 'rowheader' : 'cell', scope: index === heading ? 'row' : null, 'data-label': label,
        class: [num && 'num', wide && 'wide'].filter(Boolean).join(' ') || null,
      }, cell(row)));
    return el('tr', { role: 'row', 'data-test': test, 'data-id': key(row) }, cells);
  };

  const fresh = (row, force) => {
    const id = key(row), sign = JSON.stringify(row) + stamp(row);
    const old = kept.get(id);
    if (old?.sign === sign && !force) return old.node;
    const node = draw(row);
    if (old) replace(old.node, node);
    kept.set(id, { node, sign });
    return node;
  };

  return {
    node: el('div', {}, box, empty),
    body,
    heads,
    /** Somebody points at a row or has focused it: it must not move. */
    held: () => body.matches(':hover') || body.querySelector(':focus-visible') !== null,
    /** Shows these rows; with `hold`, updates only those that are shown already. */
    fill(rows, { hold = false, force = false } = {}) {
      if (hold && kept.size > 0) {
        for (const row of rows) if (kept.has(key(row))) fresh(row, force);
        return;
      }
      const ids = new Set(rows.map(key));
      for (const [id, { node }] of kept) if (!ids.has(id)) { node.remove(); kept.delete(id); }
      rows.forEach((row, index) => {
        const node = fresh(row, force);
        if (body.children[index] !== node) body.insertBefore(node, body.children[index] ?? null);
      });
    },
    /** Shows words in place of the rows; without words, the rows. */
    say(...content) {
      empty.replaceChildren(...content.filter(Boolean));
      empty.hidden = empty.childNodes.length === 0;
      box.hidden = !empty.hidden;
    },
  };
}

function head({ label, word, head: content, sort, num }, sorted, onSort) {
  const properties = { role: 'columnheader', scope: 'col', class: num ? 'num' : null };
  if (!sort || !onSort) return el('th', { ...properties, class: `${properties.class ?? ''} fixed` }, content ?? (word ? term(word, label) : label));
  const button = el('button', { type: 'button', class: 'plain', 'data-test': `sort-${sort}`, ...(word ? explains(word) : {}), on: { click: () => onSort(sort) } }, label);
  const node = el('th', properties, button);
  node.mark = (by, order) => {
    if (by === sort) node.setAttribute('aria-sort', order === 'asc' ? 'ascending' : 'descending');
    else node.removeAttribute('aria-sort');
  };
  node.mark(sorted?.sort, sorted?.order);
  return node;
}

const FOCUSABLE = 'a, button, input';

/** Replaces a row and keeps the focus at the same place in it. */
function replace(old, node) {
  const at = [...old.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  old.replaceWith(node);
  if (at >= 0) node.querySelectorAll(FOCUSABLE)[at]?.focus();
}
