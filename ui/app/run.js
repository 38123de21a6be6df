// One run: where it stands, its steps, their logs, and what a person can do about it.

import { address, path } from './api.js';
import { duration, secondsBetween } from './format.js';
import { useResource, useShown, useTick } from './hooks.js';
import { html, useEffect, useRef, useState } from './html.js';
import { CommandDialog } from './commands.js';
import { Graph, progressText } from './graph.js';
import { Icon } from './icons.js';
import { Log } from './log.js';
import { Ago, Bar, Facts, Head, Json, Panel, Resource, State, Time } from './parts.js';
import { Rates } from './rates.js';
import { link, replaceQuery } from './router.js';
import { say } from './say.js';
import { commandsOf, isActiveStep, isDoneStep, isLiveState, stateOf, stepCommandsOf } from './states.js';

/** How often a run that moves is read, for its progress, which comes without events; in milliseconds. */
const EVERY_MS = 1000;

export function RunPage({ id, query, role }) {
  const [isMoving, setIsMoving] = useState(true);
  const resource = useResource(address(path('runs', id)), { matters: (event) => event.run === id, every: isMoving ? EVERY_MS : 15_000 });
  const state = resource.data?.run.state;
  useEffect(() => setIsMoving(!state || isLiveState(state)), [state]);
  return html`${!resource.data && html`<${Head} title=${`Run ${id}`} />`}
    <${Resource} of=${resource} what="this run" isItem>${(data) => html`<${Content} ...${data} query=${query} role=${role} reload=${resource.reload} />`}</${Resource}>`;
}

function Content({ run, lease, progress = {}, query, role, reload }) {
  const [command, setCommand] = useState(null);
  const rates = useRates(progress);
  useSpoken(run);
  const chosen = run.steps.some((step) => step.name === query.get('step')) ? query.get('step') : null;
  const choose = (step) => replaceQuery(['runs', run.id], { step: step === chosen ? null : step });
  const may = commandsOf(run, role);
  const button = (name, word, tone = '') => html`<button type="button" class=${tone} onClick=${() => setCommand({ name })}>${word}</button>`;
  return html`
    <${Head} title=${run.subject} lead=${html`<${Lead} run=${run} lease=${lease} />`}>
      ${may.retry && button('retry', 'Retry', 'primary')}
      ${may.retry && button('edit', 'Retry with other inputs')}
      ${may.undo && button('undo', may.again ? 'Try to undo again' : 'Undo')}
      ${may.cancel && button('cancel', 'Cancel', 'danger')}
    </${Head}>
    <${Verdict} run=${run} choose=${choose} />
    <${Whole} run=${run} progress=${progress} rates=${rates} />
    <div class="columns run">
      <${Panel} title="Steps" name="steps"><${Graph} run=${run} progress=${progress} rates=${rates} chosen=${chosen} choose=${choose} /></${Panel}>
      <div class="side">
        ${chosen && html`<${StepPanel} run=${run} name=${chosen} progress=${progress[chosen]} rate=${rates[chosen]} role=${role} ask=${(name) => setCommand({ name, step: chosen })} close=${() => choose(chosen)} />`}
        <${Panel} title=${chosen ? `Log of ${chosen}` : 'Log'}><${Log} run=${run.id} step=${chosen} isLive=${isLiveState(run.state)} /></${Panel}>
        <${Panel} title="About this run"><${About} run=${run} lease=${lease} /></${Panel}>
      </div>
    </div>
    ${command && html`<${CommandDialog} run=${run} command=${command} close=${() => setCommand(null)} done=${reload} />`}`;
}

function Lead({ run }) {
  return html`<${State} name=${run.state} /> <span class="quiet">${run.plan.kind} · begun <${Ago} at=${run.created} /> by ${run.by}${run.finished ? html` · took ${duration(secondsBetween(run.created, run.finished))}` : ''}</span>`;
}

function useRates(progress) {
  const rates = useRef(new Rates());
  return rates.current.take(progress);
}

/** Tells people who hear the page what changes: where the run goes, and steps that end. */
function useSpoken(run) {
  const before = useRef(null);
  useEffect(() => {
    const was = before.current;
    before.current = { state: run.state, steps: new Map(run.steps.map((step) => [step.name, step.state])) };
    if (!was) return;
    const ended = run.steps.filter((step) => was.steps.get(step.name) !== step.state && (isDoneStep(step.state) || step.state === 'failed'));
    const parts = ended.map((step) => `${step.name} ${stateOf(step.state).word}`);
    if (was.state !== run.state) parts.push(`the run is ${stateOf(run.state).word}`);
    if (parts.length > 0) say(parts.join(', '));
  }, [run.sequence]);
}

/** What is wrong, where something is: the failure with what to do next. */
function Verdict({ run, choose }) {
  const bad = run.steps.filter((step) => step.failure && ['failed', 'undo-failed'].includes(step.state));
  if (bad.length === 0) return run.reason && !['succeeded'].includes(run.state) ? html`<p class="notice"><${Icon} name=${stateOf(run.state).sign} />${run.reason}</p>` : null;
  return bad.map((step) => html`<div key=${step.name} class="problem" role="group" aria-label=${`Failure of ${step.name}`}>
    <${Icon} name="alert" size="20" />
    <div><strong>${step.name}${step.state === 'undo-failed' ? ' could not be undone' : ' failed'}</strong><p>${step.failure.message}</p><p class="hint">${step.failure.hint}</p>
    <button type="button" class="small" onClick=${() => choose(step.name)}>Show the step</button></div></div>`);
}

