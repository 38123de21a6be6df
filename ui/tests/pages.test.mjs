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
  for (const [name, heading] of [['', 'Overview'], ['runs', 'Runs'], ['reports', 'Reports'], ['schedules', 'Schedules'], ['imports', 'Imports'], ['images', 'Images'], ['repository', 'Repository'], ['notices', 'Notices'], ['leftovers', 'Leftovers'], ['sites', 'Site'], ['nowhere', 'No such page']]) {
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
    await see(page, '.snapshots', 'nightly, by=anna');
    await press(page, 'Files', '.step-panel');
    await see(page, '.entries', 'Linux swap');
    await press(page, '1', '.entries');
    await see(page, '.entries', 'hello.txt');
    await see(page, '.files', 'the log was not replayed');
    await press(page, 'etc', '.entries');
    await see(page, '.entries', 'hostname');
    await see(page, '.entries', '→ /usr/share/zoneinfo/UTC');
    await press(page, '100% <b>sure</b>', '.entries');
    await see(page, '.files', 'The folder is empty');
    assert.deepEqual((await texts(page, '.trail li')).slice(-1), ['100% <b>sure</b>']);
    await press(page, 'Hold', '.step-panel');
    await page.type('#hold-name', 'case-7');
    await page.type('#hold-reason', 'the court asked');
    await press(page, 'Hold', 'dialog');
    await see(page, '.snapshots', 'case-7');
    await press(page, 'Hold or let go', '.step-panel');
    await see(page, 'dialog', 'the court asked · since');
    await press(page, 'Let go', 'dialog');
    await page.waitForFunction(() => !document.querySelector('.snapshots').textContent.includes('case-7'), { timeout: PATIENCE_MS });
    assert.ok(asked('DELETE', '/holds/case-7').length === 1);
    await press(page, 'Restore', '.step-panel');
    await page.waitForSelector('dialog select');
    await press(page, 'Restore', 'dialog');
    await see(page, 'main h1', 'db-02/data to volumes');
  });

  test('has folders with more than a page shows, and files that are taken', async () => {
    await logIn(page, site, `#/images/${encodeURIComponent('db-02/data')}`);
    await page.waitForSelector('.snapshots .link');
    await page.click('.snapshots .link');
    await press(page, 'Files', '.step-panel');
    await press(page, '1', '.entries');
    await press(page, 'spool', '.entries');
    const rows = () => page.$$eval('.entries li', (all) => all.length);
    await see(page, '.entries', 'message-0199');
    for (const [last, count] of [['message-0399', 400], ['message-0449', 450]]) {
      await press(page, 'Show more', '.files');
      await see(page, '.entries', last);
      assert.equal(await rows(), count);
    }
    assert.equal(await page.$('.files .more'), null);
    await page.evaluate(() => {
      globalThis.saved = [];
      HTMLAnchorElement.prototype.click = function click() {
        globalThis.saved.push(this.download);
      };
      document.querySelector('.trail button').click();
    });
    await press(page, '1', '.entries');
    await press(page, 'hello.txt', '.entries');
    await page.waitForFunction(() => globalThis.saved.length === 1, { timeout: PATIENCE_MS });
    assert.equal(await page.evaluate(() => globalThis.saved[0]), 'hello.txt');
    assert.equal(asked('GET', '/files/content').at(-1).query.path, '/1/hello.txt');
  });

  test('shows those who may only see neither its files nor holds', async () => {
    site.world.role = 'reader';
    await logIn(page, site, `#/images/${encodeURIComponent('db-02/data')}`);
    await page.waitForSelector('.snapshots .link');
    await page.click('.snapshots .link');
    await see(page, '.step-panel', 'Size of the disk');
    assert.deepEqual(await texts(page, '.step-panel button'), []);
  });

  test('is exported to a bucket', async () => {
    await logIn(page, site, `#/images/${encodeURIComponent('db-02/data')}`);
    await see(page, '.panel h2', '27 snapshots');
    await page.click('.snapshots .link');
    await press(page, 'Export', '.step-panel');
    await page.waitForSelector('dialog #bucket');
    assert.equal(await page.$eval('#format', (field) => field.value), 'qcow2');
    await press(page, 'Export', 'dialog');
    await see(page, 'main h1', 'db-02/data to archive');
  });

  test('is found by name', async () => {
    await logIn(page, site, '#/images');
    await page.waitForSelector('main table');
    await page.type('main input[type=search]', 'WEB');
    await see(page, '.sum', '2 images');
  });
});

