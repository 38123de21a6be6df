// How numbers and times are written. Bytes in binary units; times local, with UTC beside them where they are hovered over.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** `1.5 GiB`. */
export function bytes(count) {
  if (!Number.isFinite(count)) return '–';
  let unit = 0;
  let value = count;
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || Math.abs(value) >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** `1 h 5 min`: the two largest units of a time in seconds. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  const whole = Math.max(0, Math.round(seconds));
  const parts = [
    [Math.floor(whole / 86400), 'd'],
    [Math.floor(whole / 3600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'min'],
    [whole % 60, 's'],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return '0 s';
  const shown = parts.slice(first, first + 2).filter(([value]) => value > 0);
  return shown.map(([value, unit]) => `${value} ${unit}`).join(' ');
}

/** Seconds between two times, the second one now where it is missing. */
export function secondsBetween(from, to) {
  return ((to ? Date.parse(to) : Date.now()) - Date.parse(from)) / 1000;
}

const DAY = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const YEAR = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'short', hourCycle: 'h23' });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

/** A local time, with the year where it is another one. */
export function localTime(text) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return '–';
  return (date.getFullYear() === new Date().getFullYear() ? DAY : YEAR).format(date);
}

/** The time of day, local. */
export function clock(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? '–' : CLOCK.format(date);
}

/** The same moment in UTC, to the second. */
export function utc(text) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? '' : `${date.toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

/** `12 min ago`. */
export function ago(text) {
  const seconds = secondsBetween(text);
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < -5) return `in ${duration(-seconds)}`;
  return seconds < 5 ? 'now' : `${duration(coarse(seconds))} ago`;
}

/** Leaves out what nobody reads: seconds of minutes, minutes of days. */
export function coarse(seconds) {
  const grain = [
    [2 * 86400, 86400],
    [6 * 3600, 3600],
    [60, 60],
  ].find(([from]) => seconds >= from)?.[1];
  return grain ? Math.floor(seconds / grain) * grain : seconds;
}

/** `42 %`; never 100 before the end. */
export function percent(done, total) {
  if (!(total > 0)) return '–';
  return done >= total ? '100 %' : `${Math.min(99, Math.floor((done / total) * 100))} %`;
}

/** `1 run`, `2 runs`. */
export const counted = (number, one, many = `${one}s`) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

/** What a name made of words and signs says to a person: `write_image_to_bv` → `write image to bv`. */
export const words = (name) => name.replaceAll(/[_-]+/g, ' ');
