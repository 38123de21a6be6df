// The plain functions of the pages: no browser is needed.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';

globalThis.document = { baseURI: 'http://localhost/' };
const { bytes, coarse, duration, percent, utc } = await import('../app/format.js');
const { inOrder, layout } = await import('../app/layout.js');
const { Rates } = await import('../app/rates.js');
const { axis, nearest, timeTicks } = await import('../app/scale.js');
const { commandsOf, hasMissed, isTroubled, scheduleCommandsOf, scheduleStateOf, stepCommandsOf } = await import('../app/states.js');
const { Problem } = await import('../app/api.js');
const { parser } = await import('../app/live.js');

test('bytes are in binary units, times in the two largest', () => {
  assert.deepEqual([0, 1023, 1536, 2 ** 30, 150 * 2 ** 20, 5e18, NaN].map(bytes), ['0 B', '1023 B', '1.5 KiB', '1.0 GiB', '150 MiB', '4.3 EiB', '–']);
  assert.deepEqual([0, 59.6, 3600, 3661, 90061].map(duration), ['0 s', '1 min', '1 h', '1 h 1 min', '1 d 1 h']);
  assert.deepEqual([59, 61, 7 * 3600 + 1800, 3 * 86400 + 7200].map(coarse), [59, 60, 7 * 3600, 3 * 86400]);
  assert.equal(utc('2026-11-21T19:00:05.7+01:00'), '2026-11-21 18:00:05 UTC');
});

test('a hundred percent is said at the end only', () => {
  assert.equal(percent(999_999, 1_000_000), '99 %');
  assert.equal(percent(5, 5), '100 %');
  assert.equal(percent(0, 0), '–');
});

const steps = (...list) => list.map(([name, ...after]) => ({ name, after }));
const places = ({ nodes }) => Object.fromEntries(nodes.map(({ step, lane }) => [step.name, lane]));

test('a chain is one lane', () => {
  const shape = layout(steps(['a'], ['b', 'a'], ['c', 'b']));
  assert.equal(shape.lanes, 1);
  assert.equal(shape.edges.length, 2);
});

test('branches have lanes of their own, and come together again', () => {
  const shape = layout(steps(['a'], ['b', 'a'], ['c', 'a'], ['d', 'b', 'c'], ['e', 'd']));
  assert.deepEqual(places(shape), { a: 0, b: 0, c: 1, d: 0, e: 0 });
  assert.equal(shape.edges.length, 5);
});

test('a line that follows from others is not drawn', () => {
  const { edges } = layout(steps(['a'], ['b', 'a'], ['c', 'a', 'b']));
  assert.deepEqual(edges.map(({ from, to }) => from + to), ['ab', 'bc']);
});

test('steps stand after those they wait for, whatever the plan’s order; a circle does not hang', () => {
  assert.deepEqual(inOrder(steps(['b', 'a'], ['a'], ['x', 'gone'])).map(({ name }) => name), ['a', 'b', 'x']);
  assert.equal(inOrder(steps(['a', 'b'], ['b', 'a'])).length, 2);
});

test('no line runs through a node of another branch, in any of many graphs', () => {
  let seed = 1;
  const random = (below) => ((seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0), Math.floor((seed / 2 ** 32) * below));
  for (let round = 0; round < 2000; round += 1) {
    const list = Array.from({ length: 2 + random(12) }, (_, at) => [`s${at}`, ...new Set(Array.from({ length: random(3) }, () => `s${random(Math.max(1, at))}`).filter(() => at > 0))]);
    const { nodes, edges } = layout(steps(...list));
    assert.ok(edges.length >= nodes.length - nodes.filter(({ step }) => step.after.length === 0).length);
    for (const { from, to, a, b, via: lane } of edges) {
      assert.ok(a.row < b.row);
      const inside = nodes.filter((node) => node.row > a.row && node.row < b.row && node.lane === lane);
      assert.deepEqual(inside.map(({ step }) => step.name), [], `${from}→${to} of ${JSON.stringify(list)}`);
    }
  }
});