describe('reports', onlyMock, () => {
  test('say what became of runs, from when on that is whole, and are saved as CSV', async () => {
    await logIn(page, site, '#/reports');
    await see(page, '.panel h2', 'By kind and schedule');
    await see(page, '.report', 'nightly');
    assert.match(await rowOf('backup'), /nightly.*7\.0 GiB/);
    assert.match(await rowOf('web-01/root'), /20.*1 d/);
    assert.deepEqual(await texts(page, 'main .reason'), []);
    await page.$eval('input[name=kind]', (field) => {
      field.value = 'import';
      field.dispatchEvent(new Event('change', { bubbles: true }));
    });
    await page.waitForFunction(() => document.querySelectorAll('.report')[0]?.querySelectorAll('tbody tr').length === 1, { timeout: PATIENCE_MS });
    const { query } = asked('GET', '/v1/reports').at(-1);
    assert.equal(query.kind, 'import');
    assert.ok(Date.parse(query.to) > Date.now() && Date.parse(query.to) - Date.parse(query.from) > 29 * 86_400_000, JSON.stringify(query));
    await page.evaluate(() => {
      globalThis.saved = [];
      HTMLAnchorElement.prototype.click = function click() {
        globalThis.saved.push(this.download);
      };
    });
    await press(page, 'Save as CSV');
    await page.waitForFunction(() => globalThis.saved.length === 1, { timeout: PATIENCE_MS });
    assert.equal(asked('GET', '/v1/reports').at(-1).query.format, 'csv');
    site.world.since = new Date(Date.now() - 86_400_000).toISOString();
    await page.$eval('input[name=kind]', (field) => {
      field.value = '';
      field.dispatchEvent(new Event('change', { bubbles: true }));
    });
    await see(page, 'main .reason', 'may be forgotten');
  });
});

/** The row of a table that begins with this name, as text. */
const rowOf = (name) => page.evaluate((wanted) => [...document.querySelectorAll('main tbody tr')].find((row) => row.querySelector('th').textContent.startsWith(wanted))?.textContent, name);
/** Presses a button of the row with this name. */
const pressOf = async (name, word) => {
  await page.waitForSelector(`button[aria-label="${word}: ${name}"]`);
  await page.click(`button[aria-label="${word}: ${name}"]`);
  await page.waitForSelector('dialog[open]');
};

