// Tables whose rows stay in place while their content changes, and turn to cards where it is narrow.

import { el } from './dom.js';

/** `columns` are `{label, cell(row), sort?, num?, head?}`; `key(row)` is a row's identity; `stamp(row)`
 * says when it is to be drawn again though the row is the same. */
export function table({ caption, columns, key, stamp = () => '', test, sorted, onSort }) {
  // The roles are said though they are a table's own: as cards, browsers forget them.
  const body = el('tbody', { role: 'rowgroup' });
  const heads = columns.map((column) => head(column, sorted, onSort));
  const empty = el('div', { class: 'empty', hidden: true });
  const box = el('div', { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': caption },
    el('table', { role: 'table' },
      el('caption', { class: 'hidden' }, caption),
      el('thead', { role: 'rowgroup', class: columns.some(({ sort, head }) => (sort && onSort) || head) ? null : 'fixed' }, el('tr', { role: 'row' }, heads)),
      body));
  const kept = new Map();
  const heading = columns[0].head ? 1 : 0; // a box to select a row by is no name for it

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
    /** Someone points at a row or stands in it: it must not move under them. */
    held: () => body.matches(':hover') || body.querySelector(':focus-visible') !== null,
    /** Shows these rows; while `hold`, changes only those that are shown already. */
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
    /** Words in place of rows; none with null. */
    say(...content) {
      empty.replaceChildren(...content.filter(Boolean));
      empty.hidden = empty.childNodes.length === 0;
      box.hidden = !empty.hidden;
    },
  };
}

function head({ label, head: content, sort, num }, sorted, onSort) {
  const properties = { role: 'columnheader', scope: 'col', class: num ? 'num' : null };
  if (!sort || !onSort) return el('th', { ...properties, class: `${properties.class ?? ''} fixed` }, content ?? label);
  const button = el('button', { type: 'button', class: 'plain', 'data-test': `sort-${sort}`, on: { click: () => onSort(sort) } }, label);
  const node = el('th', properties, button);
  node.mark = (by, order) => {
    if (by === sort) node.setAttribute('aria-sort', order === 'asc' ? 'ascending' : 'descending');
    else node.removeAttribute('aria-sort');
  };
  node.mark(sorted?.sort, sorted?.order);
  return node;
}

const FOCUSABLE = 'a, button, input';

/** Replaces a row; the focus stays at the same place in it. */
function replace(old, node) {
  const at = [...old.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  old.replaceWith(node);
  if (at >= 0) node.querySelectorAll(FOCUSABLE)[at]?.focus();
}
