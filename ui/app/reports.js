// What became of runs in a stretch of time: by kind and schedule, and by image.

import { address, send } from './api.js';
import { save } from './files.js';
import { counted, duration } from './format.js';
import { useResource } from './hooks.js';
import { html, useState } from './html.js';
import { Bytes, Empty, Head, Panel, ProblemBox, Resource, Time } from './parts.js';
import { link, replaceQuery } from './router.js';

const USUAL_DAYS = 30;

/** A day as a field of a form has it, in local time. */
export function dayOf(time) {
  const two = (number) => String(number).padStart(2, '0');
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
}

/** The local midnight before a day, or so many days later; `null` where it is no day. */
export function midnight(day, later = 0) {
  const found = /^(\d{4})-(\d{2})-(\d{2})$/.exec(day ?? '');
  const time = found && new Date(Number(found[1]), Number(found[2]) - 1, Number(found[3]) + later);
  return time && Number.isFinite(time.getTime()) ? time : null;
}

export function Reports({ query }) {
  const now = new Date();
  const from = midnight(query.get('from')) ? query.get('from') : dayOf(midnight(dayOf(now), 1 - USUAL_DAYS));
  const to = midnight(query.get('to')) ? query.get('to') : dayOf(now);
  const kind = query.get('kind') ?? '';
  const change = (part) => replaceQuery(['reports'], { from, to, kind, ...part });
  // Both days are in it, whole.
  const asked = { from: midnight(from).toISOString(), to: midnight(to, 1).toISOString(), kind };
  const report = useResource(address('reports', asked), { matters: (event) => event.event === 'moved', every: 60_000 });
  return html`<${Head} title="Reports" lead="What became of the runs that were begun in a stretch of time." />
    <form class="filter" role="search" aria-label="Which runs" onSubmit=${(event) => event.preventDefault()}>
      <label>From <input type="date" name="from" value=${from} max=${to} onChange=${(event) => midnight(event.target.value) && change({ from: event.target.value })} /></label>
      <label>To <input type="date" name="to" value=${to} min=${from} onChange=${(event) => midnight(event.target.value) && change({ to: event.target.value })} /></label>
      <label>Kind <input name="kind" value=${kind} placeholder="any" size="10" onChange=${(event) => change({ kind: event.target.value.trim() })} /></label>
    </form>
    <${Resource} of=${report} what="reports">${(data) => html`<${Content} ...${data} asked=${asked} />`}</${Resource}>`;
}

function Content({ from, since, complete, runs, groups, images, asked }) {
  return html`<p class="sum" role="status">${counted(runs, 'run')}</p>
    ${!complete && html`<p class="reason">There were too many runs: only those since <${Time} at=${since} /> are counted.</p>`}
    ${complete && Date.parse(since) > Date.parse(from) && html`<p class="reason">What ended before <${Time} at=${since} /> may be forgotten: the history is kept for a bounded time.</p>`}
    ${groups.length === 0 ? html`<${Empty}>No run was begun in this time.</${Empty}>` : html`
      <${Panel} title="By kind and schedule" actions=${html`<${Csv} asked=${asked} format="csv" name="runs.csv" what="runs by kind and schedule" />`}><${Groups} groups=${groups} /></${Panel}>`}
    ${images.length > 0 && html`<${Panel} title="Backups by image" actions=${html`<${Csv} asked=${asked} format="images-csv" name="images.csv" what="backups by image" />`}><${Images} images=${images} /></${Panel}>`}`;
}

function Csv({ asked, format, name, what }) {
  const [problem, setProblem] = useState(null);
  const take = async () => {
    setProblem(null);
    try {
      const answer = await send('GET', address('reports', { ...asked, format }), { headers: { Accept: 'text/csv' } });
      save(await answer.blob(), name);
    } catch (failure) {
      setProblem(failure);
    }
  };
  return html`<button type="button" class="small" aria-label=${`Save as CSV: ${what}`} onClick=${take}>Save as CSV</button><${ProblemBox} problem=${problem} />`;
}

const count = (number) => (number ? html`<span class="number">${number.toLocaleString()}</span>` : html`<span class="quiet">–</span>`);
const size = (bytes) => (bytes ? html`<${Bytes} count=${bytes} />` : html`<span class="quiet">–</span>`);
const time = (seconds) => (seconds === null || seconds === undefined ? html`<span class="quiet">–</span>` : html`<span class="number">${duration(seconds)}</span>`);
const states = (kind, state) => link(['runs'], { kind, state });

function Groups({ groups }) {
  const columns = [
    ['Begun', ({ begun }) => count(begun)],
    ['Succeeded', ({ succeeded }) => count(succeeded)],
    ['Partly', ({ partial }) => count(partial)],
    ['Failed', ({ kind, failed, undo_failed: stuck }) => (failed + stuck ? html`<a class="bad" href=${states(kind, 'failed,undo-failed')}>${count(failed + stuck)}</a>` : count(0))],
    ['Cancelled', ({ cancelled }) => count(cancelled)],
    ['Held', ({ kind, held }) => (held ? html`<a class="warn" href=${states(kind, 'held')}>${count(held)}</a>` : count(0))],
    ['Under way', ({ waiting, running }) => count(waiting + running)],
    ['Stored', ({ stored_bytes: bytes }) => size(bytes)],
    ['Written', ({ written_bytes: bytes }) => size(bytes)],
    ['Median', ({ median_seconds: seconds }) => time(seconds)],
    ['Longest', ({ longest_seconds: seconds }) => time(seconds)],
  ];
  return html`<div class="wide-table" tabindex="0" role="region" aria-label="Runs by kind and schedule"><table class="cards report"><thead><tr><th scope="col">Kind</th>${columns.map(([word]) => html`<th scope="col" key=${word}>${word}</th>`)}</tr></thead>
    <tbody>${groups.map((group) => html`<tr key=${`${group.kind} ${group.schedule}`}><th scope="row">${group.kind}${group.schedule && html` <span class="quiet break">${group.schedule}</span>`}</th>
      ${columns.map(([word, cell]) => html`<td key=${word} class="number" data-label=${word}>${cell(group)}</td>`)}</tr>`)}</tbody></table></div>`;
}

function Images({ images }) {
  return html`<table class="cards report"><thead><tr><th scope="col">Image</th><th scope="col">Backups</th><th scope="col">Stored</th><th scope="col">Longest time without one</th><th scope="col">Over the RPO</th><th scope="col">Last</th></tr></thead>
    <tbody>${images.map(({ image, backups, stored_bytes: stored, longest_gap_seconds: gap, rpo_target_seconds: target, rpo_misses: misses, last }) => html`<tr key=${image}><th scope="row"><a href=${link(['images', image])}>${image}</a></th>
      <td class="number" data-label="Backups">${count(backups)}</td><td class="number" data-label="Stored">${size(stored)}</td><td class="number" data-label="Longest time without one">${time(gap)}</td><td class="number" data-label="Over the RPO">${target ? html`${count(misses)} <span class="quiet">of ${time(target)}</span>` : '–'}</td><td class="number" data-label="Last"><${Time} at=${last} /></td></tr>`)}</tbody></table>`;
}
