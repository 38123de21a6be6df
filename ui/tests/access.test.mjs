// The pages for everybody: by keyboard alone, to a reader of screens, in dark and light, on a narrow screen, without movement.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';

import { launch, logIn, open, PATIENCE_MS, press, see, shot, troubles, visit } from './browser.mjs';
import { held, stuck, waiting, writing } from './scenes.mjs';
import { onlyMock, REAL, site as start } from './site.mjs';
import { World } from './world.mjs';

const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const LOOKS = [['light', {}], ['dark', { dark: true }], ['narrow', { width: 360, height: 740 }]];

let browser;
let site;
let runs = {};

before(async () => {
  browser = await launch();
  site = await start();
  if (!REAL) runs = { stuck: stuck(site.world), held: held(site.world), waiting: waiting(site.world), writing: writing(site.world) };
});
after(async () => {
  await browser.close();
  await site.close();
});

const pages = () => [
  ['overview', '#/', 'Overview'],
  ['runs', '#/runs', 'Runs'],
  ['schedules', '#/schedules', 'Schedules'],
  ['imports', '#/imports', 'Imports'],
  ['images', '#/images', 'Images'],
  ['repository', '#/repository', 'Repository'],
  ['reports', '#/reports', 'Reports'],
  ['notices', '#/notices', 'Notices'],
  ['leftovers', '#/leftovers', 'Leftovers'],
  ['sites', '#/sites', 'Site'],
  ...(REAL ? [] : [
    ['run-writing', `#/runs/${runs.writing.id}?step=write_image_to_bv`, 'debian'],
    ['run-held', `#/runs/${runs.held.id}`, 'legacy'],
    ['image', `#/images/${encodeURIComponent('db-02/data')}?snapshot=${site.world.images[3].snapshots.at(-1).id}`, 'db-02/data'],
  ]),
];

/** What axe-core says of the page as it is; serious and critical findings as text. */
async function findings(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  return violations.filter(({ impact }) => ['serious', 'critical'].includes(impact)).flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 160)} ${node.any[0]?.message ?? ''}`));
}

for (const [look, options] of LOOKS) {
  test(`${look}: every page fits, has no serious finding of axe-core, and a picture`, { timeout: 1_200_000 }, async () => {
    const page = await open(browser, options);
    page.origin = site.url;
    await page.goto(site.url);
    await page.waitForSelector('#token');
    assert.deepEqual(await findings(page), [], 'log-in');
    await shot(page, `login-${look}`, false);
    await logIn(page, site);
    for (const [name, hash, heading] of pages()) {
      await visit(page, hash, heading);
      await page.waitForFunction(() => !document.querySelector('main .loading'), { timeout: PATIENCE_MS });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${name} is ${wide} pixels wider than the screen`);
      const burst = await page.$$eval('.panel, .tile, .step, .top', (all) => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent.slice(0, 60)));
      assert.deepEqual(burst, [], `${name}: what is wider than its box`);
      assert.deepEqual(await troubles(page), [], name);
      await shot(page, `${name}-${look}`, name !== 'runs');
      assert.deepEqual(await findings(page), [], name);
    }
    await page.browserContext().close();
  });
}

test('windows have no serious finding either', onlyMock, async () => {
  const page = await open(browser, { dark: true });
  await logIn(page, site, `#/runs/${runs.held.id}`);
  await press(page, 'Retry with other inputs', '.actions');
  await page.waitForSelector('dialog');
  assert.deepEqual(await findings(page), []);
  await shot(page, 'dialog-dark', false);
  await page.browserContext().close();
});

test('windows of schedules, notices and leftovers neither, also when they show what came of it', onlyMock, async () => {
  for (const [look, options] of [['dark', { dark: true }], ['narrow', { width: 360, height: 740 }]]) {
    const page = await open(browser, options);
    await logIn(page, site, '#/schedules');
    await press(page, 'Fire now', '.schedules');
    await page.waitForSelector('dialog[open]');
    assert.deepEqual(await findings(page), []);
    await shot(page, `dialog-fire-${look}`, false);
    await page.keyboard.press('Escape');
    await visit(page, '#/notices', 'Notices');
    await press(page, 'Test', '.panel');
    await press(page, 'Test', 'dialog');
    await see(page, 'dialog .state', 'taken');
    assert.deepEqual(await findings(page), []);
    await shot(page, `dialog-test-${look}`, false);
    await page.keyboard.press('Escape');
    await visit(page, '#/leftovers', 'Leftovers');
    await page.waitForSelector('.leftovers');
    await page.$$eval('.leftovers tbody input', (all) => all.forEach((one) => one.click()));
    await press(page, 'Remove the 4 chosen', '.choose');
    await page.waitForSelector('dialog[open]');
    assert.deepEqual(await findings(page), []);
    const wide = await page.$eval('dialog', (box) => box.scrollWidth - box.clientWidth);
    assert.ok(wide <= 0, `the window is ${wide} pixels too wide inside`);
    await shot(page, `dialog-remove-${look}`, false);
    await page.click('dialog [name=looked]');
    await press(page, 'Remove for good', 'dialog');
    await see(page, 'dialog', '3 of 4 are removed');
    assert.deepEqual(await findings(page), []);
    await shot(page, `dialog-removed-${look}`, false);
    site.world.leftovers = new World().leftovers;
    assert.deepEqual(await troubles(page), []);
    await page.browserContext().close();
  }
});

