// What a person does on the pages, and what they then show and send.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';

import { launch, logIn, open, PATIENCE_MS, press, see, texts, troubles, visit } from './browser.mjs';
import { held, writing } from './scenes.mjs';
import { onlyMock, REAL, site as start } from './site.mjs';

let browser;
let site;
let page;

before(async () => {
  browser = await launch();
});
after(() => browser.close());
beforeEach(async () => {
  site = await start();
  page = await open(browser);
});
afterEach(async () => {
  assert.deepEqual(await troubles(page), []);
  await page.browserContext().close();
  await site.close();
});

const asked = (method, end) => site.world.requests.filter((request) => request.method === method && request.path.endsWith(end));

describe('the door', () => {
  test('a token that is not accepted is refused with a reason, and a good one opens', async () => {
    page.origin = site.url;
    await page.goto(site.url);
    await page.type('#token', 'nonsense');
    await page.keyboard.press('Enter');
    await see(page, '.problem', 'not accepted');
    await page.$eval('#token', (field) => (field.value = ''));
    await page.type('#token', site.token);
    await press(page, 'Log in');
    await see(page, 'main h1', 'Overview');
  });

  test('a token stays when the page is loaded again, and goes when the person does', async () => {
    await logIn(page, site);
    await page.reload();
    await see(page, 'main h1', 'Overview');
    assert.equal(await page.evaluate(() => localStorage.getItem('leeward.token')), null, 'the token is not kept beyond the tab');
    await page.click('.me button:last-child');
    await page.waitForSelector('#token');
    assert.equal(await page.evaluate(() => sessionStorage.getItem('leeward.token')), null);
  });

  test('a token that ends while one works leads back to the door', onlyMock, async () => {
    await logIn(page, site);
    await page.evaluate(() => sessionStorage.setItem('leeward.token', 'old'));
    await page.evaluate(() => (location.hash = '#/images'));
    await see(page, '.problem', 'not accepted');
    await page.waitForSelector('#token');
  });
});

describe('every page', () => {
  for (const [name, heading] of [['', 'Overview'], ['runs', 'Runs'], ['imports', 'Imports'], ['images', 'Images'], ['repository', 'Repository'], ['sites', 'Site'], ['nowhere', 'No such page']]) {
    test(`“${heading}” is shown, with its title and without trouble`, async () => {
      await logIn(page, site);
      await visit(page, `#/${name}`, heading);
      await page.waitForFunction(() => !document.querySelector('main .loading'), { timeout: PATIENCE_MS });
      assert.match(await page.title(), new RegExp(`^${heading}.*Leeward$`));
      const trouble = await texts(page, 'main .problem');
      assert.deepEqual(trouble, []);
    });
  }
});

describe('the overview', onlyMock, () => {
  test('says what needs a person, what is protected, and what is not', async () => {
    held(site.world);
    await logIn(page, site);
    await see(page, '.attention', 'e2fsck ends with 4');
    const tiles = await texts(page, '.tile');
    assert.ok(tiles.includes('4 of 7protected') && tiles.includes('3not protected') && tiles.includes('1need a person'), tiles.join('|'));
    await page.click('.attention a');
    await see(page, 'main h1', 'legacy.example');
  });
});

