// The connection: it is lost, the page says so, and it comes back without losing anything.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { launch, logIn, open, see, troubles, visit } from './browser.mjs';
import { serve } from './mock.mjs';
import { held, writing } from './scenes.mjs';
import { onlyMock } from './site.mjs';
import { World } from './world.mjs';

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

test('a daemon that goes away is said to be away, and what it did meanwhile is shown when it is back', onlyMock, async () => {
  const world = new World({ runs: 5 });
  const run = writing(world);
  let site = await serve(world);
  const { port } = site.server.address();
  const page = await open(browser);
  await logIn(page, site, `#/runs/${run.id}`);
  await see(page, '.connection', 'live');
  const seen = world.events.length;
  world.say(run, 'write_image_to_bv', 'before');
  world.tell(run, { event: 'claimed', owner: 'east-1' });
  await see(page, '.log-lines', 'before');
  await site.close();
  await see(page, '.connection', 'not connected');
  await see(page, '[role=status]', 'What is shown may be old');
  world.end(run, 'write_image_to_bv');
  world.say(run, 'write_image_to_bv', 'written while nobody saw it');
  site = await serve(world, port);
  await see(page, '.connection', 'live');
  await see(page, '.log-lines', 'written while nobody saw it');
  await see(page, '.whole', '9 of 14 steps');
  const again = world.requests.filter(({ path }) => path === '/v1/events').at(-1);
  assert.equal(again.headers['last-event-id'], String(seen + 1), 'it goes on after the last event that it saw');
  assert.deepEqual(await troubles(page), []);
  await site.close();
});

test('waits grow while the daemon is away', onlyMock, async () => {
  const world = new World({ runs: 5 });
  const site = await serve(world);
  const page = await open(browser);
  await logIn(page, site, '#/sites');
  await see(page, '.connection', 'live');
  const times = [];
  site.server.on('request', ({ url }) => url === '/v1/events' && times.push(Date.now()));
  world.isDown = true;
  site.server.closeAllConnections();
  await see(page, '.connection', 'again in');
  while (times.length < 4) await new Promise((done) => setTimeout(done, 100));
  const gaps = times.slice(1).map((time, at) => time - times[at]);
  assert.ok(gaps[1] > gaps[0] && gaps[2] > gaps[1], gaps.join(' '));
  await site.close();
});

test('a daemon that takes longer to answer than the page waits between two looks is still followed, one look at a time', onlyMock, async () => {
  const world = new World({ runs: 5 });
  const run = writing(world);
  const site = await serve(world);
  const page = await open(browser);
  await logIn(page, site, `#/runs/${run.id}`);
  await see(page, '.whole', '8 of 14 steps');
  world.slowMs = 1700;
  world.requests.length = 0;
  world.end(run, 'write_image_to_bv');
  await see(page, '.whole', '9 of 14 steps');
  world.begin(run, 'fsck_on_block_volume');
  world.end(run, 'fsck_on_block_volume');
  const began = Date.now();
  await see(page, '.whole', '10 of 14 steps');
  const looks = world.requests.filter(({ path }) => path === `/v1/runs/${run.id}`).length;
  assert.ok(looks <= 4 + (Date.now() - began) / world.slowMs, `${looks} looks`);
  assert.deepEqual(await troubles(page), []);
  await site.close();
});

test('a button pressed twice reads the next page once', onlyMock, async () => {
  const world = new World({ runs: 250 });
  const site = await serve(world);
  const page = await open(browser);
  await logIn(page, site, '#/runs');
  await page.waitForSelector('.more');
  world.slowMs = 400;
  await page.$eval('.more', (button) => (button.click(), button.click(), button.click()));
  await see(page, '.sum', '200 runs');
  world.slowMs = 0;
  const all = await page.$$eval('.runs tbody a', (links) => links.map((one) => one.hash));
  assert.equal(new Set(all).size, all.length);
  assert.equal(world.requests.filter(({ query }) => query.past).length, 1);
  assert.deepEqual(await troubles(page), []);
  await site.close();
});