const focused = (page) => page.evaluate(() => document.activeElement.textContent.trim() || document.activeElement.getAttribute('aria-label') || document.activeElement.tagName);

/** Presses Tab until the element with the focus has this text. */
async function tabTo(page, text, most = 80) {
  const path = [];
  for (let at = 0; at < most; at += 1) {
    await page.keyboard.press('Tab');
    path.push(await focused(page));
    if (path.at(-1).startsWith(text)) return;
  }
  throw new Error(`Tab never reaches “${text}”: ${path.join(' → ')}`);
}

describe('by keyboard alone', onlyMock, () => {
  test('one logs in, finds what is held, reads it, retries it, and comes back', async () => {
    const run = held(site.world, 'keyboard.vmdk');
    const page = await open(browser);
    page.origin = site.url;
    await page.goto(site.url);
    await page.waitForSelector('#token');
    assert.equal(await page.evaluate(() => document.activeElement.id), 'token', 'the field has the focus');
    await page.keyboard.type(site.token);
    await page.keyboard.press('Enter');
    await see(page, 'main h1', 'Overview');
    await page.waitForFunction(() => document.activeElement.tagName === 'H1');
    await tabTo(page, 'heldkeyboard.vmdk');
    await page.keyboard.press('Enter');
    await see(page, 'main h1', 'keyboard.vmdk');
    await page.waitForFunction(() => document.activeElement.tagName === 'H1' && document.activeElement.textContent === 'keyboard.vmdk');
    await tabTo(page, 'Look at the object');
    for (let at = 0; at < 9; at += 1) await page.keyboard.press('ArrowDown');
    assert.match(await focused(page), /^Check the file systems/);
    await page.keyboard.press('Enter');
    await see(page, '.step-panel', 'Check the file systems');
    await tabTo(page, 'Retry from here');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    const within = [];
    for (let at = 0; at < 6; at += 1) {
      await page.keyboard.press('Tab');
      within.push(await page.evaluate(() => document.activeElement === document.body || document.activeElement.closest('dialog') !== null));
    }
    assert.ok(within.every(Boolean), 'the focus stays in the window');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'));
    assert.equal(await focused(page), 'Retry from here', 'the focus is back where it was');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    await tabTo(page, 'Retry', 4);
    await page.keyboard.press('Enter');
    await see(page, '.head .state', 'running');
    assert.equal(run.state, 'running');
    assert.deepEqual(await troubles(page), []);
    await page.browserContext().close();
  });

  test('one pauses a schedule and resumes it, and removes what is left; the focus is never lost', async () => {
    const page = await open(browser);
    await logIn(page, site, '#/schedules');
    await see(page, '.schedules', 'nightly');
    const label = () => page.evaluate(() => document.activeElement.getAttribute('aria-label'));
    const tabToLabel = async (text) => {
      for (let at = 0; at < 60 && (await label()) !== text; at += 1) await page.keyboard.press('Tab');
      assert.equal(await label(), text);
    };
    await tabToLabel('Pause: nightly');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    await tabTo(page, 'Pause', 4);
    await page.keyboard.press('Enter');
    await page.waitForSelector('button[aria-label="Resume: nightly"]');
    assert.equal(await label(), 'Resume: nightly');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    await tabTo(page, 'Resume', 4);
    await page.keyboard.press('Enter');
    await page.waitForSelector('button[aria-label="Pause: nightly"]');
    await visit(page, '#/leftovers', 'Leftovers');
    await page.waitForSelector('.leftovers');
    await tabToLabel('Choose leeward-worker-7');
    await page.keyboard.press('Space');
    await see(page, '.choose', 'Remove the 1 chosen');
    await page.keyboard.down('Shift');
    for (let at = 0; at < 10 && !(await focused(page)).startsWith('Remove the'); at += 1) await page.keyboard.press('Tab');
    await page.keyboard.up('Shift');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    assert.equal(await label(), 'What is removed', 'what is removed is read first');
    await tabTo(page, 'Remove for good', 5);
    await page.keyboard.press('Enter');
    await see(page, 'dialog', '1 of 1 are removed');
    await see(page, '.panel h2', '3 leftovers');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => !document.querySelector('dialog'));
    assert.equal(await focused(page), 'Leftovers', 'its button cannot be used any more, so the heading has the focus');
    await page.browserContext().close();
  });

  test('the first Tab offers to skip to the content, and it does', async () => {
    const page = await open(browser);
    await logIn(page, site, '#/runs');
    await page.reload();
    await see(page, 'main h1', 'Runs');
    await page.keyboard.press('Tab');
    assert.equal(await focused(page), 'Skip to the content');
    await page.keyboard.press('Enter');
    assert.equal(await focused(page), 'Runs');
    assert.match(await page.evaluate(() => location.hash), /runs/);
    await page.browserContext().close();
  });

  test('what has the focus can be seen, on everything that can have it', async () => {
    const page = await open(browser);
    await logIn(page, site, `#/runs/${runs.held.id}`);
    await see(page, '.step', 'Check the file systems');
    for (let at = 0; at < 40; at += 1) {
      await page.keyboard.press('Tab');
      const style = await page.evaluate(() => ({ ...(({ outlineStyle, outlineWidth }) => ({ outlineStyle, outlineWidth }))(getComputedStyle(document.activeElement)), tag: document.activeElement.tagName }));
      if (style.tag !== 'BODY') assert.ok(style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2, JSON.stringify(style));
    }
    await page.browserContext().close();
  });

  test('a chart speaks its points and one of them is chosen', async () => {
    const page = await open(browser);
    await logIn(page, site, `#/images/${encodeURIComponent('db-02/data')}`);
    await page.waitForSelector('.chart-box');
    await page.focus('.chart-box');
    await page.keyboard.press('Home');
    const first = await page.$eval('.chart-box', (box) => box.getAttribute('aria-valuetext'));
    await page.keyboard.press('ArrowRight');
    const second = await page.$eval('.chart-box', (box) => box.getAttribute('aria-valuetext'));
    assert.match(first, /: .* [KMG]iB stored$/);
    assert.notEqual(first, second);
    await page.keyboard.press('Enter');
    await see(page, '.step-panel', 'The chosen snapshot');
    await page.browserContext().close();
  });
});