describe('the list of runs', onlyMock, () => {
  test('is filtered by state, kind and text, and the address keeps the filter', async () => {
    held(site.world);
    await logIn(page, site, '#/runs');
    await see(page, '.sum', '100 runs, and more');
    await page.select('select[name=state]', 'held,undo-failed');
    await see(page, '.sum', '1 run');
    assert.match(await page.evaluate(() => location.hash), /state=held%2Cundo-failed/);
    await page.reload();
    await see(page, '.sum', '1 run');
    await press(page, 'Show all');
    await see(page, '.sum', '100 runs');
    await page.type('input[name=text]', 'mail/root #2');
    await page.waitForFunction(() => [...document.querySelectorAll('.runs tbody th')].every((cell) => cell.textContent.includes('mail/root #2')) && document.querySelectorAll('.runs tbody tr').length > 3);
    await page.type('input[name=kind]', 'backup');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => [...document.querySelectorAll('[data-label=Kind]')].every((cell) => cell.textContent === 'backup'));
    assert.ok((await texts(page, '.runs tbody tr')).length > 0);
    await page.select('select[name=state]', 'undoing');
    await see(page, '.empty', 'No run is like that');
  });

  test('comes a page at a time, each run once', async () => {
    await logIn(page, site, '#/runs');
    await press(page, 'Show 100 more');
    await see(page, '.sum', '200 runs');
    await press(page, 'Show 100 more');
    await see(page, '.sum', '250 runs');
    assert.equal((await page.$$('.more')).length, 0);
    const all = await page.$$eval('.runs tbody a', (links) => links.map((one) => one.hash));
    assert.equal(new Set(all).size, 250);
  });

  test('shows a new run and a changed one without being asked, and keeps the pages that were read', async () => {
    await logIn(page, site, '#/runs');
    await press(page, 'Show 100 more');
    await see(page, '.sum', '200 runs');
    const run = site.world.make({ subject: 'new.qcow2' });
    site.world.tell(run, { event: 'created' });
    await see(page, '.runs tbody tr:first-child', 'new.qcow2');
    await see(page, '.runs tbody tr:first-child', 'queued');
    site.world.begin(run, 'get_file_head');
    await see(page, '.runs tbody tr:first-child .state', 'running');
    site.world.end(run, 'get_file_head');
    await see(page, '.runs tbody tr:first-child .steps', '1 of 14');
    assert.ok((await page.$$('.runs tbody tr')).length >= 200);
  });
});

describe('a run', onlyMock, () => {
  test('is followed live: steps, bytes, rate, log, end', async () => {
    const run = writing(site.world);
    await logIn(page, site, `#/runs/${run.id}`);
    await see(page, '.step', 'Write the image');
    await see(page, '.step', '37 %');
    assert.equal((await page.$$('.graph .node')).length, 14);
    assert.equal((await page.$$('.graph .edge')).length, 14);
    for (let at = 1; at <= 3; at += 1) {
      await new Promise((done) => setTimeout(done, 700));
      site.world.advance(run, 'write_image_to_bv', (1.2 + at * 0.2) * 2 ** 30, 3.2 * 2 ** 30);
    }
    await see(page, '.whole', '56 %');
    await see(page, '.whole', 'MiB/s');
    await see(page, '.whole', 'left');
    site.world.say(run, 'write_image_to_bv', 'read back: every byte is as it was');
    await see(page, '.log-lines', 'every byte is as it was');
    site.world.end(run, 'write_image_to_bv');
    await see(page, '.whole', '9 of 14 steps');
    await see(page, '[role=status]', 'write_image_to_bv succeeded');
    for (const name of ['fsck_on_block_volume', 'detach_block_volume', 'terminate_instance', 'update_performance_of_bv', 'setup_backup_policy']) {
      site.world.begin(run, name);
      site.world.end(run, name);
    }
    site.world.move(run, 'succeeded');
    await see(page, '.head .state', 'succeeded');
    assert.deepEqual(await texts(page, '.actions button'), []);
  });

  test('that is held says why and what to do, and is retried after a question', async () => {
    const run = held(site.world);
    await logIn(page, site, `#/runs/${run.id}`);
    await see(page, '.problem', 'e2fsck ends with 4');
    await see(page, '.problem .hint', 'Mend the image');
    await press(page, 'Retry', '.actions');
    await see(page, 'dialog', 'What has succeeded is not done twice');
    await press(page, 'Leave it as it is', 'dialog');
    assert.equal(asked('POST', '/retry').length, 0, 'leaving changes nothing');
    await press(page, 'Retry', '.actions');
    await press(page, 'Retry', 'dialog');
    await see(page, '.head .state', 'running');
    assert.equal(asked('POST', '/retry').length, 1);
    assert.match(asked('POST', '/retry')[0].headers['idempotency-key'], /^[0-9a-f]{32}$/);
  });

  test('is retried with other inputs: only what differs is sent', async () => {
    const run = held(site.world);
    await logIn(page, site, `#/runs/${run.id}`);
    await press(page, 'Retry with other inputs', '.actions');
    await page.waitForSelector('#inputs');
    await page.$eval('#inputs', (field) => {
      field.value = '{ no json';
      field.dispatchEvent(new Event('input'));
    });
    await see(page, 'dialog .hint', 'This is no JSON');
    await press(page, 'Change and retry', 'dialog');
    await see(page, 'dialog .problem', 'no JSON object');
    await page.$eval('#inputs', (field) => {
      field.value = JSON.stringify({ source: 'bucket', object: 'mended.qcow2', target: 'volumes', on_bad_file_system: 'warn' });
      field.dispatchEvent(new Event('input'));
    });
    await see(page, 'dialog .hint', 'Changed: object, on_bad_file_system, options');
    await press(page, 'Change and retry', 'dialog');
    await see(page, '.head .state', 'running');
    assert.deepEqual(run.inputs, { source: 'bucket', object: 'mended.qcow2', target: 'volumes', on_bad_file_system: 'warn' });
  });

  test('goes on without a step that is skipped, with the reason', async () => {
    const run = held(site.world);
    await logIn(page, site, `#/runs/${run.id}`);
    await press(page, 'Show the step');
    await see(page, '.step-panel', 'Retry from here');
    await press(page, 'Skip', '.step-panel');
    await page.type('#reason', 'the disk is <b>meant</b> to be like that');
    await press(page, 'Skip', 'dialog');
    await see(page, '.step-panel .facts', 'the disk is <b>meant</b> to be like that');
    await see(page, '.head .state', 'running');
  });

  test('is cancelled after a question that names what is undone', async () => {
    const run = writing(site.world);
    await logIn(page, site, `#/runs/${run.id}`);
    await press(page, 'Cancel', '.actions');
    await see(page, 'dialog', 'undone, in reverse order: attach_block_volume, create_block_volume, create_instance');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('dialog'));
    assert.equal(run.state, 'running');
    await press(page, 'Cancel', '.actions');
    await press(page, 'Cancel the run', 'dialog');
    await see(page, '.head .state', 'cancelled');
  });

  test('that cannot be changed any more: the daemon’s refusal is shown in the window', async () => {
    const run = held(site.world);
    await logIn(page, site, `#/runs/${run.id}`);
    await press(page, 'Undo', '.actions');
    await page.waitForSelector('dialog');
    run.state = 'succeeded';
    await press(page, 'Undo', 'dialog');
    await see(page, 'dialog .problem', 'it is succeeded');
    await press(page, 'Leave it as it is', 'dialog');
  });

  test('that does not exist is said not to', async () => {
    await logIn(page, site, '#/runs/00000000000000000000000000');
    await see(page, '.problem', 'No such run');
  });

  test('shows its buttons to those who may', async () => {
    site.world.role = 'reader';
    const run = held(site.world);
    await logIn(page, site, `#/runs/${run.id}?step=fsck_on_block_volume`);
    await see(page, '.step-panel', 'Check the file systems');
    assert.deepEqual(await texts(page, '.actions button, .step-panel .buttons button'), []);
    await visit(page, '#/imports', 'Imports');
    await see(page, '.empty', 'it can watch imports, not begin them');
  });
});

