// Numbers to places, and which of them get a word on an axis. Plain functions.

/** From a range of values to a range of places; a range of one value goes to the middle. */
export function scale([from, to], [low, high]) {
  const span = to - from;
  return (value) => (span === 0 ? (low + high) / 2 : low + ((value - from) / span) * (high - low));
}

/** Three to six round numbers of bytes from 0 to at least `most`: 1, 2 or 5 times a power, of the unit in which `most` is written. */
export function axis(most) {
  const unit = 1024 ** Math.max(0, Math.floor(Math.log(Math.max(1, most)) / Math.log(1024)));
  const inUnits = Math.max(most / unit, 1);
  const power = 10 ** Math.floor(Math.log10(inUnits / 4));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => inUnits / size <= 5) * unit;
  const count = Math.max(1, Math.ceil(most / step));
  return { top: count * step, ticks: Array.from({ length: count + 1 }, (_, at) => at * step) };
}

const DAY = 86_400_000;

/** Up to `most` moments with words: times of day within two days, days within a year, else months. */
export function timeTicks(from, to, most) {
  if (!(to > from)) return Number.isFinite(from) ? [{ at: from, word: new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' }).format(from) }] : [];
  const span = to - from;
  const form = span < 2 * DAY ? { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' } : span < 400 * DAY ? { day: 'numeric', month: 'short' } : { month: 'short', year: 'numeric' };
  const write = new Intl.DateTimeFormat(undefined, form);
  const step = span / most;
  const ticks = Array.from({ length: most }, (_, at) => from + (at + 0.5) * step);
  return ticks.map((at) => ({ at, word: write.format(at) })).filter(({ word }, index, all) => index === 0 || word !== all[index - 1].word);
}

/** The spot whose x is nearest. */
export function nearest(spots, x) {
  let best = 0;
  for (let at = 1; at < spots.length; at += 1) {
    if (Math.abs(spots[at].x - x) < Math.abs(spots[best].x - x)) best = at;
  }
  return best;
}
