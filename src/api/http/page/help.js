// Help: what mb's words mean, and where the rest is written. It is in the binary, as the page is.

import { card, el } from './dom.js';
import { wordList } from './words.js';

const VIEWS = [
  ['/', 'Overview', 'whether mb keeps up, the figures behind that, and the settings that can be changed while it runs'],
  ['/runs', 'Runs', 'every run with its attempts, output and records; cancel or replay runs'],
  ['/ticks', 'Ticks', 'what each tick found; pause, tick now, or preview a tick'],
  ['/dead-letters', 'Dead letters', 'what was given up on, by error; redrive or discard it'],
  ['/lag', 'Lag', 'every partition with its offsets; move a cursor, or replay a range'],
];
const COMMANDS = [
  ['mb status', 'the verdict, and what mb is doing'], ['mb runs', 'the newest runs; with a number, one run whole'],
  ['mb dead-letters list', 'the dead letters'], ['mb --help', 'every flag and command; mb COMMAND --help for one of them'],
];

export function helpView() {
  return {
    title: 'Help',
    node: el('div', { 'data-test': 'help' }, el('h1', {}, 'Help'),
      card('Words', {}, wordList()),
      card('Views', {}, el('dl', { class: 'words' }, VIEWS.map(([href, name, text]) => el('div', {}, el('dt', {}, el('a', { href }, name)), el('dd', {}, text))))),
      card('In a terminal', {},
        el('dl', { class: 'words' }, COMMANDS.map(([command, text]) => el('div', {}, el('dt', {}, el('code', {}, command)), el('dd', {}, text)))),
        el('p', { class: 'note' }, 'The API is described in ', el('a', { href: '/api/v1/openapi.json' }, 'openapi.json'),
          '. The manual is in the folder docs of mb\u2019s source; it begins with docs/README.md.'))),
  };
}