describe('schedules', onlyMock, () => {
  test('say what they do, when, and what came of the last time', async () => {
    await logIn(page, site, '#/schedules');
    await see(page, '.panel h2', '5 schedules');
    assert.match(await rowOf('nightly'), /backs up disks.*30 2 \* \* \* full every 30d \(Europe\/Berlin\), up to 10 min later.*on.*in 6 h.*17 h ago.*succeeded/);
    assert.match(await rowOf('noon'), /missed.*its time was missed, and 2 before it/);
    assert.match(await rowOf('look'), /failed.*the service answers 500/);
    assert.match(await rowOf('tidy'), /paused.*by bert.*–.*forgotten/);
    assert.match(await rowOf('state'), /none yet/);
    await page.click('.schedules tbody a');
    await see(page, 'main .state', 'failed');
  });

  test('are fired after a question, fully where that is asked for; it leads to the run', async () => {
    await logIn(page, site, '#/schedules');
    await pressOf('nightly', 'Fire now');
    await see(page, 'dialog', 'A run begins at once: it backs up disks. The times of the schedule stay as they are.');
    await press(page, 'Leave it as it is', 'dialog');
    assert.equal(asked('POST', '/fire').length, 0, 'leaving changes nothing');
    await pressOf('nightly', 'Fire now');
    await page.click('dialog [name=full]');
    await press(page, 'Fire now', 'dialog');
    await see(page, 'main h1', 'backup of nightly');
    const [request] = asked('POST', '/fire');
    assert.equal(request.path, '/v1/schedules/nightly/fire');
    assert.deepEqual(request.body, { full: true });
    assert.match(request.headers['idempotency-key'], /^[0-9a-f]{32}$/);
    await visit(page, '#/schedules', 'Schedules');
    await see(page, '.schedules .state', 'queued');
    assert.equal((await page.$$('button[aria-label="Fire now: nightly"]')).length, 0, 'a run of it is not over');
    await pressOf('look', 'Fire now');
    assert.equal((await page.$$('dialog [name=full]')).length, 0, 'only backups are full ones');
    const look = site.world.schedules[0];
    site.world.find(look.last_run).state = 'running';
    await press(page, 'Fire now', 'dialog');
    await see(page, 'dialog .problem', 'begins one run at a time');
    await see(page, 'dialog .problem .hint', 'decide anew');
    assert.deepEqual(asked('POST', '/fire')[1].body, {});
  });

  test('are paused and resumed, each after a question that says what that does', async () => {
    await logIn(page, site, '#/schedules');
    await pressOf('nightly', 'Pause');
    await see(page, 'dialog', 'the images grow older than they should be');
    await see(page, 'dialog', 'not made up for');
    await press(page, 'Pause', 'dialog');
    await see(page, '[role=status]', 'nightly is paused');
    await page.waitForSelector('button[aria-label="Resume: nightly"]');
    assert.match(await rowOf('nightly'), /paused.*by anna/);
    await pressOf('nightly', 'Resume');
    await see(page, 'dialog', 'What passed while it was paused by anna is not made up for');
    await press(page, 'Resume', 'dialog');
    await page.waitForSelector('button[aria-label="Pause: nightly"]');
    assert.deepEqual([...asked('POST', '/pause'), ...asked('POST', '/resume')].map(({ path, body }) => [path, body]), [['/v1/schedules/nightly/pause', {}], ['/v1/schedules/nightly/resume', {}]]);
  });

  test('that missed or failed are on the overview; without any there is nothing of it', async () => {
    await logIn(page, site);
    await see(page, '.troubled', 'look');
    await see(page, '.troubled', 'its time was missed, and 2 before it');
    assert.deepEqual(await texts(page, '.troubled b'), ['look', 'noon']);
    for (const schedule of site.world.schedules) Object.assign(schedule, { note: 'begun by missed', last_state: schedule.last_state && 'succeeded' });
    await page.reload();
    await see(page, '.tile', 'under way');
    await visit(page, '#/schedules', 'Schedules');
    await see(page, '.schedules', 'begun by missed');
    await visit(page, '#/', 'Overview');
    await see(page, '.tile', 'under way');
    assert.equal((await page.$$('.troubled')).length, 0);
  });

  test('where there is none, how to make one is said', async () => {
    site.world.schedules = [];
    await logIn(page, site, '#/schedules');
    await see(page, '.empty', '[schedule.NAME]');
  });
});

