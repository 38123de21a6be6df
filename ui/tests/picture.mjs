// A picture of one page of a real daemon: node picture.mjs '#/runs/ID' FILE.png
// LEEWARD_UI_URL and LEEWARD_UI_TOKEN say of which; CHROMIUM names the browser.

import puppeteer from 'puppeteer-core';

const [page, file] = process.argv.slice(2);
const { LEEWARD_UI_URL: url, LEEWARD_UI_TOKEN: token, CHROMIUM = '/usr/bin/chromium' } = process.env;
if (!page || !file || !url || !token) {
  console.error("usage: LEEWARD_UI_URL=… LEEWARD_UI_TOKEN=… node picture.mjs '#/runs/ID' FILE.png");
  process.exit(2);
}
const browser = await puppeteer.launch({ executablePath: CHROMIUM, args: ['--no-sandbox', '--headless=new'] });
const tab = await browser.newPage();
await tab.setViewport({ width: 1280, height: 900 });
await tab.goto(url);
await tab.waitForSelector('input');
await tab.type('input', token);
await tab.keyboard.press('Enter');
await tab.waitForSelector('nav');
await tab.goto(url + page);
await tab.waitForSelector('h1');
await new Promise((done) => setTimeout(done, 2500));
await tab.screenshot({ path: file });
await browser.close();
