// Requests to the daemon. Its addresses are relative to the page, so the pages also work behind a proxy that adds a path.

const TOKEN_KEY = 'leeward.token';
/** How long a request may take, in milliseconds. */
const PATIENCE_MS = 30_000;

/** Why a request did not do what was asked: a problem document (RFC 9457), or what the browser says of the network. */
export class Problem extends Error {
  constructor({ status = 0, title, detail = '', hint = '', type = '' }) {
    super(title);
    Object.assign(this, { status, title, detail, hint, type });
  }

  /** The daemon has no such endpoint, as far as that can be told from the answer to it alone. */
  get isNotOffered() {
    const hasNoRoute = this.status === 404 && (this.type === '' || this.type.endsWith('no-such-route'));
    return this.status === 501 || this.status === 405 || hasNoRoute;
  }

  get isAborted() {
    return this.status === -1;
  }
}

/** The token of this tab. It is gone when the tab is closed. */
export const token = {
  get: () => sessionStorage.getItem(TOKEN_KEY),
  set: (value) => sessionStorage.setItem(TOKEN_KEY, value),
  clear: () => sessionStorage.removeItem(TOKEN_KEY),
};

let signedOut = () => {};

/** Says what to do when the daemon no longer accepts the token. */
export function onSignedOut(action) {
  signedOut = action;
}

/** An address below `v1/`; members of `query` that are empty are left out. */
export function address(path, query = {}) {
  const url = new URL(`v1/${path}`, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== '') url.searchParams.set(name, value);
  }
  return url;
}

/** A path of parts, each of which may hold anything: `path('images', 'web-01/root')`. */
export const path = (...parts) => parts.map(encodeURIComponent).join('/');

/** Headers that say who asks. */
export const authorization = () => (token.get() ? { Authorization: `Bearer ${token.get()}` } : {});

/** Sends a request, and gives the answer's JSON. Throws a Problem. */
export async function call(method, url, { body, signal, headers = {}, patience } = {}) {
  const answer = await send(method, url, { body, signal, headers, patience });
  if (answer.status === 204) return null;
  try {
    return await answer.json();
  } catch (error) {
    throw failureOf(error, signal);
  }
}

/** Sends a request, and gives the answer where it is a good one. Throws a Problem. */
export async function send(method, url, { body, signal, headers = {}, patience = PATIENCE_MS } = {}) {
  const limits = [signal, patience && AbortSignal.timeout(patience)].filter(Boolean);
  const options = { method, headers: { Accept: 'application/json', ...authorization(), ...headers }, cache: 'no-store' };
  if (limits.length > 0) options.signal = AbortSignal.any(limits);
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers['Content-Type'] = 'application/json';
  }
  let answer;
  try {
    answer = await fetch(url, options);
  } catch (error) {
    throw failureOf(error, signal);
  }
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (problem.status === 401) signedOut(problem);
  throw problem;
}

export const get = (url, options) => call('GET', url, options);

/** A request that changes something. Its key lets the daemon know it again when it is repeated. */
export function post(url, body = {}, { patience } = {}) {
  return call('POST', url, { body, patience, headers: { 'Idempotency-Key': randomKey() } });
}

export const remove = (url) => call('DELETE', url);

function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

function failureOf(error, signal) {
  if (signal?.aborted) return new Problem({ status: -1, title: 'The request was given up' });
  if (error.name === 'TimeoutError') {
    return new Problem({ title: 'The daemon does not answer', hint: 'See whether it is under load, then try again.' });
  }
  if (error instanceof SyntaxError) {
    return new Problem({ title: 'The daemon gave an answer that is no JSON', hint: 'A proxy between here and there may have answered.' });
  }
  return new Problem({
    title: 'The daemon cannot be reached',
    detail: error.message,
    hint: 'See whether it runs, and whether this machine has a network.',
  });
}

async function problemOf(answer) {
  const words = text(answer.statusText) || `Status ${answer.status}`;
  const isProblem = /json/.test(answer.headers.get('content-type') ?? '');
  const document = isProblem ? await answer.json().catch(() => ({})) : {};
  const { title, detail, hint, message, type } = document ?? {};
  return new Problem({
    status: answer.status,
    title: text(title) || text(message) || words,
    detail: text(detail),
    hint: text(hint),
    type: text(type),
  });
}

const text = (value) => (typeof value === 'string' ? value : '');
