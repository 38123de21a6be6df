// What the tests run against: the mock, or a real daemon (LEEWARD_UI_URL with LEEWARD_UI_TOKEN).

import { serve } from './mock.mjs';
import { World } from './world.mjs';

export const REAL = process.env.LEEWARD_UI_URL ?? null;
/** For tests that need to decide what happens at the site. */
export const onlyMock = REAL ? { skip: 'a real daemon cannot be told what happens to it' } : {};

export async function site(options) {
  if (!REAL) return serve(new World(options));
  if (!process.env.LEEWARD_UI_TOKEN) throw new Error('LEEWARD_UI_URL is set, LEEWARD_UI_TOKEN is not');
  return { url: new URL('./', REAL).href, token: process.env.LEEWARD_UI_TOKEN, world: null, close: async () => {} };
}
