// Takes pictures of every page: `node look.mjs [NAME…]`. Somebody has to look at them.

import { launch, logIn, open, press, see, SHOTS, shot, troubles, visit } from './browser.mjs';
import { serve } from './mock.mjs';
import { held, stuck, waiting, writing } from './scenes.mjs';
import { World } from './world.mjs';

const world = new World({ runs: 250 });
stuck(world);
const broken = held(world);
waiting(world);
const busy = writing(world);
setInterval(() => world.advance(busy, 'write_image_to_bv', Math.min(3.2 * 2 ** 30, world.progress.get(busy.id).get('write_image_to_bv').done + 6e7), 3.2 * 2 ** 30, 'range 19 661 of 52 429'), 500).unref();

const site = await serve(world);
const browser = await launch();
const wanted = process.argv.slice(2);
const image = encodeURIComponent('db-02/data');
const PAGES = [
  ['overview', '#/', 'Overview'],
  ['runs', '#/runs', 'Runs'],
  ['run-writing', `#/runs/${busy.id}?step=write_image_to_bv`, 'debian'],
  ['run-held', `#/runs/${broken.id}`, 'legacy'],
  ['imports', '#/imports', 'Imports'],
  ['images', '#/images', 'Images'],
  ['image', `#/images/${image}`, 'db-02/data'],
  ['repository', '#/repository', 'Repository'],
  ['reports', '#/reports', 'Reports'],
  ['files', `#/images/${image}`, 'db-02/data'],
  ['schedules', '#/schedules', 'Schedules'],
  ['notices', '#/notices', 'Notices'],
  ['leftovers', '#/leftovers', 'Leftovers'],
  ['sites', '#/sites', 'Site east'],
];

for (const [look, options] of [['light', {}], ['dark', { dark: true }], ['narrow', { width: 360, height: 740 }]]) {
  const page = await open(browser, options);
  page.origin = site.url;
  if (wanted.length === 0) {
    await page.goto(site.url);
    await page.waitForSelector('#token');
    await shot(page, `login-${look}`, false);
  }
  await logIn(page, site);
  for (const [name, hash, heading] of PAGES) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    await visit(page, hash, heading);
    await new Promise((done) => setTimeout(done, name === 'run-writing' ? 2600 : 500));
    if (name === 'files') {
      await page.evaluate(() => document.querySelector('.snapshots .link').click());
      for (const word of ['Files', '1', 'etc']) {
        await press(page, word);
        await new Promise((done) => setTimeout(done, 300));
      }
    }
    if (name === 'image') await page.evaluate(() => document.querySelector('.snapshots .link').click());
    await new Promise((done) => setTimeout(done, 300));
    await shot(page, `${name}-${look}`, name !== 'runs');
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 0) console.log(`${name}-${look} is ${wide} pixels too wide`);
  }
  for (const trouble of await troubles(page)) console.log(look, trouble);
}
console.log(SHOTS);
await browser.close();
await site.close();
process.exit(0);
