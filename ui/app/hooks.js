// What pages share: reading a resource, listening to events, and a clock.

import { get } from './api.js';
import { useCallback, useEffect, useRef, useState } from './html.js';
import { onEvent, onStatus } from './live.js';

/** Events within this time lead to one look, and looks are at least this far apart; in milliseconds. */
const GATHER_MS = 400;
const APART_MS = 2_000;

/**
 * Reads an address, and reads it again when an event that matters comes, and every `every` milliseconds where that is given.
 * What was read stays while it is read again, and when that fails. `patience` is how many milliseconds an answer may take.
 */
export function useResource(url, { matters, every, patience } = {}) {
  const key = url === null ? null : String(url);
  const [state, set] = useState({ data: null, problem: null, isLoading: true, key: null });
  const reader = useRef(null);
  useEffect(() => {
    if (key === null) return undefined;
    const control = new AbortController();
    const keep = (next) => control.signal.aborted || set((before) => ({ data: before.key === key ? before.data : null, isLoading: false, key, problem: null, ...next }));
    reader.current = oneAtATime(() => get(key, { signal: control.signal, patience }).then((data) => keep({ data }), (problem) => keep({ problem })));
    reader.current();
    return () => control.abort();
  }, [key]);
  const reload = useCallback(() => reader.current?.(), []);
  useEvents(reload, matters, every);
  // What belongs to another address is not shown.
  const shown = state.key === key ? state : { data: null, problem: null, isLoading: true };
  return { ...shown, reload };
}

/**
 * Does something again and again, but not twice at once: what is asked for meanwhile is done once afterwards. So a daemon that takes longer
 * than the time between two looks still gets its answers seen.
 */
function oneAtATime(act) {
  let isBusy = false;
  let isWanted = false;
  return async function look() {
    isWanted = true;
    if (isBusy) return;
    isBusy = true;
    while (isWanted) {
      isWanted = false;
      await act();
    }
    isBusy = false;
  };
}

/** Calls `look` soon after an event for which `matters` says so, when the stream is open again, and every `every` milliseconds. */
export function useEvents(look, matters, every) {
  const latest = useRef({});
  latest.current = { look, matters };
  useEffect(() => {
    let timer = null;
    let last = 0;
    let isMissed = false;
    const now = () => ((timer = null), (last = Date.now()), latest.current.look());
    const soon = () => {
      // Who does not look does not ask: it is made up for when the page is seen again.
      if (document.hidden) isMissed = true;
      else timer ??= setTimeout(now, Math.max(GATHER_MS, last + APART_MS - Date.now()));
    };
    const seen = () => isMissed && !document.hidden && ((isMissed = false), soon());
    const forget = onEvent((event) => latest.current.matters?.(event) && soon());
    let was = 'live';
    const unwatch = onStatus(({ state }) => {
      if (state === 'live' && was === 'lost' && latest.current.matters) soon();
      if (state !== 'connecting') was = state;
    });
    document.addEventListener('visibilitychange', seen);
    return () => (forget(), unwatch(), clearTimeout(timer), document.removeEventListener('visibilitychange', seen));
  }, []);
  useInterval(() => latest.current.look(), every);
}

/** Calls `act` every so many milliseconds while the page can be seen. */
export function useInterval(act, every) {
  const latest = useRef(act);
  latest.current = act;
  useEffect(() => {
    if (!every) return undefined;
    const timer = setInterval(() => document.hidden || latest.current(), every);
    return () => clearInterval(timer);
  }, [every]);
}

/** Draws the caller again every so many milliseconds: for times that count. */
export function useTick(every) {
  const [, set] = useState(0);
  useInterval(() => set((count) => count + 1), every);
}

/** How the stream of events stands. */
export function useLiveStatus() {
  const [status, set] = useState({ state: 'off' });
  useEffect(() => onStatus(set), []);
  return status;
}

/** A reference to an element that is brought into sight when it appears, and when `key` changes. */
export function useShown(key) {
  const box = useRef(null);
  useEffect(() => box.current?.scrollIntoView({ block: 'nearest' }), [key]);
  return box;
}

/** A value that follows another one after it has been still for a while. */
export function useStill(value, wait) {
  const [still, set] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => set(value), wait);
    return () => clearTimeout(timer);
  }, [value, wait]);
  return still;
}
