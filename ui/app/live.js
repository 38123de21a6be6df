// What happens at the site, as it happens: one stream of events for the whole page.
//
// `EventSource` cannot send a header, so the stream is read with `fetch`. It is opened again with the number of the last event seen,
// later each time it fails. An event is a hint to look again; nothing on the page rests on having seen all.

import { address, send, token } from './api.js';

/** The first and the longest wait before the stream is opened again, in milliseconds. */
const WAIT_MS = 500;
const WAIT_MS_MAX = 20_000;
/** How long the stream may be silent, heartbeats included, in milliseconds. */
const SILENCE_MS = 45_000;

const listeners = new Set();
const watchers = new Set();
let status = { state: 'off' };
let last = null;
let stop = null;

/** Calls `listener` with each event; returns what ends that. */
export function onEvent(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Calls `watcher` with how the connection stands: `off`, `connecting`, `live`, `lost` (with `until`), `not-offered`. */
export function onStatus(watcher) {
  watchers.add(watcher);
  watcher(status);
  return () => watchers.delete(watcher);
}

/** Opens the stream, and keeps it open until `disconnect`. */
export function connect() {
  disconnect();
  const control = new AbortController();
  stop = control;
  keepOpen(control.signal);
}

export function disconnect() {
  stop?.abort();
  stop = null;
  last = null;
  tell({ state: 'off' });
}

function tell(next) {
  status = next;
  for (const watcher of watchers) watcher(status);
}

async function keepOpen(signal) {
  let wait = WAIT_MS;
  while (!signal.aborted && token.get()) {
    if (status.state !== 'lost') tell({ state: 'connecting' });
    try {
      await readOnce(signal, () => (wait = WAIT_MS));
    } catch (problem) {
      if (signal.aborted) return;
      if (problem.isNotOffered) return tell({ state: 'not-offered' });
      if (problem.status === 401) return;
    }
    if (signal.aborted) return;
    tell({ state: 'lost', until: Date.now() + wait });
    await pause(wait, signal);
    // A random part, so that many pages do not come back at one moment.
    wait = Math.min(wait * 2, WAIT_MS_MAX) * (0.75 + Math.random() / 4);
  }
}

function pause(time, signal) {
  return new Promise((done) => {
    const timer = setTimeout(done, time);
    signal.addEventListener('abort', () => (clearTimeout(timer), done()), { once: true });
    addEventListener('online', () => (clearTimeout(timer), done()), { once: true });
  });
}

async function readOnce(signal, opened) {
  const quiet = new AbortController();
  const headers = { Accept: 'text/event-stream' };
  if (last !== null) headers['Last-Event-ID'] = last;
  const both = AbortSignal.any([signal, quiet.signal]);
  const answer = await send('GET', address('events'), { headers, signal: both, patience: 0 });
  opened();
  tell({ state: 'live' });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const parse = parser(dispatch);
  let timer;
  try {
    for (;;) {
      timer = setTimeout(() => quiet.abort(), SILENCE_MS);
      const { done, value } = await reader.read();
      clearTimeout(timer);
      if (done) return;
      parse(value);
    }
  } finally {
    clearTimeout(timer);
  }
}

function dispatch({ id, data }) {
  if (id) last = id;
  let event;
  try {
    event = JSON.parse(data);
  } catch {
    return;
  }
  for (const listener of listeners) listener(event);
}

/** A reader of an event stream's text, in pieces cut anywhere. */
export function parser(emit) {
  let rest = '';
  let id = null;
  let data = [];
  const line = (text) => {
    if (text === '') {
      if (data.length > 0) emit({ id, data: data.join('\n') });
      data = [];
      return;
    }
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(text);
    if (field === 'data') data.push(value);
    if (field === 'id' && !value.includes('\0')) id = value;
  };
  return (piece) => {
    rest += piece;
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    lines.forEach(line);
  };
}
