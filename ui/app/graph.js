// The steps of a run as a graph: lines at the left, and beside each node a row that says what the step is and where it stands.

import { bytes, duration, percent, secondsBetween } from './format.js';
import { useTick } from './hooks.js';
import { html, useMemo, useRef } from './html.js';
import { sign } from './icons.js';
import { layout } from './layout.js';
import { Bar, State } from './parts.js';
import { isActiveStep, isDoneStep, stateOf } from './states.js';

/** In units of the drawing, which the style sheet ties to the size of letters: 16 are one rem. */
const ROW = 60;
const LANE = 28;
const RADIUS = 11;

export function Graph({ run, progress, rates, chosen, choose }) {
  const shape = useMemo(() => layout(run.plan.steps), [JSON.stringify(run.plan.steps)]);
  const records = new Map(run.steps.map((step) => [step.name, step]));
  const isBusy = run.steps.some((step) => isActiveStep(step.state) || step.state.endsWith('waiting'));
  useTick(isBusy ? 1000 : 0);
  const list = useRef(null);
  return html`<div class="graph">
    <${Lines} shape=${shape} records=${records} />
    <ol ref=${list} onKeyDown=${(event) => walk(event, list.current)}>${shape.nodes.map(({ step }) => html`<${StepRow} key=${step.name} plan=${step} record=${records.get(step.name)} shape=${shape}
      progress=${progress[step.name]} rate=${rates[step.name]} isChosen=${step.name === chosen} choose=${() => choose(step.name)} />`)}</ol>
  </div>`;
}

/** The arrow keys go from step to step. */
function walk(event, list) {
  const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const buttons = [...list.querySelectorAll('button')];
  const at = buttons.indexOf(document.activeElement);
  if (!way || at < 0) return;
  event.preventDefault();
  buttons[Math.min(buttons.length - 1, Math.max(0, at + way))].focus();
}

const x = (lane) => LANE / 2 + lane * LANE;
const y = (row) => ROW / 2 + row * ROW;

function Lines({ shape, records }) {
  const width = shape.lanes * LANE;
  const height = shape.nodes.length * ROW;
  return html`<svg class="lines" viewBox=${`0 0 ${width} ${height}`} style=${{ width: `${width / 16}rem`, height: `${height / 16}rem` }} aria-hidden="true">
    ${shape.edges.map((edge) => html`<path key=${`${edge.from} ${edge.to}`} class=${`edge ${edgeClass(records.get(edge.from), records.get(edge.to))}`} d=${way(edge)} />`)}
    ${shape.nodes.map(({ step, row, lane }) => html`<${Node} key=${step.name} state=${records.get(step.name)?.state ?? 'pending'} at=${[x(lane), y(row)]} />`)}
  </svg>`;
}

/** A line goes to its lane within the first row and leaves it within the last one. */
function way({ a, b, via }) {
  if (b.row - a.row === 1) return `M${x(a.lane)} ${y(a.row)}${bend(a, b)}`;
  const [first, last] = [{ row: a.row + 1, lane: via }, { row: b.row - 1, lane: via }];
  return `M${x(a.lane)} ${y(a.row)}${bend(a, first)}V${y(last.row)}${bend(last, b)}`;
}

function bend(a, b) {
  const half = (y(a.row) + y(b.row)) / 2;
  return `C${x(a.lane)} ${half} ${x(b.lane)} ${half} ${x(b.lane)} ${y(b.row)}`;
}

function edgeClass(from, to) {
  if (!from || !to || !isDoneStep(from.state)) return 'idle';
  return isActiveStep(to.state) ? 'moving' : to.state === 'pending' ? 'idle' : 'passed';
}

function Node({ state, at: [cx, cy] }) {
  const { tone, sign: name } = stateOf(state);
  return html`<g class=${`node ${tone} ${isActiveStep(state) ? 'busy' : ''}`}>
    ${isActiveStep(state) && html`<circle class="halo" cx=${cx} cy=${cy} r=${RADIUS + 3} />`}
    <circle cx=${cx} cy=${cy} r=${RADIUS} />${sign(name, cx, cy, 13)}</g>`;
}

function StepRow({ plan, record, progress, rate, isChosen, choose }) {
  if (!record) return null;
  const isActive = isActiveStep(record.state);
  const shows = isActive && progress;
  return html`<li><button type="button" class=${`step ${stateOf(record.state).tone}`} aria-pressed=${isChosen} onClick=${choose}>
    <span class="step-head"><span class="title" title=${plan.name}>${plan.title || plan.name}</span><span class="aside">${timeOf(record)}</span></span>
    <span class="step-foot"><${State} name=${record.state} />
      ${shows ? html`<span class="number">${progressText(progress, rate, true)}</span>` : html`<span class="quiet cut">${remark(record)}</span>`}
    </span>
    ${shows && html`<${Bar} done=${progress.done} total=${progress.total} label=${`progress of ${plan.title}`} />`}
  </button></li>`;
}

function timeOf(record) {
  if (!record.started) return '';
  if (record.finished) return duration(secondsBetween(record.started, record.finished));
  return isActiveStep(record.state) || record.state.endsWith('waiting') ? duration(secondsBetween(record.started)) : '';
}

function remark(record) {
  if (record.state.endsWith('waiting') && record.next_at) {
    const left = -secondsBetween(record.next_at);
    return `attempt ${record.attempts + 1} ${left > 1 ? `in ${duration(left)}` : 'now'}`;
  }
  return record.failure?.message ?? record.skipped ?? (record.attempts > 1 ? `${record.attempts} attempts` : '');
}

/** `1.2 GiB of 4 GiB · 30 % · 120 MiB/s · 25 s left`; where it has to be short, without the bytes if there are percents. */
export function progressText({ done, total }, rate, isShort = false) {
  const parts = isShort && total ? [] : [total ? `${bytes(done)} of ${bytes(total)}` : bytes(done)];
  if (total) parts.push(percent(done, total));
  if (rate > 0) parts.push(`${bytes(rate)}/s`);
  if (rate > 0 && total > done) parts.push(`${duration((total - done) / rate)} left`);
  return parts.join(' · ');
}
