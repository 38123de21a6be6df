// Says things to people who hear the page, and shows the same for a while to those who see it.

import { html, useEffect, useState } from './html.js';

const SHOWN_MS = 6_000;
let tell = () => {};

/** Says something that changed. With `isShown` it is seen as well. */
export const say = (text, { isShown = false } = {}) => tell({ text, isShown, at: Date.now() });

export function Speaker() {
  const [note, set] = useState(null);
  useEffect(() => {
    tell = set;
    return () => (tell = () => {});
  }, []);
  useEffect(() => {
    if (!note) return undefined;
    const timer = setTimeout(() => set(null), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [note]);
  return html`<div aria-live="polite" role="status" class=${note?.isShown ? 'toast' : 'unseen'}>${note?.text ?? ''}</div>`;
}
