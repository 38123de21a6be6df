// What pages share: reading a resource, listening to events, and a clock.

import { get } from './api.js';
import { useCallback, useEffect, useRef, useState } from './html.js';
import { onEvent, onStatus } from './live.js';

/** Events within this time lead to one look, in milliseconds. */
const GATHER_MS = 400;

/**
 * Reads an address, and reads it again when an event that matters comes, and every `every` milliseconds where that is given.
 * What was read stays while it is read again, and when that fails.
 */
export function useResource(url, { matters, every } = {}) {
  const [state, set] = useState({ data: null, problem: null, isLoading: true, key: null });
  const key = url === null ? null : String(url);
  const running = useRef(null);
  const load = useCallback(async () => {
    if (key === null) return;
    running.current?.abort();
    const control = new AbortController();
    running.current = control;
    try {
      const data = await get(key, { signal: control.signal });
      if (!control.signal.aborted) set({ data, problem: null, isLoading: false, key });
    } catch (problem) {
      if (control.signal.aborted) return;
      set((before) => ({ data: before.key === key ? before.data : null, problem, isLoading: false, key }));
    }
  }, [key]);
  useEffect(() => {
    load();
    return () => running.current?.abort();
  }, [load]);
  useEvents(load, matters, every);
  // What belongs to another address is not shown.
  const isOther = state.key !== key;
  return { ...state, data: isOther ? null : state.data, problem: isOther ? null : state.problem, isLoading: isOther || state.isLoading, reload: load };
}

/** Calls `look` soon after an event for which `matters` says so, when the stream is open again, and every `every` milliseconds. */
export function useEvents(look, matters, every) {
  const latest = useRef({});
  latest.current = { look, matters };
  useEffect(() => {
    let timer = null;
    const soon = () => (timer ??= setTimeout(() => ((timer = null), latest.current.look()), GATHER_MS));
    const forget = onEvent((event) => latest.current.matters?.(event) && soon());
    let was = 'live';
    const unwatch = onStatus(({ state }) => {
      if (state === 'live' && was === 'lost' && latest.current.matters) soon();
      if (state !== 'connecting') was = state;
    });
    return () => (forget(), unwatch(), clearTimeout(timer));
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
