// Which page is shown: the part of the address after `#`, as in `#/runs?state=held`.

import { useEffect, useState } from './html.js';

/** The present route: the path's parts, decoded, and the query. */
export function route() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?', 2);
  return { parts: path.split('/').filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** An address: `link(['runs', id], { step: 'x' })`. */
export function link(parts, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value);
  const tail = given.length > 0 ? `?${new URLSearchParams(given)}` : '';
  return `#/${parts.map(encodeURIComponent).join('/')}${tail}`;
}

export const go = (parts, query) => (location.hash = link(parts, query));

/** Changes the query without a new entry in the history: for filters that are typed. */
export function replaceQuery(parts, query) {
  history.replaceState(null, '', link(parts, query));
  dispatchEvent(new Event('hashchange'));
}

export function useRoute() {
  const [current, set] = useState(route);
  useEffect(() => {
    const listen = () => set(route());
    addEventListener('hashchange', listen);
    return () => removeEventListener('hashchange', listen);
  }, []);
  return current;
}