test('a rate is over the last seconds, and begins anew with a new attempt', () => {
  const rates = new Rates();
  const at = (second) => new Date(Date.UTC(2026, 0, 1, 0, 0, second)).toISOString();
  assert.deepEqual(rates.take({ a: { done: 0, at: at(0) } }), {});
  assert.equal(rates.take({ a: { done: 1000, at: at(1) } }).a, 1000);
  assert.equal(rates.take({ a: { done: 1000, at: at(1) } }).a, 1000, 'the same said again changes nothing');
  assert.deepEqual(rates.take({ a: { done: 10, at: at(2) } }), {});
  rates.take({ a: { done: 20, at: at(50) } });
  assert.equal(rates.take({ a: { done: 40, at: at(52) } }).a, 10, 'what is long ago is forgotten');
});

test('axes have few round ticks and hold the largest value', () => {
  for (const most of [1, 900, 1024, 5e6, 2 ** 40 * 3.3, 7.7e15]) {
    const { top, ticks } = axis(most);
    assert.ok(top >= most && ticks.length >= 2 && ticks.length <= 8, `${most}: ${ticks}`);
  }
  assert.equal(timeTicks(5, 5, 4).length, 1);
  assert.ok(timeTicks(0, 86_400_000 * 90, 6).length <= 6);
  assert.equal(nearest([{ x: 0 }, { x: 10 }, { x: 30 }], 19), 1);
});

test('a stream of events is read whole, in pieces cut anywhere', () => {
  const text = ': hi\n\nid: 7\ndata: {"a":\ndata: 1}\n\r\nevent: x\r\ndata: é\r\n\r\ndata:last\n\n';
  for (let cut = 1; cut < 6; cut += 1) {
    const seen = [];
    const feed = parser((event) => seen.push(event));
    for (let at = 0; at < text.length; at += cut) feed(text.slice(at, at + cut));
    assert.deepEqual(seen, [{ id: '7', data: '{"a":\n1}' }, { id: '7', data: 'é' }, { id: '7', data: 'last' }], `cut ${cut}`);
  }
});

test('readers and writers are offered no command', () => {
  const run = { state: 'held', gated: false };
  assert.deepEqual(Object.values(commandsOf(run, 'reader')).filter(Boolean), []);
  assert.ok(commandsOf(run, 'operator').retry && commandsOf(run, 'admin').undo);
  assert.equal(commandsOf({ state: 'succeeded' }, 'admin').cancel, false);
  assert.ok(!stepCommandsOf(run, { may_skip: false }, { state: 'failed' }, 'admin').skip);
});

test('what is not offered is told from what is not there', () => {
  const is = (status, type = '') => new Problem({ status, title: 'x', type }).isNotOffered;
  assert.deepEqual([is(501), is(404), is(404, 'urn:leeward:no-such-route'), is(404, 'urn:leeward:not-found'), is(500)], [true, true, true, false, false]);
});

test('the vendored library is the one that was noted', async () => {
  const file = await readFile(new URL('../vendor/htm-preact-standalone.module.js', import.meta.url));
  const note = await readFile(new URL('../vendor/README.md', import.meta.url), 'utf8');
  assert.ok(note.includes(createHash('sha256').update(file).digest('hex')));
});

test('a schedule has missed something when its note says so, whoever began it', () => {
  const is = (note) => hasMissed({ note });
  assert.deepEqual(['its time was missed', '3 times before it were missed', 'no run: run 01k is held', 'begun by missed', null].map(is), [true, true, true, false, false]);
  assert.ok(isTroubled({ note: null, last_state: 'held' }) && !isTroubled({ note: null, last_state: 'running' }));
});

test('a schedule is fired while no run of it is open, by those who may', () => {
  const can = (state, role = 'operator', paused = false) => Object.entries(scheduleCommandsOf({ paused, last_state: state }, role)).filter(([, is]) => is).map(([name]) => name);
  assert.deepEqual([can('succeeded'), can(null), can('held'), can('failed', 'admin', true), can(null, 'reader'), can(null, 'writer')], [['fire', 'pause'], ['fire', 'pause'], ['pause'], ['fire', 'resume'], [], []]);
  assert.equal(scheduleStateOf({ paused: false, next: null }).word, 'no more times');
});
