// Signing in at a provider: the daemon says where the browser goes, the provider sends it back, and the daemon makes a token of what it
// has brought. What is under way stands in a cookie that is the daemon's business.

import { address, call, get, path } from './api.js';

const RETURN = /\/sign-in\/([^/]+)$/;
const MEMBERS = ['state', 'code', 'iss', 'error', 'error_description'];
/** A way back that the daemon takes; see `is_way_back` there. */
const WAY_BACK = /^\/(?!\/)[!-[\]-~]{0,1023}$/;
/** How long the daemon may take for what it asks the provider, in milliseconds. */
const PATIENCE_MS = 60_000;

/** What a provider has sent the browser back with, or null. It leaves the address at once, being good for one time. */
export const returned = takeReturn();

function takeReturn() {
  const found = RETURN.exec(location.pathname);
  if (!found) return null;
  const query = new URLSearchParams(location.search);
  history.replaceState(null, '', new URL('../', location.href));
  if (!query.has('code') && !query.has('error')) return null;
  const given = MEMBERS.filter((name) => query.has(name)).map((name) => [name, query.get(name)]);
  return { provider: found[1], given: { state: '', ...Object.fromEntries(given) } };
}

/** The names of the providers at which one can sign in. */
export const providers = async () => (await get(address('sign-in'))).providers.map(({ name }) => name);

/** Goes to a provider; afterwards the pages show what they show now. */
export async function begin(provider) {
  const here = location.hash.slice(1);
  const back = WAY_BACK.test(here) ? here : '/';
  const { location: there } = await call('POST', address(path('sign-in', provider)), { body: { back } });
  location.assign(there);
}

/** A token for what a provider has sent the browser back with: `{ token, until, back }`. */
export const finish = ({ provider, given }) => call('POST', address(path('sign-in', provider, 'finish')), { body: given, patience: PATIENCE_MS });
