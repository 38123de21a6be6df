// A headless Chromium, and what every test looks at beside its own matter: violations of the policy, errors of the page.

import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import puppeteer from 'puppeteer-core';

const CANDIDATES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];
/** How long a page may take to become what is expected, in milliseconds: machines that test are busy, and waiting costs nothing where it is not needed. */
export const PATIENCE_MS = 60_000;
export const SHOTS = process.env.LEEWARD_UI_SHOTS ?? fileURLToPath(new URL('shots', import.meta.url));

export async function launch() {
  const executablePath = CANDIDATES.find((path) => path && existsSync(path));
  if (!executablePath) throw new Error('no Chromium: install Debian’s package chromium, or set CHROMIUM to its path');
  await mkdir(SHOTS, { recursive: true });
  const args = ['--disable-gpu', '--hide-scrollbars', '--lang=en-GB', '--disable-dev-shm-usage', ...(process.getuid?.() === 0 ? ['--no-sandbox'] : [])];
  return puppeteer.launch({ executablePath, args, timeout: 2 * PATIENCE_MS, protocolTimeout: 10 * PATIENCE_MS, env: { ...process.env, TZ: 'Europe/Berlin', LANG: 'en_GB.UTF-8' } });
}

/** A page of its own session; `page.troubles` gathers what must stay empty. */
export async function open(browser, { width = 1280, height = 860, dark = false } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.troubles = [];
  await page.setViewport({ width, height });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }]);
  await page.evaluateOnNewDocument(() => {
    globalThis.violations = [];
    addEventListener('securitypolicyviolation', (event) => globalThis.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`));
  });
  page.on('pageerror', (error) => page.troubles.push(`error: ${error.stack ?? error.message}`));
  page.on('console', (message) => {
    if (/Content Security Policy/i.test(message.text())) page.troubles.push(message.text());
    if (message.type() === 'error' && !/Failed to load resource|ERR_/.test(message.text())) page.troubles.push(message.text());
  });
  page.on('request', (request) => {
    const isOwn = request.url().startsWith(page.origin ?? request.url()) || /^(data|blob|about):/.test(request.url());
    if (!isOwn) page.troubles.push(`asks another place: ${request.url()}`);
  });
  return page;
}

/** Every trouble so far, the page's own count of violations included. */
export async function troubles(page) {
  return [...page.troubles, ...(await page.evaluate(() => globalThis.violations ?? []))];
}

/** Opens the pages and logs in by typing. */
export async function logIn(page, site, hash = '#/') {
  page.origin = site.url;
  await page.goto(site.url + hash);
  await page.waitForSelector('#token');
  await page.type('#token', site.token);
  await page.keyboard.press('Enter');
  await page.waitForSelector('main h1');
  await page.waitForSelector('.top nav');
}

/** Goes to another page of the pages, and waits for its heading. */
export async function visit(page, hash, heading) {
  await page.evaluate((to) => (location.hash = to), hash);
  await see(page, 'main h1', heading);
}

/** Waits until an element that fits has this text. */
export async function see(page, selector, text, timeout = PATIENCE_MS) {
  const fits = (chosen, wanted) => [...document.querySelectorAll(chosen)].some((element) => element.textContent.includes(wanted));
  try {
    await page.waitForFunction(fits, { timeout, polling: 50 }, selector, text);
  } catch (error) {
    const found = await page.evaluate((chosen) => [...document.querySelectorAll(chosen)].map((element) => element.textContent.slice(0, 200)), selector);
    throw new Error(`${selector} never has “${text}”; it has ${JSON.stringify(found)}`, { cause: error });
  }
}

/** In the page: brings an element into sight and waits until it stands still; rows above it may get their true heights only now. */
async function settled(element) {
  element.scrollIntoView({ block: 'center' });
  for (let still = 0, last = null; still < 3; ) {
    await new Promise((done) => requestAnimationFrame(done));
    const { top } = element.getBoundingClientRect();
    still = top === last ? still + 1 : 0;
    last = top;
  }
}

/** Presses the button with this text, inside `scope`. */
export async function press(page, text, scope = 'main') {
  const find = (inside, wanted) => [...document.querySelectorAll(`${inside} button`)].find((button) => button.textContent.trim() === wanted && !button.disabled);
  const handle = await page.waitForFunction(find, { timeout: PATIENCE_MS, polling: 50 }, scope, text).catch(() => {
    throw new Error(`no button “${text}” in ${scope}`);
  });
  const button = handle.asElement();
  await button.evaluate(settled);
  await button.click();
}

export const texts = (page, selector) => page.$$eval(selector, (all) => all.map((element) => element.textContent.trim()));

export async function shot(page, name, fullPage = true) {
  await page.evaluate(() => scrollTo(0, 0));
  const before = page.viewport();
  // A taller window, not a picture beyond the window: what is out of sight is not drawn.
  if (fullPage) await page.setViewport({ ...before, height: Math.max(before.height, await page.evaluate(() => document.documentElement.scrollHeight)) });
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  await page.screenshot({ path: `${SHOTS}/${name}.png` });
  await page.setViewport(before);
}
