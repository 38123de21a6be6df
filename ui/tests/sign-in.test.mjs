// Signing in at a provider: the browser goes there and comes back, with a cookie that no script sees and a code that leaves the address.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { launch, open, PATIENCE_MS, press, see, shot, texts, troubles } from './browser.mjs';
import { onlyMock, site as start } from './site.mjs';

const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

let browser;
before(async () => {
  browser = await launch();
});
after(() => browser.close());

/** A server of another site than the pages: they are at 127.0.0.1, and it is at localhost. */
async function elsewhere(answer) {
  const server = createServer((request, response) => answer(request, response, new URL(request.url, 'http://localhost')));
  await new Promise((done) => server.listen(0, 'localhost', done));
  return { url: `http://localhost:${server.address().port}`, close: () => (server.closeAllConnections(), new Promise((done) => server.close(done))) };
}

/** Opens the door of a site with a provider whose page says what it is told to send back. */
async function door(query, hash = '#/', look = {}) {
  const site = await start();
  const provider = await elsewhere((request, response, url) => {
    response.writeHead(302, { location: `${site.url}sign-in/company?${query}&state=${url.searchParams.get('state')}` });
    response.end();
  });
  site.world.provider = `${provider.url}/authorize`;
  const page = await open(browser, look);
  await page.goto(site.url + hash);
  await see(page, '.providers button', 'Sign in with company');
  const close = async () => (await page.browserContext().close(), await provider.close(), await site.close());
  return { site, page, close };
}

const session = (page) => page.evaluate(() => sessionStorage.getItem('leeward.token'));