test('colours follow the system, and the person where there is a choice', async () => {
  const page = await open(browser, { dark: true });
  await logIn(page, site);
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await ground();
  await page.click('[aria-label^="Colours: system"]');
  await page.waitForSelector('[aria-label^="Colours: light"]');
  const light = await ground();
  assert.notEqual(dark, light);
  await page.reload();
  await page.waitForSelector('[aria-label^="Colours: light"]');
  assert.equal(await ground(), light, 'the choice is kept');
  await page.browserContext().close();
});

test('nothing moves for those who asked for that', onlyMock, async () => {
  const page = await open(browser);
  await page.emulateMediaFeatures([{ name: 'prefers-reduced-motion', value: 'reduce' }]);
  await logIn(page, site, `#/runs/${runs.writing.id}`);
  await page.waitForSelector('.halo');
  const moving = await page.evaluate(() => document.getAnimations().length);
  assert.equal(moving, 0);
  await page.browserContext().close();
});

test('states are told by words and signs, not by colour alone', onlyMock, async () => {
  const page = await open(browser);
  await logIn(page, site);
  for (const name of ['schedules', 'notices', 'leftovers']) {
    await page.evaluate((to) => (location.hash = to), `#/${name}`);
    await page.waitForSelector(`.${name} .state`);
    assert.equal(await page.$$eval('main .state', (all) => all.filter((one) => !one.textContent.trim() || !one.querySelector('svg')).length), 0, name);
  }
  await page.evaluate(() => (location.hash = '#/runs'));
  await page.waitForSelector('.runs .state');
  const bare = await page.$$eval('.state, .chip, .tile', (all) => all.filter((one) => !one.textContent.trim() || !one.querySelector('svg')).length);
  assert.equal(bare, 0);
  const signs = await page.evaluate(() => new Map([...document.querySelectorAll('.state')].map((one) => [one.textContent, one.querySelector('path').getAttribute('d')])).size === new Set([...document.querySelectorAll('.state')].map((one) => one.querySelector('path').getAttribute('d'))).size);
  assert.ok(signs, 'each state has a sign of its own');
  await page.browserContext().close();
});