describe('an import by hand', onlyMock, () => {
  test('takes an object from the list and leads to its run', async () => {
    await logIn(page, site, '#/imports');
    await see(page, '.pick', 'debian-13.qcow2');
    await page.type('.objects input[type=search]', 'disks/');
    await page.waitForFunction(() => document.querySelectorAll('.pick li').length === 2);
    await page.click('.pick li:nth-child(2) label');
    await page.type('#volume_name', 'web 01');
    await page.type('#ad_number', '2');
    await page.click('form details summary');
    await page.type('#more', 'rate_limit = 100MiB\nverify = true');
    await press(page, 'Begin the import');
    await see(page, 'main h1', 'disks/web-01.vhdx');
    assert.deepEqual(site.world.runs[0].inputs, { source: 'bucket', object: 'disks/web-01.vhdx', target: 'volumes', options: { volume_name: 'web 01', ad_number: 2, rate_limit: '100MiB', verify: true } });
  });

  test('that is refused keeps what was written', async () => {
    await logIn(page, site, '#/imports');
    await page.waitForSelector('#object');
    await page.type('#object', 'notes.txt');
    await press(page, 'Begin the import');
    await see(page, '.problem', 'Not an image');
    await see(page, '.problem .hint', 'Choose a qcow2');
    assert.equal(await page.$eval('#object', (field) => field.value), 'notes.txt');
  });
});

