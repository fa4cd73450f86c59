// The page's frame: which view is shown at which address, the navigation, and the state of the
// connection. What a view shows is in a file of its own.

import { post } from './api.js';
import { at, within } from './base.js';
import { act, button, data, el, enable, toast } from './dom.js';
import { helpView } from './help.js';
import { lagView } from './lag.js';
import { deadLetterView } from './dead-letter.js';
import { deadLettersView } from './dead-letters.js';
import { begin, listen, live } from './live.js';
import { overviewView } from './overview.js';
import { runView } from './run.js';
import { runsView } from './runs.js';
import { clock, count, duration, size, visible } from './text.js';
import { ticksView } from './ticks.js';
import { explainWords } from './words.js';

const LINKS = [['/', 'Overview'], ['/runs', 'Runs'], ['/ticks', 'Ticks'], ['/dead-letters', 'Dead letters'], ['/lag', 'Lag'], ['/help', 'Help']];
const ROUTES = [
  [/^\/$/, overviewView],
  [/^\/runs$/, runsView],
  [/^\/runs\/(\d+)$/, runView],
  [/^\/ticks$/, ticksView],
  [/^\/dead-letters$/, deadLettersView],
  [/^\/dead-letters\/(\d+)$/, deadLetterView],
  [/^\/lag$/, lagView],
  [/^\/help$/, helpView],
];

const find = (id) => document.getElementById(id);
const openDeadLetters = el('span', { class: 'count', hidden: true, 'data-test': 'nav-dead-letters' });
let shown = { path: null, view: null };

/** Shows another address of the page; `replace` keeps the browser's "back" where it is. */
function go(address, { replace = false, state = null } = {}) {
  history[replace ? 'replaceState' : 'pushState'](state, '', at(address));
  show(!replace);
}

function show(moved) {
  const path = within(location.pathname).replace(/(.)\/+$/, '$1');
  const query = new URLSearchParams(location.search);
  if (path === shown.path && shown.view.query) {
    shown.view.query(query);
    return;
  }
  shown.view?.end?.();
  document.querySelectorAll('dialog[open]').forEach((dialog) => dialog.close());
  const [, make, id] = ROUTES.map(([route, view]) => [route.exec(path), view, route.exec(path)?.[1]]).find(([match]) => match) ?? [null, nowhere];
  const view = make({ go, query, id: id && Number(id) });
  shown = { path, view };
  find('main').replaceChildren(view.node);
  for (const link of find('nav').children) {
    const target = within(link.pathname);
    const here = target === '/' ? path === '/' : path.startsWith(target);
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const place = location.hash && document.getElementById(location.hash.slice(1));
  if (place) {
    place.scrollIntoView();
    place.focus();
  } else if (moved) {
    scrollTo(0, 0);
    find('main').focus({ preventScroll: true });
  }
  refresh();
}

function nowhere() {
  return { title: 'Not found', node: el('div', {}, el('h1', {}, 'Nothing is at this address'), el('a', { href: '/' }, 'Go to the overview')) };
}

function refresh() {
  const { overview, lost } = live;
  showConnection(overview, lost);
  if (live.outdated && !document.querySelector('dialog[open]')) {
    location.reload(); // mb was replaced by another version, with another page
    return;
  }
  document.body.classList.toggle('stale', lost !== null);
  signOut.hidden = !live.session.signed_in;
  document.querySelectorAll('button.acts').forEach((node) => live.session.read_only && enable(node, true));
  if (overview) {
    openDeadLetters.textContent = count(overview.dead_letters_open);
    openDeadLetters.hidden = overview.dead_letters_open === 0;
    find('topic').replaceChildren(data(overview.topic, 60));
    showAbout(overview);
    shown.view.live?.(overview);
  }
  const state = lost ? 'no answer' : overview ? visible(overview.verdict.brief) : '…';
  const title = `${shown.view.title} · ${state} · mb`;
  if (document.title !== title) document.title = title;
}

function showConnection(overview, lost) {
  const state = lost ? 'lost' : overview ? 'live' : 'connecting';
  const node = find('connection'), banner = find('banner');
  if (node.dataset.state !== state) {
    node.dataset.state = state;
    node.textContent = { lost: 'no answer', live: 'live', connecting: 'connecting' }[state];
  }
  const words = lost ? `mb has not answered since ${clock(lost)}; trying again.${overview ? ' The page shows the state at that time.' : ''}` : '';
  if (banner.textContent !== words) banner.textContent = words;
  banner.hidden = !lost;
}

function showAbout(overview) {
  const up = duration((overview.now_ms - overview.started_ms) / 1000);
  const facts = [
    ['Broker', data(overview.broker)], ['Topic', data(overview.topic, 80)], ['Group', data(overview.group, 80)], ['Step', data(overview.step, 120)],
    ['Version', data(overview.version)], ['Uptime', up], ['Memory', size(overview.memory_bytes)], ['Process', String(overview.pid)],
  ];
  find('about').replaceChildren(el('dl', { class: 'facts' }, facts.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value)))),
    live.session.read_only ? el('p', {}, 'Read-only: nothing can be changed here.') : '');
}

const signOut = button('Log out', { test: 'logout', acts: false, kind: 'plain', hidden: true }, async () => {
  if (await act(signOut, () => post('logout'))) location.assign(at('/login'));
});
find('connection').after(signOut);
// Relative, they would follow the address that the browser shows.
document.querySelector('.brand').href = at('/');
document.querySelector('link[rel=icon]').href = at('/assets/icon.svg');
explainWords();
find('nav').append(...LINKS.map(([href, words]) => el('a', { href }, words, href === '/dead-letters' ? [' ', openDeadLetters] : null)));

document.addEventListener('click', (event) => {
  const link = event.target.closest?.('a[href]');
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!link || !plain || link.origin !== location.origin || link.target || link.classList.contains('skip')) return;
  const path = within(link.pathname);
  if (!ROUTES.some(([route]) => route.test(path))) return;
  event.preventDefault();
  go(path + link.search + link.hash);
});
addEventListener('popstate', () => show(true));
addEventListener('unhandledrejection', (event) => toast(`The page failed: ${event.reason?.message ?? event.reason}`, 'bad'));

listen(refresh);
begin();
show(false);