describe('at a made-up site', onlyMock, () => {
  test('one comes back signed in, to where one wanted to go, and nothing of it stays in the address', async () => {
    const { site, page, close } = await door('code=good', '#/images');
    await press(page, 'Sign in with company');
    await see(page, 'main h1', 'Images');
    assert.equal(page.url(), `${site.url}#/images`);
    assert.equal(await session(page), site.token);
    assert.equal(await page.evaluate(() => document.cookie), '', 'no script sees the cookie');
    const cookies = await page.browserContext().cookies();
    assert.deepEqual(cookies.filter(({ name }) => name.includes('leeward')), [], 'it is over');
    const finish = site.world.requests.find((request) => request.path.endsWith('/finish'));
    assert.deepEqual(finish.body, { state: 'state-1', code: 'good' });
    // Loaded again one is still in; logged out one is at the door, and not sent to the provider again by itself.
    await page.reload();
    await see(page, 'main h1', 'Images');
    await page.click('.me button:last-child');
    await see(page, '.providers button', 'Sign in with company');
    assert.equal(await session(page), null);
    assert.deepEqual(await troubles(page), []);
    await close();
  });

  test('who is not let in, or has no role, is told so at the door, and is not sent around', async () => {
    for (const [query, told] of [['error=access_denied&error_description=%3Cb%3Ecall', 'you have declined'], ['code=other', 'has no role here']]) {
      const { site, page, close } = await door(query);
      await press(page, 'Sign in with company');
      await see(page, '.problem', told);
      assert.deepEqual(await texts(page, '.problem strong'), ['Signing in did not work']);
      assert.equal(page.url(), site.url);
      await page.waitForSelector('#token');
      assert.equal(await session(page), null);
      assert.equal(site.world.requests.filter((request) => request.path.endsWith('/finish')).length, 1);
      assert.deepEqual(await troubles(page), []);
      await close();
    }
  });

  test('what somebody else has begun does not sign one in', async () => {
    const { site, page, close } = await door('code=good');
    await page.goto(`${site.url}sign-in/company?code=good&state=state-1`);
    await see(page, '.problem', 'has not begun');
    assert.equal(page.url(), site.url);
    assert.equal(await session(page), null);
    // There is nothing to send on.
    await page.goto(`${site.url}sign-in/company`);
    await page.waitForSelector('#token');
    assert.deepEqual(await texts(page, '.problem'), []);
    await close();
  });

  test('a way back that leads elsewhere is not asked for', async () => {
    const { site, page, close } = await door('code=good', '#//evil.example/x');
    await press(page, 'Sign in with company');
    await see(page, 'main h1', 'Overview');
    assert.equal(site.world.back, '/');
    await close();
  });

  test('it works by keyboard alone, fits, and has no finding of axe-core', async () => {
    for (const [look, options] of [['light', {}], ['dark', { dark: true }], ['narrow', { width: 360, height: 740 }]]) {
      const { page, close } = await door('code=good', '#/', options);
      await shot(page, `login-providers-${look}`, false);
      await page.evaluate(AXE);
      const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
      assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`), []);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(wide <= 0, `${wide} pixels wider than the screen`);
      await page.focus('#token');
      await page.keyboard.press('Tab');
      await page.keyboard.press('Tab');
      assert.equal(await page.evaluate(() => document.activeElement.textContent.trim()), 'Sign in with company');
      await page.keyboard.press('Enter');
      await see(page, 'main h1', 'Overview');
      await close();
    }
  });

  test('without a provider the door is as it was', async () => {
    const site = await start();
    const page = await open(browser);
    await page.goto(site.url);
    await page.waitForSelector('#token');
    await page.waitForNetworkIdle({ timeout: PATIENCE_MS });
    assert.deepEqual(await texts(page, '.providers'), []);
    await page.browserContext().close();
    await site.close();
  });
});

const DAEMON = process.env.LEEWARD_UI_DAEMON;
const onlyDaemon = DAEMON && existsSync(DAEMON) ? {} : { skip: 'LEEWARD_UI_DAEMON does not name the program leeward' };

/** A provider that lets everybody in as alice, in the groups that `who` has at that time. */
async function openIdProvider(who) {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const codes = new Map();
  const provider = await elsewhere(async (request, response, url) => {
    const send = (value) => (response.writeHead(200, { 'content-type': 'application/json' }), response.end(JSON.stringify(value)));
    if (url.pathname.endsWith('/openid-configuration')) return send({ issuer: provider.url, jwks_uri: `${provider.url}/keys`, authorization_endpoint: `${provider.url}/authorize`, token_endpoint: `${provider.url}/token` });
    if (url.pathname === '/keys') return send({ keys: [{ ...publicKey.export({ format: 'jwk' }), kid: 'k' }] });
    if (url.pathname === '/authorize') {
      const code = String(codes.size);
      codes.set(code, Object.fromEntries(url.searchParams));
      response.writeHead(302, { location: `${url.searchParams.get('redirect_uri')}?code=${code}&state=${url.searchParams.get('state')}` });
      return response.end();
    }
    const pieces = [];
    for await (const piece of request) pieces.push(piece);
    const form = new URLSearchParams(Buffer.concat(pieces).toString());
    const asked = codes.get(form.get('code'));
    assert.equal(createHash('sha256').update(form.get('code_verifier')).digest('base64url'), asked.code_challenge);
    const now = Math.floor(Date.now() / 1000);
    const claims = { iss: provider.url, sub: '1', aud: 'pages', iat: now, exp: now + 600, nonce: asked.nonce, preferred_username: 'alice', groups: who.groups };
    const message = `${encoded({ alg: 'EdDSA', kid: 'k', typ: 'JWT' })}.${encoded(claims)}`;
    return send({ id_token: `${message}.${sign(null, Buffer.from(message), privateKey).toString('base64url')}`, token_type: 'Bearer', access_token: 'x' });
  });
  return provider;
}

/** A daemon of its own, with a provider: `{ url, close }`. */
async function daemonWith(provider) {
  const folder = await mkdtemp(path.join(tmpdir(), 'leeward-sign-in-'));
  const config = path.join(folder, 'site.toml');
  const made = spawnSync(DAEMON, ['server', 'init', '--config', config], { encoding: 'utf8' });
  assert.equal(made.status, 0, made.stderr);
  const free = createServer();
  await new Promise((done) => free.listen(0, '127.0.0.1', done));
  const { port } = free.address();
  await new Promise((done) => free.close(done));
  const url = `http://127.0.0.1:${port}`;
  const text = (await readFile(config, 'utf8')).replace('127.0.0.1:7443', `127.0.0.1:${port}`).replace(/^#url = "https:\/\/leeward.*$/m, `url = "${url}"`);
  await writeFile(config, `${text}\n[server.oidc.company]\nissuer = "${provider.url}"\naudience = ["pages"]\ntokens = "id"\nroles_claim = "groups"\nroles = { team = "operator" }\nsign_in = { client_id = "pages" }\n`);
  const child = spawn(DAEMON, ['server', '--config', config], { stdio: 'ignore' });
  const close = async () => {
    const ended = new Promise((done) => child.once('exit', done));
    child.kill();
    await ended;
    await rm(folder, { recursive: true });
  };
  for (const end = Date.now() + PATIENCE_MS; ; ) {
    const isUp = await fetch(`${url}/v1/sign-in/company`, { method: 'POST', body: '{}' }).then(({ status }) => status === 200, () => false);
    if (isUp) return { url: `${url}/`, close };
    assert.ok(Date.now() < end, 'the daemon does not come up');
    await new Promise((done) => setTimeout(done, 100));
  }
}

test('at a real daemon one signs in, works, and signs out; without a role one is told', onlyDaemon, async () => {
  const who = { groups: ['team'] };
  const provider = await openIdProvider(who);
  const site = await daemonWith(provider);
  const page = await open(browser);
  await page.goto(`${site.url}#/sites`);
  await press(page, 'Sign in with company');
  await see(page, 'main', 'alice');
  assert.equal(page.url(), `${site.url}#/sites`);
  assert.equal((await session(page)).split('.').length, 3);
  assert.deepEqual((await page.browserContext().cookies()).filter(({ name }) => name.includes('leeward')), []);
  await page.click('.me button:last-child');
  await page.waitForSelector('#token');
  assert.equal(await session(page), null);
  who.groups = ['others'];
  await press(page, 'Sign in with company');
  await see(page, '.problem', 'has no role here');
  assert.equal(await session(page), null);
  assert.deepEqual(await troubles(page), []);
  await page.browserContext().close();
  await provider.close();
  await site.close();
});