describe('notices', onlyMock, () => {
  test('say who is told, what waits, what was given up and why', async () => {
    await logIn(page, site, '#/notices');
    await see(page, '.notices', '503 Service Unavailable');
    assert.match(await rowOf('operators'), /webhook.*failed, held, undo failed, missed, trouble/);
    assert.equal((await texts(page, '.notices tbody tr')).length, 3);
    assert.match(await rowOf('schedule noon'), /not yet.*due now/);
    await page.select('select[name=state]', 'failed');
    await page.waitForFunction(() => document.querySelectorAll('.notices tbody tr').length === 1);
    await see(page, '.notices', 'relaying denied');
    assert.match(await page.evaluate(() => location.hash), /state=failed/);
    await page.select('select[name=state]', 'all');
    await page.waitForFunction(() => document.querySelectorAll('.notices tbody tr').length === 50);
    await press(page, 'Older');
    await page.waitForFunction(() => document.querySelectorAll('.notices tbody tr').length === 23);
    await press(page, 'Newer');
    await page.waitForFunction(() => document.querySelectorAll('.notices tbody tr').length === 50);
    await page.click('.notices tbody a');
    await see(page, 'main h1', '#');
  });

  test('a receiver is tested after a question, and its answer is shown', async () => {
    await logIn(page, site, '#/notices');
    await pressOf('operators', 'Test');
    await see(page, 'dialog', 'It says that it is a test');
    await press(page, 'Test', 'dialog');
    await see(page, 'dialog .state', 'taken');
    await see(page, 'dialog .said', '204 No Content');
    await page.waitForFunction(() => document.activeElement.textContent === 'Close');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => !document.querySelector('dialog'));
    await pressOf('storage-team', 'Test');
    await press(page, 'Test', 'dialog');
    await see(page, 'dialog .state', 'not taken');
    await see(page, 'dialog .said', 'relaying denied');
    await see(page, 'dialog', '[notify.storage-team]');
    assert.deepEqual(asked('POST', '/test').map(({ path, body }) => [path, body]), [['/v1/notify/operators/test', {}], ['/v1/notify/storage-team/test', {}]]);
    await press(page, 'Close', 'dialog');
    site.world.receivers = [];
    await pressOf('operators', 'Test');
    await press(page, 'Test', 'dialog');
    await see(page, 'dialog .problem', 'this site tells nobody called operators');
  });

  test('where nobody is told, how to change that is said', async () => {
    Object.assign(site.world, { receivers: [], deliveries: [] });
    await logIn(page, site, '#/notices');
    await see(page, '.empty', '[notify.NAME]');
    await see(page, '.empty', 'No notice is like that');
  });
});

describe('leftovers', onlyMock, () => {
  test('say what is left, where, since when, of which run and why, and which targets did not answer', async () => {
    site.world.leftoverProblems = [{ target: 'far', what: 'the service answers 401' }];
    await logIn(page, site, '#/leftovers');
    await see(page, '.panel h2', '4 leftovers');
    assert.match(await rowOf('debian-13'), /volume, AVAILABLE, 50\.0 GiBocid1.*volumes.*9 d.*failed.*removable.*its run has ended without it/);
    assert.match(await rowOf('db-02-data'), /400 d.*not known here.*only by its id.*may be what it delivered/);
    assert.match(await rowOf('mail-root'), /shelfattached to i-0a1b2c3d.*not known/);
    await see(page, '.problem', 'Target far could not be asked');
    site.world.leftovers = [];
    await press(page, 'Look again');
    await see(page, '.empty', 'Nothing is left in the targets that answered');
    assert.equal(asked('GET', '/leftovers').length, 2, 'clouds are asked when a person asks');
  });

  test('those that are chosen are removed after a question that names them; what became of each is shown', async () => {
    await logIn(page, site, '#/leftovers');
    await press(page, 'Choose all removable');
    await press(page, 'Remove the 2 chosen');
    assert.deepEqual(await texts(page, 'dialog .named b'), ['debian-13.qcow2', 'leeward-worker-7']);
    assert.equal((await page.$$('dialog [name=looked]')).length, 0);
    await press(page, 'Leave it as it is', 'dialog');
    await press(page, 'Choose none');
    for (const name of ['debian-13.qcow2', 'mail-root']) await page.click(`input[aria-label="Choose ${name}"]`);
    await press(page, 'Remove the 2 chosen');
    await see(page, 'dialog', 'They cannot be brought back');
    await see(page, 'dialog .named', 'only by its id');
    await press(page, 'Remove for good', 'dialog');
    assert.equal(asked('POST', '/remove').length, 0, 'who has not looked does not remove');
    await page.click('dialog [name=looked]');
    await press(page, 'Remove for good', 'dialog');
    await see(page, 'dialog', '1 of 2 are removed');
    await see(page, 'dialog .named', 'it is attached to i-0a1b2c3d');
    assert.deepEqual(asked('POST', '/remove')[0].body, { ids: ['ocid1.volume.oc1.eu-frankfurt-1.abtheljraaaa4nvq5z3example', 'vol-attached'] });
    await press(page, 'Close', 'dialog');
    await see(page, '.panel h2', '3 leftovers');
    await press(page, 'Choose none');
    await press(page, 'Choose all removable');
    await press(page, 'Remove the 1 chosen');
    await press(page, 'Remove for good', 'dialog');
    await see(page, 'dialog', '1 of 1 are removed');
    assert.equal(asked('POST', '/remove')[1].body.target, 'volumes');
  });
});

