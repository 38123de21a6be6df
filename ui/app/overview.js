// The first page: what needs a person, what is protected and what is not, what runs.

import { address } from './api.js';
import { coarse, duration } from './format.js';
import { useResource } from './hooks.js';
import { html } from './html.js';
import { Icon } from './icons.js';
import { Ago, Bar, Empty, Head, Mark, Panel, ProblemBox, Resource, State } from './parts.js';
import { link } from './router.js';
import { LastRun, useSchedules } from './schedules.js';
import { hasMissed, isLiveState, isTroubled, MISSED, RUN_STATES } from './states.js';

/** Everything that happens to runs as wholes. */
const matters = (event) => ['created', 'moved'].includes(event.event);

export function Overview() {
  const overview = useResource(address('overview'), { matters, every: 30_000 });
  return html`<${Head} title="Overview" />
    <${Resource} of=${overview} what="an overview">${(data) => html`<${Content} ...${data} />`}</${Resource}>`;
}

function Content({ runs = [], held = [], failed = [], images = [] }) {
  const open = images.filter((image) => !image.protected);
  const live = sum(runs.filter((run) => isLiveState(run.state)));
  return html`
    <div class="tiles">
      <${Tile} to=${link(['images'])} number=${images.length - open.length} of=${images.length} word="protected" tone=${open.length ? 'calm' : 'good'} sign="check" />
      <${Tile} to=${link(['images'])} number=${open.length} word="not protected" tone=${open.length ? 'bad' : 'good'} sign=${open.length ? 'alert' : 'check'} />
      <${Tile} to=${link(['runs'], { state: 'held,undo-failed' })} number=${held.length} word="need a person" tone=${held.length ? 'warn' : 'good'} sign=${held.length ? 'hand' : 'check'} />
      <${Tile} to=${link(['runs'], { state: 'queued,running,cancelling,undoing' })} number=${live} word="under way" tone=${live ? 'active' : 'calm'} sign="play" />
    </div>
    ${held.length > 0 && html`<${Panel} title="Need a person" name="attention"><${Brief} runs=${held} /></${Panel}>`}
    <${Troubled} />
    <div class="columns">
      <div>
        <${Panel} title="Protection" actions=${html`<a href=${link(['images'])}>All images</a>`}><${Protection} images=${images} /></${Panel}>
        <${Panel} title="Failed lately" actions=${html`<a href=${link(['runs'], { state: 'failed' })}>All that failed</a>`}>
          ${failed.length > 0 ? html`<${Brief} runs=${failed} />` : html`<${Empty}>Nothing has failed.</${Empty}>`}
        </${Panel}>
      </div>
      <${Panel} title="Runs by state" actions=${html`<a href=${link(['runs'])}>All runs</a>`}><${Counts} runs=${runs} /></${Panel}>
    </div>`;
}

const sum = (runs) => runs.reduce((total, run) => total + run.count, 0);

function Tile({ to, number, of, word, tone, sign }) {
  return html`<a class=${`tile ${tone}`} href=${to}><${Icon} name=${sign} size="20" /><span class="figure">${number.toLocaleString()}${of !== undefined && html`<small> of ${of.toLocaleString()}</small>`}</span><span class="word">${word}</span></a>`;
}

/** Runs with the reason why they stand where they stand. */
function Brief({ runs }) {
  return html`<ul class="brief">${runs.map((run) => html`<li key=${run.id}>
    <a href=${link(['runs', run.id])}><${State} name=${run.state} /><span class="subject">${run.subject}</span><span class="quiet">${run.kind} · <${Ago} at=${run.finished ?? run.created} /></span></a>
    ${run.reason && html`<p class="reason">${run.reason}</p>`}
  </li>`)}</ul>`;
}

/** Schedules that have missed a time, or whose last run failed or waits for a person; nothing where there is none. */
function Troubled() {
  const { data, problem, reload } = useSchedules();
  const isAbsent = problem?.isNotOffered || problem?.status === 404;
  const troubled = data?.schedules.filter(isTroubled) ?? [];
  return html`${!isAbsent && html`<${ProblemBox} problem=${problem} retry=${reload} what="Schedules" />`}
    ${troubled.length > 0 && html`<${Panel} title="Schedules that missed or failed" name="attention troubled" actions=${html`<a href=${link(['schedules'])}>All schedules</a>`}>
      <ul class="brief">${troubled.map((schedule) => html`<li key=${schedule.name}>
        <span class="row"><b class="break">${schedule.name}</b><span class="marks">${hasMissed(schedule) && html`<${Mark} ...${MISSED} />`}<${LastRun} schedule=${{ ...schedule, last_reason: null }} /></span></span>
        ${[schedule.last_reason, hasMissed(schedule) && schedule.note].filter(Boolean).map((reason) => html`<p key=${reason} class="reason">${reason}</p>`)}
      </li>`)}</ul></${Panel}>`}`;
}

/** Each image's age against its target; those that are worst come first. */
function Protection({ images }) {
  if (images.length === 0) return html`<${Empty}>There is no image yet. <a href=${link(['imports'])}>Import one</a>, or run “leeward backup”.</${Empty}>`;
  const sorted = [...images].sort((a, b) => strain(b) - strain(a) || a.image.localeCompare(b.image));
  return html`<table class="cards protection"><thead><tr><th scope="col">Image</th><th scope="col">Age against target (RPO)</th><th scope="col">State</th></tr></thead>
    <tbody>${sorted.map((image) => html`<${ProtectionRow} key=${image.image} ...${image} />`)}</tbody></table>`;
}

const strain = (image) => (image.age_seconds === null || image.age_seconds === undefined ? Infinity : image.rpo_target_seconds ? image.age_seconds / image.rpo_target_seconds : image.protected ? 0 : 1e6);

function ProtectionRow(row) {
  const { image, age_seconds: age, rpo_target_seconds: target } = row;
  const has = age !== null && age !== undefined;
  const tone = row.protected ? (target && age > 0.8 * target ? 'warn' : 'good') : 'bad';
  return html`<tr>
    <th scope="row"><a href=${link(['images', image])}>${image}</a></th>
    <td data-label="Age">${has ? html`<span class="number">${duration(coarse(age))}</span>${target ? html` <span class="quiet">of ${duration(target)}</span><${Bar} done=${age} total=${target} tone=${tone} label=${`age of the latest snapshot of ${image} against its target`} />` : html` <span class="quiet">no target</span>`}` : html`<span class="quiet">no snapshot</span>`}</td>
    <td><span class=${`state ${tone}`}><${Icon} name=${row.protected ? 'check' : 'alert'} />${row.protected ? 'protected' : target && has ? 'too old' : 'not protected'}</span></td>
  </tr>`;
}

function Counts({ runs }) {
  if (runs.length === 0) return html`<${Empty}>There has been no run yet.</${Empty}>`;
  const kinds = [...new Set(runs.map((run) => run.kind))].sort();
  return html`<ul class="counts">${kinds.map((kind) => html`<li key=${kind}><span class="kind">${kind}</span>
    <span class="chips">${RUN_STATES.map((state) => runs.find((run) => run.kind === kind && run.state === state)).filter((run) => run?.count).map((run) => html`
      <a key=${run.state} class="chip" href=${link(['runs'], { kind, state: run.state })}><span class="unseen">${kind}: </span><${State} name=${run.state} /><b>${run.count.toLocaleString()}</b></a>`)}</span></li>`)}</ul>`;
}