/** Milliseconds of processor time of the page's main thread since now: other work on a busy machine does not count. */
async function costs(page) {
  const session = await page.createCDPSession();
  await session.send('Performance.enable', { timeDomain: 'threadTicks' });
  const read = async () => {
    const { metrics } = await session.send('Performance.getMetrics');
    const of = (name) => metrics.find((metric) => metric.name === name).value * 1000;
    return { task: of('TaskDuration'), script: of('ScriptDuration'), layout: of('LayoutDuration'), style: of('RecalcStyleDuration') };
  };
  const start = await read();
  return async () => {
    const end = await read();
    return Object.fromEntries(Object.keys(end).map((name) => [name, end[name] - start[name]]));
  };
}

const describe = ({ task, script, layout, style }, by) => [task, script, layout, style].map((time, at) => `${['', 'script ', 'layout ', 'style '][at]}${(time / by).toFixed(1)} ms`).join(', ');

test('a thousand runs in the list stay fluid while events pour in', onlyMock, async (context) => {
  const world = new World({ runs: 1000 });
  const site = await serve(world);
  const page = await open(browser);
  await logIn(page, site, '#/runs');
  for (let pages = 2; pages <= 10; pages += 1) {
    await page.waitForSelector('.more');
    await page.$eval('.more', (button) => button.click());
    await see(page, '.sum', `${(pages * 100).toLocaleString('en')} runs`);
  }
  assert.equal((await page.$$('.runs tbody tr')).length, 1000);
  const busy = Array.from({ length: 20 }, (_, at) => world.make({ subject: `busy ${at}` }));
  busy.forEach((run) => world.tell(run, { event: 'created' }));
  await see(page, '.runs', 'busy 19');
  const cost = await costs(page);
  for (let round = 0; round < 60; round += 1) {
    for (const run of busy.slice(0, 5)) round % 2 ? world.end(run, 'get_file_head') : world.begin(run, 'get_file_head');
    await page.evaluate((way) => scrollBy(0, way), round < 30 ? 400 : -400);
    await new Promise((done) => setTimeout(done, 50));
  }
  const rounds = await cost();
  context.diagnostic(`one burst of five events and a scroll with 1,020 rows: ${describe(rounds, 60)}`);
  const filtering = await costs(page);
  await page.$eval('input[name=text]', (field) => {
    field.value = 'busy 1';
    field.dispatchEvent(new Event('input', { bubbles: true }));
  });
  await page.waitForFunction(() => document.querySelectorAll('.runs tbody tr').length < 50);
  const filtered = await filtering();
  context.diagnostic(`typing to the filtered list: ${describe(filtered, 1)}`);
  assert.ok(rounds.task / 60 < 100, `${rounds.task / 60} ms of the page's thread for one burst`);
  assert.ok(filtered.task < 1500, `${filtered.task} ms of the page's thread to filter`);
  assert.deepEqual(await troubles(page), []);
  await site.close();
});

test('a log of many lines is read in pieces and follows its end; only new lines are asked for', onlyMock, async () => {
  const world = new World({ runs: 5 });
  const run = held(world);
  for (let at = 0; at < 4000; at += 1) world.say(run, 'fsck_on_block_volume', `line ${at}`);
  const site = await serve(world);
  const page = await open(browser);
  await logIn(page, site, `#/runs/${run.id}`);
  await see(page, '.log-lines', 'line 3999');
  assert.equal(await page.$$eval('.line', (all) => all.length), 3000, 'the page keeps a bounded number of lines');
  const isAtEnd = () => page.$eval('.log-lines', (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 24);
  assert.ok(await isAtEnd());
  world.say(run, 'fsck_on_block_volume', 'the very last');
  world.tell(run, { event: 'claimed', owner: 'x' });
  await see(page, '.log-lines', 'the very last');
  await page.waitForFunction(() => document.querySelectorAll('.line').length === 3000);
  assert.ok(await isAtEnd(), 'it follows');
  const last = world.requests.filter(({ path }) => path.endsWith('/log')).at(-1);
  assert.ok(Number(last.query.after) > 4000, JSON.stringify(last.query));
  await visit(page, '#/runs', 'Runs');
  assert.deepEqual(await troubles(page), []);
  await site.close();
});
