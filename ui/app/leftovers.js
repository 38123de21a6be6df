// Leftovers: what runs have left in clouds and no run looks after any more, and having it removed.

import { address, post } from './api.js';
import { coarse, counted, duration } from './format.js';
import { useResource } from './hooks.js';
import { html, useEffect, useState } from './html.js';
import { Ago, Bytes, Empty, Head, Mark, Panel, ProblemBox, Resource, State, Time } from './parts.js';
import { Question } from './question.js';
import { link } from './router.js';
import { leftoverStateOf, mayCommand } from './states.js';

/** How many the daemon removes at once. */
const REMOVED_MAX = 100;
/** Clouds are asked while one waits; and a volume is detached before it is removed. */
const LOOK_MS = 180_000;
const REMOVE_MS = 900_000;

/** What people call it; some have no name. */
const nameOf = ({ name, id }) => name || id;
/** Not the hold of a snapshot. */
const isThing = ({ kind }) => kind !== 'hold';
const keyOf = ({ target, id }) => `${target}\n${id}`;

export function Leftovers({ role }) {
  const leftovers = useResource(address('leftovers'), { patience: LOOK_MS });
  const [looked, setLooked] = useState(null);
  const [isLooking, setIsLooking] = useState(false);
  const [asked, setAsked] = useState(null);
  useEffect(() => setLooked(leftovers.data && new Date().toISOString()), [leftovers.data]);
  const look = async () => {
    setIsLooking(true);
    await leftovers.reload();
    setIsLooking(false);
  };
  const isOffered = !leftovers.problem?.isNotOffered;
  return html`<${Head} title="Leftovers" lead="Volumes and instances that a run has made in a cloud, and holds of snapshots, that no run looks after any more.">
      ${isOffered && html`<button type="button" disabled=${isLooking || leftovers.isLoading} onClick=${look}>${isLooking ? 'Looking…' : 'Look again'}</button>`}
    </${Head}>
    <${Resource} of=${leftovers} what="leftovers">${(data) => html`<${Content} ...${data} looked=${looked} may=${mayCommand(role)} remove=${setAsked} />`}</${Resource}>
    ${asked && html`<${Remove} chosen=${asked} close=${() => setAsked(null)} done=${look} />`}`;
}

function Content({ leftovers, problems, looked, may, remove }) {
  const [names, setNames] = useState(new Set());
  const chosen = leftovers.filter((one) => names.has(keyOf(one)));
  const removable = leftovers.filter((one) => one.removable).slice(0, REMOVED_MAX);
  const turn = (one) => setNames((before) => {
    const next = new Set(before);
    if (!next.delete(keyOf(one))) next.add(keyOf(one));
    return next;
  });
  return html`${problems.map(({ target, what }) => html`<${ProblemBox} key=${target} problem=${{ title: `Target ${target} could not be asked`, detail: what, hint: 'What is left there is not shown. Mend that, then look again.' }} />`)}
    ${leftovers.length === 0 && html`<${Empty}>${problems.length > 0 ? 'Nothing is left in the targets that answered.' : 'Nothing is left.'} There is nothing to do.</${Empty}>`}
    ${leftovers.length > 0 && html`<${Panel} title=${counted(leftovers.length, 'leftover')} actions=${looked && html`<span class="quiet">looked <${Ago} at=${looked} /></span>`}>
      <p class="quiet">What is “removable” is plainly the remains of a run that has ended. What is “only by its id” may be something that somebody needs: look at it before you choose it.</p>
      ${may && html`<div class="actions choose">
        <button type="button" disabled=${removable.length === 0} onClick=${() => setNames(new Set(removable.map(keyOf)))}>Choose all removable</button>
        <button type="button" disabled=${chosen.length === 0} onClick=${() => setNames(new Set())}>Choose none</button>
        <button type="button" class="danger" disabled=${chosen.length === 0 || chosen.length > REMOVED_MAX} onClick=${() => remove(chosen)}>Remove ${chosen.length > 0 ? `the ${chosen.length.toLocaleString()} chosen` : 'what is chosen'}</button>
        ${chosen.length > REMOVED_MAX && html`<span class="quiet">At most ${REMOVED_MAX} are removed at once.</span>`}
      </div>`}
      <table class="cards leftovers"><thead><tr>${may && html`<th scope="col"><span class="unseen">Chosen</span></th>`}<th scope="col">What</th><th scope="col">Where</th><th scope="col">Age</th><th scope="col">Run</th><th scope="col">Why</th></tr></thead>
        <tbody>${leftovers.map((one) => html`<${Row} key=${keyOf(one)} one=${one} may=${may} isChosen=${names.has(keyOf(one))} turn=${() => turn(one)} />`)}</tbody></table>
    </${Panel}>`}`;
}

