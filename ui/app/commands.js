// What a person asks of a run: each with a question first that says what will happen.

import { address, path, post } from './api.js';
import { counted } from './format.js';
import { html, useState } from './html.js';
import { Field } from './parts.js';
import { Question } from './question.js';

/** Sends a command, and hands the changed run to `done`. */
async function ask(run, command, body) {
  return post(address(path('runs', run.id, command)), body);
}

/** The window for one command: `{ name, step? }`. */
export function CommandDialog({ run, command, close, done }) {
  const Body = { retry: Retry, edit: Edit, skip: Skip, cancel: Cancel, undo: Undo, release: Release }[command.name];
  return html`<${Body} run=${run} step=${command.step} close=${close} done=${done} />`;
}

/** The steps that wait for this one, directly or through others. */
export function followersOf(plan, name) {
  const found = new Set([name]);
  for (let size = 0; size !== found.size; ) {
    size = found.size;
    for (const step of plan.steps) if ((step.after ?? []).some((other) => found.has(other))) found.add(step.name);
  }
  found.delete(name);
  return plan.steps.filter((step) => found.has(step.name)).map((step) => step.name);
}

const failedSteps = (run) => run.steps.filter((step) => step.state === 'failed').map((step) => step.name);

/** What will be done again. */
function Scope({ run, step }) {
  if (!step) return html`<p>Done again: <b>${failedSteps(run).join(', ') || 'what failed'}</b>, then what comes after. What has succeeded is not done twice.</p>`;
  const begun = followersOf(run.plan, step).filter((name) => run.steps.find((record) => record.name === name)?.state !== 'pending');
  return html`<p>Done again: <b>${step}</b>${begun.length > 0 ? html` and ${counted(begun.length, 'step')} after it: ${begun.join(', ')}` : ', then what comes after'}.</p>`;
}

function Retry({ run, step, close, done }) {
  return html`<${Question} title=${step ? `Retry ${step}?` : 'Retry what failed?'} verb="Retry" close=${close} done=${done} said="The run goes on." act=${() => ask(run, 'retry', step ? { step } : {})}>
    <${Scope} run=${run} step=${step} />
  </${Question}>`;
}

/** The members that differ, with null for those that are gone: what the daemon applies to the inputs. */
export function patchOf(before, after) {
  const patch = {};
  for (const [name, value] of Object.entries(after)) {
    if (JSON.stringify(before?.[name]) !== JSON.stringify(value)) patch[name] = value;
  }
  for (const name of Object.keys(before ?? {})) if (!(name in after)) patch[name] = null;
  return patch;
}

function Edit({ run, step, close, done }) {
  const [text, setText] = useState(JSON.stringify(run.inputs ?? {}, null, 2));
  const parsed = parse(text);
  const patch = parsed.value && patchOf(run.inputs, parsed.value);
  const changes = patch ? Object.keys(patch) : [];
  const act = () => {
    if (!patch) throw Object.assign(new Error(), { title: 'The inputs are no JSON object', detail: parsed.error });
    return ask(run, 'retry', { ...(step && { step }), ...(changes.length > 0 && { inputs: patch }) });
  };
  return html`<${Question} title=${step ? `Change inputs and retry ${step}` : 'Change inputs and retry'} verb="Change and retry" close=${close} done=${done} said="The inputs are changed; the run goes on." act=${act}>
    <${Scope} run=${run} step=${step} />
    <${Field} label="Inputs, as JSON" name="inputs" hint=${parsed.error ?? (changes.length > 0 ? `Changed: ${changes.join(', ')}` : 'Nothing is changed yet.')}>
      <textarea id="inputs" rows="12" spellcheck="false" value=${text} onInput=${(event) => setText(event.target.value)} aria-invalid=${parsed.error ? 'true' : undefined} aria-describedby="inputs-hint"></textarea>
    </${Field}>
  </${Question}>`;
}

function parse(text) {
  try {
    const value = JSON.parse(text);
    const isObject = value !== null && typeof value === 'object' && !Array.isArray(value);
    return isObject ? { value } : { error: 'This is JSON, but no object: it has to begin with {' };
  } catch (error) {
    return { error: `This is no JSON: ${error.message}` };
  }
}

function Skip({ run, step, close, done }) {
  const act = (form) => ask(run, 'skip', { step, ...(form.get('reason').trim() && { reason: form.get('reason').trim() }) });
  return html`<${Question} title=${`Skip ${step}?`} verb="Skip" close=${close} done=${done} said=${`${step} is skipped.`} act=${act}>
    <p>The run goes on as if this step were not needed. It is shown as skipped, with your reason.</p>
    <${Field} label="Reason" name="reason"><input id="reason" name="reason" maxlength="500" /></${Field}>
  </${Question}>`;
}

function Cancel({ run, close, done }) {
  const undoes = run.plan.on_cancel === 'undo';
  return html`<${Question} title="Cancel this run?" verb="Cancel the run" tone="danger" close=${close} done=${done} said="The run is being cancelled." act=${() => ask(run, 'cancel')}>
    <p>Steps under way are stopped. ${undoes ? html`Then what the run has made is <b>undone</b>, in reverse order${undoList(run)}.` : 'What the run has made stays.'}</p>
  </${Question}>`;
}

function undoList(run) {
  const names = run.plan.steps.filter((plan) => plan.has_undo && run.steps.find((step) => step.name === plan.name)?.tries > 0).map((plan) => plan.name);
  return names.length > 0 ? html`: ${names.reverse().join(', ')}` : '';
}

function Undo({ run, close, done }) {
  return html`<${Question} title="Undo what this run has made?" verb="Undo" tone="danger" close=${close} done=${done} said="The run is being undone." act=${() => ask(run, 'undo')}>
    <p>In reverse order${undoList(run)}. The run then ends; it cannot be retried.</p>
  </${Question}>`;
}

function Release({ run, step, close, done }) {
  return html`<${Question} title=${`Let ${step} begin?`} verb="Release" close=${close} done=${done} said=${`${step} may begin.`} act=${() => ask(run, 'release', { step })}>
    <p>This run is conducted from elsewhere: its steps wait until they are released. Whoever conducts it will find this step begun.</p>
  </${Question}>`;
}