test('readers see schedules, notices and leftovers, and no button that changes them', onlyMock, async () => {
  site.world.role = 'reader';
  await logIn(page, site, '#/schedules');
  await see(page, '.schedules', 'nightly');
  assert.deepEqual(await texts(page, 'main button'), []);
  await visit(page, '#/notices', 'Notices');
  await see(page, '.notices', '503');
  assert.deepEqual(await texts(page, 'main button'), []);
  await visit(page, '#/leftovers', 'Leftovers');
  await see(page, '.leftovers', 'debian-13');
  assert.deepEqual(await texts(page, 'main button'), ['Look again']);
  assert.equal((await page.$$('main input')).length, 0);
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
    site.world.images[0].snapshots.at(-1).tags = { [evil]: '' };
    Object.assign(site.world.schedules[0], { name: evil, times: evil, note: `no run: ${evil}`, last_reason: evil, paused: true, paused_by: evil });
    Object.assign(site.world.receivers[0], { name: evil, way: evil, on: [evil] });
    Object.assign(site.world.deliveries[0], { title: evil, outcome: evil, receiver: evil, about: evil });
    Object.assign(site.world.leftovers[0], { name: evil, id: evil, target: evil, why: evil, run: evil, attached_to: [evil] });
    site.world.leftoverProblems = [{ target: evil, what: evil }];
    await logIn(page, site);
    await see(page, '.attention', '<img src=x');
    await see(page, '.troubled', '<img src=x');
    for (const [name, heading] of [['schedules', 'Schedules'], ['notices', 'Notices'], ['leftovers', 'Leftovers']]) {
      await visit(page, `#/${name}`, heading);
      await see(page, `main table.cards`, '<img src=x');
    }
    await see(page, '.problem', '<script>');
    await page.click('.leftovers tbody input');
    await press(page, 'Remove the 1 chosen', '.choose');
    await see(page, 'dialog .named', '<img src=x');
    await press(page, 'Leave it as it is', 'dialog');
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
    for (const name of ['overview', 'reports', 'schedules', 'notify', 'leftovers', 'events', 'objects', 'log', 'repository', 'files', 'images', 'snapshots']) site.world.absent.add(name);
    const run = held(site.world);
    await logIn(page, site);
    await see(page, '.not-offered', 'does not offer an overview');
    await see(page, '.connection', 'no live events');
    await visit(page, '#/schedules', 'Schedules');
    await see(page, '.not-offered', 'does not offer schedules');
    await visit(page, '#/notices', 'Notices');
    await see(page, '.not-offered', 'does not offer notices');
    await visit(page, '#/leftovers', 'Leftovers');
    await see(page, '.not-offered', 'does not offer leftovers');
    assert.deepEqual(await texts(page, '.actions button'), []);
    await visit(page, '#/sites', 'Site east');
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