function Row({ one, may, isChosen, turn }) {
  const { id, kind, target, state, bytes, created, age_seconds: age, run, run_state: runState, attached_to: attached, why } = one;
  const name = nameOf(one);
  return html`<tr class=${isChosen ? 'chosen' : ''}>
    ${may && html`<td class="pick-one"><input type="checkbox" aria-label=${`Choose ${name}`} checked=${isChosen} onChange=${turn} /></td>`}
    <th scope="row">${name}<span class="reason">${kind}, ${state}${bytes !== null && html`, <${Bytes} count=${bytes} />`}</span><span class="reason">${id}</span></th>
    <td data-label="Where" class="break">${target}${attached?.length > 0 && html`<span class="reason">attached to ${attached.join(', ')}</span>`}${attached === null && kind === 'volume' && html`<span class="reason">not asked what it is attached to</span>`}</td>
    <td data-label="Age">${created ? html`<time datetime=${created} title=${new Date(created).toLocaleString()}>${duration(coarse(age))}</time>` : html`<span class="quiet">not known</span>`}</td>
    <td data-label="Run">${runState ? html`<a href=${link(['runs', run])}><span class="unseen">Run of ${name}: </span><${State} name=${runState} /></a>` : html`<span class="quiet">not known here</span><span class="reason">${run}</span>`}</td>
    <td class="why"><${Mark} ...${leftoverStateOf(one)} /><span class="reason">${why}</span></td>
  </tr>`;
}

/** Names everything that goes; for what is not plainly the remains of a run, one has to say that one has looked. */
function Remove({ chosen, close, done }) {
  const doubtful = chosen.filter((one) => !one.removable);
  const targets = [...new Set(chosen.map(({ target }) => target))];
  const names = new Map(chosen.map((one) => [one.id, nameOf(one)]));
  const act = () => post(address('leftovers/remove'), { ids: chosen.map(({ id }) => id), ...(targets.length === 1 && { target: targets[0] }) }, { patience: REMOVE_MS });
  const count = (results) => results.filter(({ removed }) => removed).length;
  const said = ({ results }) => `${count(results)} of ${results.length} are removed.`;
  const answer = ({ results }) => html`<div role="status"><p>${said({ results })}${count(results) > 0 && chosen.some(isThing) && ' A cloud may take a while until they are gone.'}</p>
    <ul class="brief named" tabindex="0" aria-label="What became of each">${results.map((one) => html`<li key=${one.id}><${Mark} ...${one.removed ? { word: 'removed', tone: 'good', sign: 'check' } : { word: 'stays', tone: 'bad', sign: 'cross' }} /> <b class="break">${names.get(one.id) ?? one.id}</b>${one.target && html` <span class="quiet">in ${one.target}</span>`}<p class="reason">${one.what}</p></li>`)}</ul></div>`;
  return html`<${Question} title=${`Remove ${counted(chosen.length, 'leftover')}?`} verb="Remove for good" tone="danger" what="to remove leftovers" close=${close} done=${done} answer=${answer} said=${said} act=${act}>
    ${chosen.some(isThing) && html`<p>${chosen.every(isThing) ? 'These' : 'Volumes and instances'} are removed from the cloud, with all that is on them. <b>They cannot be brought back.</b></p>`}
    ${!chosen.every(isThing) && html`<p>A snapshot whose hold is removed stays until the rules of retention forget it.</p>`}
    <ul class="brief named" tabindex="0" aria-label="What is removed">${chosen.map((one) => html`<li key=${keyOf(one)}><b class="break">${nameOf(one)}</b> <span class="quiet">${one.kind} in ${one.target}${one.bytes !== null && html`, <${Bytes} count=${one.bytes} />`}${one.created && html`, of <${Time} at=${one.created} />`}</span><span class="reason">${one.id}</span>${!one.removable && html`<p><${Mark} ...${leftoverStateOf(one)} /><span class="reason">${one.why}</span></p>`}</li>`)}</ul>
    ${doubtful.length > 0 && html`<label class="check"><input type="checkbox" name="looked" required /> I have looked at ${doubtful.length === 1 ? 'the one' : `the ${doubtful.length}`} marked “only by its id”: nobody needs ${doubtful.length === 1 ? 'it' : 'them'}.</label>`}
    <p class="quiet">Each is judged again right before, and stays where a run looks after it after all.</p>
  </${Question}>`;
}
