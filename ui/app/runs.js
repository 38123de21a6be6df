// The list of runs: filtered by state, kind and text, a page at a time, following what happens.

import { address, get } from './api.js';
import { counted, duration, secondsBetween } from './format.js';
import { useEvents, useLiveStatus, useStill, useTick } from './hooks.js';
import { Component, html, useEffect, useRef, useState } from './html.js';
import { onEvent } from './live.js';
import { Bar, Empty, Head, NotOffered, ProblemBox, State, Time } from './parts.js';
import { link, replaceQuery } from './router.js';
import { GROUPS, isLiveState, RUN_STATES, stateOf } from './states.js';

const PAGE_ROWS = 100;
const TYPING_MS = 250;
/** Events that are kept for one frame. */
const EVENTS_MOST = 10_000;

export function Runs({ query }) {
  const filter = { state: query.get('state') ?? '', kind: query.get('kind') ?? '', text: query.get('text') ?? '' };
  const change = (part) => replaceQuery(['runs'], { ...filter, ...part });
  return html`<${Head} title="Runs" />
    <${Filter} filter=${filter} change=${change} /><${Listing} filter=${filter} />`;
}

function Filter({ filter, change }) {
  const [text, setText] = useState(filter.text);
  const still = useStill(text, TYPING_MS);
  useEffect(() => {
    if (still !== filter.text) change({ text: still });
  }, [still]);
  const isFiltered = filter.state || filter.kind || filter.text;
  const clear = () => (setText(''), change({ state: '', kind: '', text: '' }));
  return html`<form class="filter" role="search" aria-label="Filter runs" onSubmit=${(event) => event.preventDefault()}>
    <label>State <select name="state" value=${filter.state} onChange=${(event) => change({ state: event.target.value })}>
      <option value="">any</option>
      ${GROUPS.map(({ value, word }) => html`<option key=${value} value=${value}>${word}</option>`)}
      <optgroup label="exactly">${RUN_STATES.map((state) => html`<option key=${state} value=${state}>${stateOf(state).word}</option>`)}</optgroup>
    </select></label>
    <label>Kind <input name="kind" value=${filter.kind} placeholder="any" size="10" onChange=${(event) => change({ kind: event.target.value.trim() })} /></label>
    <label class="grow">Subject <input type="search" name="text" value=${text} placeholder="has this text" onInput=${(event) => setText(event.target.value)} /></label>
    ${isFiltered && html`<button type="button" onClick=${clear}>Show all</button>`}
  </form>`;
}

/** Reads pages, keeps what was read, and lets events change it. */
export function useRuns(filter) {
  const key = JSON.stringify(filter);
  const most = filter.most ?? PAGE_ROWS;
  const [state, set] = useState({ key, runs: [], next: null, problem: null, isLoading: true });
  const isLive = useLiveStatus().state === 'live';
  const present = useRef(key);
  const busy = useRef({});
  present.current = key;
  const read = async (what, past, merge) => {
    busy.current[what] = true;
    try {
      const page = await get(address('runs', { ...filter, past, most }));
      if (present.current === key) set((before) => ({ ...merge(before, page), key, problem: null, isLoading: false }));
    } catch (problem) {
      if (present.current === key) set((before) => ({ ...before, key, problem, isLoading: false }));
    } finally {
      busy.current[what] = false;
    }
  };
  const first = () => read('first', null, (before, page) => withFirstPage(before.key === key ? before : { runs: [], next: null }, page));
  const look = () => busy.current.first || first();
  const more = () => busy.current.more || read('more', state.next, withNextPage);
  useEffect(() => {
    set((before) => ({ ...before, isLoading: true }));
    first();
  }, [key]);
  useEventsOfFrame((events) => set((before) => events.reduce(changed, before)));
  useEvents(look, (event) => ['created', 'moved', 'cleared'].includes(event.event), isLive ? 30_000 : 5_000);
  return { ...state, isOld: state.key !== key, more, first };
}

/** What is known, and the page after it. */
export function withNextPage(before, page) {
  const known = new Set(before.runs.map((run) => run.id));
  return { runs: [...before.runs, ...page.runs.filter((run) => !known.has(run.id))], next: page.next };
}

/** Hands over the events since the last frame, all at once: many events are one drawing. */
function useEventsOfFrame(act) {
  useEffect(() => {
    let waiting = [];
    let frame = 0;
    const flush = () => {
      const events = waiting;
      waiting = [];
      frame = 0;
      act(events);
    };
    const forget = onEvent((event) => {
      waiting.push(event);
      // Frames stand still while the page cannot be seen; then a look at its return is enough.
      if (waiting.length > EVENTS_MOST) waiting.shift();
      frame ||= requestAnimationFrame(flush);
    });
    return () => (forget(), cancelAnimationFrame(frame));
  }, []);
}