/** The run as a whole: steps that are done, and bytes where a step moves some. */
function Whole({ run, progress, rates }) {
  const done = run.steps.filter((step) => isDoneStep(step.state)).length;
  const active = run.steps.filter((step) => isActiveStep(step.state));
  const texts = active.map((step) => (progress[step.name] ? `${step.name}: ${progressText(progress[step.name], rates[step.name])}` : step.name));
  const tone = run.state === 'succeeded' ? 'good' : isLiveState(run.state) ? 'active' : stateOf(run.state).tone;
  return html`<div class="whole"><${Bar} done=${done} total=${run.steps.length} tone=${tone} label="steps of this run" /><p><span class="number">${done} of ${run.steps.length} steps</span> <span class="quiet">${texts.join(' · ')}</span></p></div>`;
}

function StepPanel({ run, name, progress, rate, role, ask, close }) {
  const record = run.steps.find((step) => step.name === name);
  const plan = run.plan.steps.find((step) => step.name === name);
  const may = stepCommandsOf(run, plan, record, role);
  useTick(isActiveStep(record.state) ? 1000 : 0);
  const box = useShown(name);
  const actions = html`<button type="button" class="plain small" onClick=${close} aria-label="Show all steps"><${Icon} name="cross" /></button>`;
  return html`<${Panel} title=${plan?.title || name} name="step-panel" actions=${actions} box=${box}>
    <p><${State} name=${record.state} /> <code>${name}</code></p>
    ${progress && isActiveStep(record.state) && html`<${Bar} done=${progress.done} total=${progress.total} label=${`progress of ${name}`} /><p class="number">${progressText(progress, rate)}</p>${progress.note && html`<p class="quiet">${progress.note}</p>`}`}
    ${record.failure && html`<div class="problem inner"><div><p>${record.failure.message}</p><p class="hint">${record.failure.hint}</p></div></div>`}
    <${Facts} of=${stepFacts(run, plan, record)} />
    ${record.outputs !== null && record.outputs !== undefined && html`<details><summary>What it left for later steps</summary><${Json} value=${record.outputs} /></details>`}
    ${(may.retry || may.skip || may.release) && html`<div class="buttons left">
      ${may.release && html`<button type="button" class="primary" onClick=${() => ask('release')}>Release</button>`}
      ${may.retry && html`<button type="button" onClick=${() => ask('retry')}>Retry from here</button><button type="button" onClick=${() => ask('edit')}>…with other inputs</button>`}
      ${may.skip && html`<button type="button" onClick=${() => ask('skip')}>Skip</button>`}</div>`}
  </${Panel}>`;
}

function stepFacts(run, plan, record) {
  const took = record.started && duration(secondsBetween(record.started, record.finished ?? (isActiveStep(record.state) ? undefined : record.started)));
  return [
    ['Begun', record.started && html`<${Time} at=${record.started} />`],
    ['Ended', record.finished && html`<${Time} at=${record.finished} />`],
    ['Took', record.finished || isActiveStep(record.state) ? took : null],
    ['Attempts', plan?.retry && record.attempts > 0 && `${record.attempts} of ${plan.retry.attempts}${record.tries > record.attempts ? ` (${record.tries} in all)` : ''}`],
    ['Interruptions', record.interruptions > 0 && `${record.interruptions}, by a daemon that went away`],
    ['Attempts at undoing', record.undo_attempts > 0 && record.undo_attempts],
    ['Next attempt', record.next_at && html`<${Time} at=${record.next_at} />`],
    ['Skipped because', record.skipped],
    ['Waits for', plan?.after?.length > 0 && plan.after.join(', ')],
    ['Deadline', plan?.deadline_seconds && duration(plan.deadline_seconds)],
    ['May be skipped', plan?.may_skip ? 'yes' : 'no'],
  ].filter(([, value]) => value !== false);
}

function About({ run, lease }) {
  const labels = Object.entries(run.labels ?? {}).map(([name, value]) => html`<span class="label" key=${name}>${name}: ${value}</span>`);
  return html`<${Facts} of=${[
    ['Run', html`<code>${run.id}</code>`, 'wide'],
    ['Kind', html`<a href=${link(['runs'], { kind: run.plan.kind })}>${run.plan.kind}</a>, version ${run.plan.version}`],
    ['Begun', html`<${Time} at=${run.created} /> by ${run.by}`],
    ['Ended', run.finished && html`<${Time} at=${run.finished} />`],
    ['On failure', run.plan.on_failure === 'hold' ? 'waits for a person' : 'is undone'],
    ['On cancel', run.plan.on_cancel === 'undo' ? 'is undone' : 'what was made stays'],
    ['Pools', run.plan.pools?.length > 0 ? run.plan.pools.join(', ') : null],
    ['Held by', lease && html`${lease.owner}, until <${Time} at=${lease.until} as="clock" />`],
    ['Labels', labels.length > 0 ? labels : null],
  ]} />
  <details><summary>Inputs</summary><${Json} value=${run.inputs} /></details>`;
}
