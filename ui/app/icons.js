// Signs, drawn in a square of 16.

import { html } from './html.js';

const PATHS = {
  clock: 'M8 4v4.2l2.6 1.6M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0z',
  play: 'M5 3.5v9l7.5-4.5z',
  hand: 'M5.2 3v10M10.8 3v10',
  stop: 'M4 4h8v8H4z',
  back: 'M6 3 2.5 6.5 6 10M2.5 6.5H10a3.3 3.3 0 0 1 0 6.5H7',
  check: 'M3 8.5 6.5 12 13 4.5',
  cross: 'M4 4l8 8M12 4l-8 8',
  slash: 'M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM3.8 12.2l8.4-8.4',
  alert: 'M8 2.2 14.5 13.5h-13zM8 6.5v3.2M8 11.6v.1',
  dot: 'M10 8a2 2 0 1 1-4 0 2 2 0 0 1 4 0z',
  again: 'M13 8a5 5 0 1 1-1.6-3.7M13 2v3h-3',
  skip: 'M3 4l5 4-5 4zM12 4v8',
  brand: 'M8.5 1.5V11H3C5.5 8.8 7.6 5.6 8.5 1.5zM10.5 4.5c1.8 1.8 2.8 4 3 6.5h-3zM1.5 13.5h13',
  overview: 'M2 13a6.5 6.5 0 1 1 12 0M8 11l3-4',
  runs: 'M4 3v7a2.5 2.5 0 0 0 2.5 2.5H10M4 6.5h6M12 6.5h.1M12 12.5h.1M4 3h.1',
  reports: 'M3 2.5h10v11H3zM5.5 10.5v-2M8 10.5v-5M10.5 10.5V7',
  imports: 'M8 2v8M4.8 7 8 10.2 11.2 7M2.5 11v2.5h11V11',
  images: 'M8 2l6 3-6 3-6-3zM2 8l6 3 6-3M2 11l6 3 6-3',
  repository: 'M2.5 13.5h11M4.5 11V8M8 11V4M11.5 11V6',
  sites: 'M8 14s4.5-4.4 4.5-7.5a4.5 4.5 0 1 0-9 0C3.5 9.6 8 14 8 14zM8 8a1.5 1.5 0 1 0 0-3 1.5 1.5 0 0 0 0 3z',
  schedules: 'M2.5 4h11v9.5h-11zM2.5 7.2h11M5.5 2.2v3M10.5 2.2v3',
  notices: 'M4 11.5V7a4 4 0 1 1 8 0v4.5l1 1H3zM6.8 14.2h2.4',
  leftovers: 'M3 4.5h10M6.2 4.5v-2h3.6v2M4.2 4.5l.7 9h6.2l.7-9M6.8 7.2v3.6M9.2 7.2v3.6',
  pause: 'M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM6.4 5.8v4.4M9.6 5.8v4.4',
  missed: 'M11.8 12.6A6 6 0 1 1 11.8 3.4M8 4.6v3.6l2.2 1.4M14.5 5.5v3.4M14.5 11.3v.1',
  end: 'M2.5 8h8M8 5l3 3-3 3M13.5 3.5v9',
  theme: 'M8 2a6 6 0 1 0 6 6 4.7 4.7 0 0 1-6-6z',
  out: 'M6.5 2.5h-4v11h4M6 8h8M11 5l3 3-3 3',
  folder: 'M2 4h4.5L8 5.5h6V13H2z',
  file: 'M4 2h5l3 3v9H4zM9 2v3h3',
  lock: 'M3.5 7.5h9v6h-9zM5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5',
  open: 'M6 3l5 5-5 5',
};

export function Icon({ name, size = 16, ...rest }) {
  return html`<svg class="icon" width=${size} height=${size} viewBox="0 0 16 16" aria-hidden="true" ...${rest}><path d=${PATHS[name] ?? PATHS.dot} /></svg>`;
}

/** A sign inside another drawing, its middle at (x, y). */
export function sign(name, x, y, size) {
  const scale = size / 16;
  return html`<path class="sign" d=${PATHS[name] ?? PATHS.dot} transform=${`translate(${x - size / 2} ${y - size / 2}) scale(${scale})`} />`;
}