/** What is known, with its first page read anew; rows that are gone from it are dropped. */
export function withFirstPage(before, page) {
  const fresh = new Set(page.runs.map((run) => run.id));
  const oldest = page.runs.at(-1)?.id;
  const keeps = page.next && oldest && before.runs.length > page.runs.length;
  const known = new Map(before.runs.map((run) => [run.id, run]));
  // A row that is as it was stays the same object, so it is not drawn again.
  const head = page.runs.map((run) => (sameRow(known.get(run.id), run) ? known.get(run.id) : run));
  const tail = keeps ? before.runs.filter((run) => run.id < oldest && !fresh.has(run.id)) : [];
  return { runs: [...head, ...tail], next: keeps && tail.length > 0 ? before.next : page.next };
}

const sameRow = (a, b) => a && a.state === b.state && a.steps_done === b.steps_done && a.reason === b.reason && a.finished === b.finished;

/** What an event makes of the rows, until they are read again. */
export function changed(before, event) {
  const at = before.runs.findIndex((run) => run.id === event.run);
  if (at < 0) return before;
  const run = { ...before.runs[at] };
  if (event.event === 'moved') Object.assign(run, { state: event.state, reason: event.reason });
  else if (event.event === 'succeeded' || event.event === 'skipped') run.steps_done = Math.min(run.steps, run.steps_done + 1);
  else return before;
  return { ...before, runs: before.runs.with(at, run) };
}

function Listing({ filter }) {
  const { runs, next, problem, isLoading, isOld, more, first } = useRuns(filter);
  if (problem?.isNotOffered || problem?.status === 404) return html`<${NotOffered} what="a list of runs" />`;
  return html`<${ProblemBox} problem=${problem} retry=${first} />
    <p class="sum" role="status">${isLoading && runs.length === 0 ? 'Loading runs…' : `${counted(runs.length, 'run')}${next ? ', and more' : ''}`}</p>
    ${runs.length > 0 && html`<div class=${`panel ${isOld ? 'stale' : ''}`}><${Table} runs=${runs} /></div>`}
    ${runs.length === 0 && !isLoading && !problem && html`<${Empty}>No run is like that.</${Empty}>`}
    ${next && html`<button type="button" class="more" onClick=${more}>Show ${PAGE_ROWS} more</button>`}`;
}

/**
 * With `isBrief`, without what is the same in every row or matters less. Rows are laid out by themselves, not as a table, so that the
 * browser can leave out those that are not in sight; the roles say to readers of screens that it is one.
 */
export function Table({ runs, isBrief = false }) {
  if (runs.length === 0) return null;
  const words = isBrief ? ['State', 'Subject', 'Begun', 'Took'] : ['State', 'Subject', 'Kind', 'Steps', 'Begun', 'Took', 'By'];
  return html`<table role="table" class=${`runs cards ${isBrief ? 'brief-runs' : ''}`}>
    <thead role="rowgroup"><tr role="row">${words.map((word) => html`<th role="columnheader" scope="col" key=${word}>${word}</th>`)}</tr></thead>
    <tbody role="rowgroup">${runs.map((run) => html`<${Row} key=${run.id} run=${run} isBrief=${isBrief} />`)}</tbody>
  </table>`;
}

/** A row is drawn again only when its run has changed: a thousand of them stay light. */
class Row extends Component {
  shouldComponentUpdate({ run }) {
    return run !== this.props.run;
  }

  render({ run, isBrief }) {
    const { id, state, subject, reason, kind, steps, steps_done: done, created, finished, by } = run;
    const cell = (label, content, name) => html`<td role="cell" data-label=${label} class=${name}>${content}</td>`;
    const took = finished ? duration(secondsBetween(created, finished)) : html`<${Counting} from=${created} isOn=${isLiveState(state)} />`;
    const bar = isLiveState(state) && html`<${Bar} done=${done} total=${steps} label=${`steps of ${subject}`} />`;
    return html`<tr role="row">
      ${cell(undefined, html`<${State} name=${state} />`)}
      <th role="rowheader" scope="row"><a href=${link(['runs', id])}>${subject}</a>${reason && html`<span class="reason">${reason}</span>`}</th>
      ${!isBrief && [cell('Kind', kind), cell('Steps', [html`<span class="number">${done} of ${steps}</span>`, bar], 'steps')]}
      ${cell('Begun', html`<${Time} at=${created} />`)}
      ${cell('Took', took, 'number')}
      ${!isBrief && cell('By', by)}
    </tr>`;
  }
}

function Counting({ from, isOn }) {
  useTick(isOn ? 1000 : 0);
  return duration(secondsBetween(from));
}
