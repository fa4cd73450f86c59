// Holds src/api/http/page/text.js (what hides in a text is shown, and numbers stay as they are) and glossary.js (words
// mean the same on the page and in the manual).
// Run by: node --test tests/page/

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { TEXTS } from '../../src/api/http/page/glossary.js';
import * as text from '../../src/api/http/page/text.js';

test('control characters, direction marks and what has no width are escapes', () => {
  assert.equal(text.visible('a\u0000b\u001b[31m\u007f\u0085'), 'a\\x00b\\x1B[31m\\x7F\\x85');
  assert.equal(text.visible('\u202Eevil\u2066\u200F\u200B\uFEFF\u{E0041}'), '\\u{202E}evil\\u{2066}\\u{200F}\\u{200B}\\u{FEFF}\\u{E0041}');
  assert.equal(text.visible('half \uD800 of one'), 'half \\u{D800} of one');
});

test('writing of all kinds stays as it is', () => {
  const kinds = '<b>&amp; שלום مرحبا 漢字 👩‍🚀 é';
  assert.equal(text.visible(kinds), kinds);
});

test('line ends stay only where lines are shown', () => {
  assert.equal(text.visible('a\n\tb\r\n', true), 'a\n\tb\\r\n');
  assert.equal(text.visible('a\n\tb'), 'a\\n\\tb');
});

test('a text is cut between characters', () => {
  assert.equal(text.cut('ab🚀c', 3), 'ab');
  assert.equal(text.brief('x'.repeat(9), 4), 'xxxx…');
});

test('JSON is indented and its numbers stay as they were written', () => {
  const source = '{"id":12345678901234567890,"a":[1.50,{}],"s":"x, [y]: {\\"z\\"}","e":[ ]}';
  const pretty = text.prettyJson(source);
  assert.match(pretty, /"id": 12345678901234567890,\n/);
  assert.match(pretty, /1\.50,\n {4}\{\}\n/);
  assert.match(pretty, /"x, \[y\]: \{\\"z\\"\}"/);
  assert.deepEqual(JSON.parse(pretty), JSON.parse(source));
});

test('what is no JSON object or list is no JSON', () => {
  for (const source of ['', '12', '"text"', '{"cut":', 'tea']) assert.equal(text.prettyJson(source), null);
});

test('bytes are shown in hex with their place', () => {
  const dump = text.hexDump(text.bytesOfBase64('AAFBfw=='));
  assert.equal(dump, `000000  00 01 41 7f${' '.repeat(36)}  ..A.`);
});

test('figures have their units', () => {
  assert.deepEqual([0, 950, 1234, 12_345, 4e6].map(text.short), ['0', '950', '1,234', '12.3 k', '4.0 M']);
  assert.deepEqual([0, 1.5, 1234, 12_345].map(text.perSecond), ['0 /s', '1.5 /s', '1,234 /s', '12.3 k/s']);
  assert.deepEqual([0, 0.003, 0.139, 3.21, 45, 240, 7500, 273_600].map(text.duration), ['0 s', '3 ms', '139 ms', '3.2 s', '45 s', '4 min', '2 h 5 min', '3 d 4 h']);
  assert.deepEqual([512, 2048, 32 * 1024 ** 2].map(text.size), ['512 B', '2.0 KiB', '32.0 MiB']);
  assert.deepEqual([text.counted(1, 'batch', 'batches'), text.counted(2000, 'run'), text.count(null)], ['1 batch', '2,000 runs', '–']);
});

test('a text field keeps the ends of lines if all of them are alike', () => {
  assert.equal(text.lineEnd('one line'), '\n');
  assert.equal(text.lineEnd('a\nb\n'), '\n');
  assert.equal(text.lineEnd('a\r\nb\r\n'), '\r\n');
  for (const mixed of ['a\r\nb\n', 'a\rb', '\r', 'a\r\r\n']) assert.equal(text.lineEnd(mixed), null);
});

test('base64 has the bytes of a text', () => {
  const long = 'ü\r\n'.repeat(100_000);
  assert.equal(new TextDecoder().decode(text.bytesOfBase64(text.base64OfText(long))), long);
});

test('a word means the same on the page and in the manual', () => {
  const manual = readFileSync(new URL('../../docs/README.md', import.meta.url), 'utf8').split('## Words')[1];
  const rows = [...manual.matchAll(/^\| ([a-z ]+) \| (.*) \|$/gm)].map(([, word, meaning]) => [word, meaning.replaceAll('`', '')]);
  assert.deepEqual(Object.fromEntries(rows.slice(1)), TEXTS);
});
