// A chart along time: bars or an area. It is read by eye, by pointer, and by the arrow keys, which speak each point.

import { bytes, localTime } from './format.js';
import { html, useEffect, useRef, useState } from './html.js';
import { axis, nearest, scale, timeTicks } from './scale.js';

const HEIGHT = 220;
const PAD = { left: 68, right: 14, top: 14, bottom: 28 };
/** Narrower than this, bars would touch; then they are lines. */
const BAR_MOST = 10;

/** `points`: `{ at, value, mark }` in order of time. `choose` is called with a point that is picked. */
export function Chart({ points, title, measure, kind, chosen = -1, choose }) {
  const [width, box] = useWidth(720);
  const [at, setAt] = useState(null);
  const plot = { x0: PAD.left, x1: width - PAD.right, y0: HEIGHT - PAD.bottom, y1: PAD.top };
  const values = axis(Math.max(...points.map((point) => point.value ?? 0)));
  const times = points.map((point) => Date.parse(point.at));
  const inset = kind === 'bars' ? BAR_MOST : 0;
  const x = scale([times[0], times.at(-1)], [plot.x0 + inset, plot.x1 - inset]);
  const y = scale([0, values.top], [plot.y0, plot.y1]);
  const spots = points.map((point, index) => ({ x: x(times[index]), y: y(point.value ?? 0) }));
  const shown = at ?? (chosen >= 0 ? chosen : null);
  const over = (event) => setAt(nearest(spots, ((event.clientX - event.currentTarget.getBoundingClientRect().left) / event.currentTarget.clientWidth) * width));
  const keys = (event) => {
    const next = { ArrowRight: (at ?? -1) + 1, ArrowLeft: (at ?? points.length) - 1, Home: 0, End: points.length - 1 }[event.key];
    if (next !== undefined) event.preventDefault(), setAt(Math.min(points.length - 1, Math.max(0, next)));
    if (choose && at !== null && (event.key === 'Enter' || event.key === ' ')) event.preventDefault(), choose(points[at]);
  };
  const says = shown === null ? '' : `${localTime(points[shown].at)}: ${bytes(points[shown].value)} ${measure}`;
  return html`<figure class="chart" ref=${box}>
    <div class="chart-box" role="slider" tabindex="0" aria-label=${`${title}. The arrow keys go from point to point.`} aria-valuemin="1" aria-valuemax=${points.length} aria-valuenow=${(shown ?? points.length - 1) + 1} aria-valuetext=${says || summary(points, measure)}
      onKeyDown=${keys} onMouseMove=${over} onMouseLeave=${() => setAt(null)} onBlur=${() => setAt(null)} onClick=${() => choose && at !== null && choose(points[at])}>
      <svg viewBox=${`0 0 ${width} ${HEIGHT}`} height=${HEIGHT} aria-hidden="true">
        ${values.ticks.map((value) => html`<g key=${value}><path class="grid" d=${`M${plot.x0} ${y(value)}H${plot.x1}`} /><text class="tick" x=${plot.x0 - 8} y=${y(value) + 4} text-anchor="end">${bytes(value)}</text></g>`)}
        ${timeTicks(times[0], times.at(-1), Math.max(2, Math.floor(width / 130))).map(({ at: time, word }) => html`<text key=${time} class="tick" x=${x(time)} y=${HEIGHT - 8} text-anchor="middle">${word}</text>`)}
        ${kind === 'bars' ? html`<${Bars} points=${points} spots=${spots} floor=${plot.y0} shown=${shown} chosen=${chosen} width=${width} />` : html`<${Area} spots=${spots} floor=${plot.y0} />`}
        ${shown !== null && html`<g class="cursor"><path d=${`M${spots[shown].x} ${plot.y1}V${plot.y0}`} /><circle cx=${spots[shown].x} cy=${spots[shown].y} r="4" /></g>`}
      </svg>
    </div>
    <figcaption>${says || summary(points, measure)}</figcaption>
  </figure>`;
}

const summary = (points, measure) => `${points.length} points from ${localTime(points[0].at)} to ${localTime(points.at(-1).at)}; the last one: ${bytes(points.at(-1).value)} ${measure}`;

function Bars({ points, spots, floor, shown, chosen, width }) {
  const gaps = spots.slice(1).map((spot, at) => spot.x - spots[at].x);
  const wide = Math.max(2, Math.min(BAR_MOST, 0.8 * Math.min(width, ...gaps)));
  return spots.map((spot, at) => html`<g key=${at} class=${`bar-of ${at === chosen ? 'chosen' : ''} ${at === shown ? 'shown' : ''}`}>
    <rect x=${spot.x - wide / 2} y=${Math.min(spot.y, floor - 2)} width=${wide} height=${Math.max(2, floor - spot.y)} rx="2" />
    ${points[at].mark && html`<path class="mark" d=${`M${spot.x} ${spot.y - 4}l4 -7h-8z`} />`}</g>`);
}

function Area({ spots, floor }) {
  const line = spots.map((spot, at) => `${at === 0 ? 'M' : 'L'}${spot.x} ${spot.y}`).join('');
  return html`<path class="area" d=${`${line}L${spots.at(-1).x} ${floor}L${spots[0].x} ${floor}z`} /><path class="curve" d=${line} />`;
}

/** The width that the chart has, so that its letters are never stretched. */
function useWidth(first) {
  const box = useRef(null);
  const [width, set] = useState(first);
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => set(Math.max(260, Math.round(entry.contentRect.width))));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  return [width, box];
}