describe('an image', onlyMock, () => {
  test('is seen along time, restored, held, and its files are browsed', async () => {
    await logIn(page, site, `#/images/${encodeURIComponent('db-02/data')}`);
    await see(page, '.panel h2', '27 snapshots');
    assert.equal((await page.$$('.bar-of')).length, 27);
    await see(page, '.snapshots', 'audit');
    await page.click('.snapshots .link');
    await press(page, 'Files', '.step-panel');
    await press(page, '1', '.entries');
    await see(page, '.entries', 'hello.txt');
    await press(page, 'etc', '.entries');
    await see(page, '.entries', 'hostname');
    await press(page, 'Hold', '.step-panel');
    await page.type('#hold-name', 'case-7');
    await press(page, 'Hold', 'dialog');
    await see(page, '.snapshots', 'case-7');
    await press(page, 'Restore', '.step-panel');
    await page.waitForSelector('dialog select');
    await press(page, 'Restore', 'dialog');
    await see(page, 'main h1', 'db-02/data to volumes');
  });

  test('is found by name', async () => {
    await logIn(page, site, '#/images');
    await page.waitForSelector('main table');
    await page.type('main input[type=search]', 'WEB');
    await see(page, '.sum', '2 images');
  });
});

describe('what comes from outside', onlyMock, () => {
  test('stays text, wherever it is shown', async () => {
    const evil = '<img src=x onerror="globalThis.broken=1"><script>globalThis.broken=1</script>';
    const run = held(site.world, evil);
    Object.assign(run, { by: evil, labels: { [evil]: evil }, inputs: { [evil]: evil, node: { type: 'img', props: { src: 'x' }, __k: null } } });
    run.plan.steps[0].title = evil;
    Object.assign(run.steps[0], { outputs: { evil }, skipped: evil });
    run.steps.find((step) => step.failure).failure = { message: evil, hint: evil, passing: false };
    site.world.say(run, 'get_file_head', evil, 'error');
    run.reason = evil;
    site.world.images[0].image = evil;
    site.world.images[0].snapshots.at(-1).label = evil;
    await logIn(page, site);
    await see(page, '.attention', '<img src=x');
    await visit(page, '#/runs', 'Runs');
    await see(page, '.runs', '<img src=x');
    await visit(page, `#/runs/${run.id}?step=get_file_head`, '<img src=x');
    await see(page, '.log-lines', '<script>');
    await page.$$eval('details', (all) => all.forEach((one) => (one.open = true)));
    await visit(page, `#/images/${encodeURIComponent(evil)}`, '<img src=x');
    await see(page, '.snapshots', '<img src=x');
    assert.equal(await page.evaluate(() => globalThis.broken), undefined);
    assert.deepEqual(await page.$$eval('img, main script', (all) => all.map((one) => one.outerHTML)), []);
  });

  test('a name made of signs keeps its page', async () => {
    const odd = 'a/b?c=d#e%2F&f g';
    site.world.images[0].image = odd;
    await logIn(page, site, '#/images');
    await page.waitForSelector('main tbody a');
    await page.evaluate((name) => [...document.querySelectorAll('main tbody a')].find((one) => one.textContent === name).click(), odd);
    await see(page, 'main h1', odd);
    await see(page, '.panel h2', 'snapshots');
  });
});

describe('a daemon that lacks things', onlyMock, () => {
  test('leaves the pages usable, and they say so', async () => {
    for (const name of ['overview', 'schedules', 'events', 'objects', 'log', 'repository', 'files', 'images', 'snapshots']) site.world.absent.add(name);
    const run = held(site.world);
    await logIn(page, site);
    await see(page, '.not-offered', 'does not offer an overview');
    await see(page, '.connection', 'no live events');
    await visit(page, '#/sites', 'Site east');
    await see(page, '.not-offered', 'does not offer schedules');
    await see(page, 'main', 's3://backups/east');
    await visit(page, '#/repository', 'Repository');
    await see(page, '.not-offered', 'does not offer figures of its repository');
    await visit(page, '#/images', 'Images');
    await see(page, '.not-offered', 'does not offer a list of images');
    await visit(page, `#/runs/${run.id}`, 'legacy');
    await see(page, '.not-offered', 'does not offer logs');
    await see(page, '.problem', 'e2fsck');
    await visit(page, '#/imports', 'Imports');
    await see(page, '.not-offered', 'does not offer a list of the objects');
    await page.type('#object', 'debian-13.qcow2');
    await press(page, 'Begin the import');
    await see(page, 'main h1', 'debian-13.qcow2');
    site.world.begin(site.world.runs[0], 'get_file_head');
    await see(page, '.head .state', 'running');
  });
});

if (REAL) console.log(`against ${REAL}: tests that decide what happens at the site are left out`);
