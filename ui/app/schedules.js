// Schedules: what is begun by the clock, what came of it last, and when it comes again.

import { address, path, post } from './api.js';
import { duration } from './format.js';
import { useResource } from './hooks.js';
import { html, useState } from './html.js';
import { Ago, Empty, Head, Mark, Panel, Resource, State, Time } from './parts.js';
import { Question } from './question.js';
import { go, link } from './router.js';
import { hasMissed, MISSED, scheduleCommandsOf, scheduleStateOf } from './states.js';

/** What a schedule does, and what does not come while it is paused. */
const JOBS = {
  backup: { does: 'backs up disks', lacks: 'no backup is made, and the images grow older than they should be' },
  check: { does: 'checks the repository', lacks: 'damage in the repository is not looked for' },
  retain: { does: 'forgets old snapshots, and collects', lacks: 'no snapshot is forgotten, and the repository grows' },
  state: { does: 'stores the daemon’s own state', lacks: 'there is no new copy of the daemon’s state' },
  import: { does: 'imports an object', lacks: 'nothing is imported' },
};

/** Schedules are looked at again when a run is begun or moves. */
export const useSchedules = () => useResource(address('schedules'), { matters: (event) => event.event === 'created' || event.event === 'moved', every: 60_000 });

export function Schedules({ role }) {
  const schedules = useSchedules();
  const [command, setCommand] = useState(null);
  return html`<${Head} title="Schedules" lead="What the daemon begins by the clock. Each time becomes a run." />
    <${Resource} of=${schedules} what="schedules">${({ schedules: list }) => html`<${Content} list=${list} role=${role} ask=${setCommand} />`}</${Resource}>
    ${command && html`<${CommandDialog} ...${command} close=${() => setCommand(null)} done=${schedules.reload} />`}`;
}

function Content({ list, role, ask }) {
  if (list.length === 0) return html`<${Empty}>Nothing is scheduled. A [schedule.NAME] in the daemon’s configuration has it begin backups, checks, retention or imports by the clock.</${Empty}>`;
  const commands = list.map((schedule) => scheduleCommandsOf(schedule, role));
  const may = commands.some((can) => can.fire || can.pause || can.resume);
  return html`<${Panel} title=${list.length === 1 ? '1 schedule' : `${list.length} schedules`}>
    <table class="cards schedules"><thead><tr><th scope="col">Schedule</th><th scope="col">State</th><th scope="col">Next</th><th scope="col">Last time</th><th scope="col">Last run</th>${may && html`<th scope="col"><span class="unseen">What can be done</span></th>`}</tr></thead>
      <tbody>${list.map((schedule, at) => html`<${Row} key=${schedule.name} schedule=${schedule} can=${may ? commands[at] : null} ask=${ask} />`)}</tbody></table>
  </${Panel}>`;
}

function Row({ schedule, can, ask }) {
  const { name, job, times, jitter_seconds: jitter, paused_by: by, note } = schedule;
  const isMissed = hasMissed(schedule);
  // Pause and resume take the same place, so the focus stays where it was.
  const button = (command, word) => html`<button type="button" class="small" aria-label=${`${word}: ${name}`} onClick=${() => ask({ command, schedule })}>${word}</button>`;
  return html`<tr>
    <th scope="row">${name}<span class="reason">${JOBS[job]?.does ?? job} · ${times}${jitter > 0 && `, up to ${duration(jitter)} later`}</span></th>
    <td><${Mark} ...${scheduleStateOf(schedule)} />${schedule.paused && by && html`<span class="reason">by ${by}</span>`}${isMissed && html`<div><${Mark} ...${MISSED} /></div>`}${note && html`<span class="reason">${note}</span>`}</td>
    <td data-label="Next"><${Moment} at=${schedule.next} /></td>
    <td data-label="Last time"><${Moment} at=${schedule.last_slot} none="none yet" /></td>
    <td data-label="Last run"><${LastRun} schedule=${schedule} /></td>
    ${can && html`<td class="does"><div class="actions">${can.fire && button('fire', 'Fire now')}${can.pause ? button('pause', 'Pause') : can.resume && button('resume', 'Resume')}</div></td>`}
  </tr>`;
}

function Moment({ at, none = '–' }) {
  if (!at) return html`<span class="quiet">${none}</span>`;
  return html`<${Time} at=${at} /> <span class="quiet since"><${Ago} at=${at} /></span>`;
}

/** Where the last run stands, and why. */
export function LastRun({ schedule: { name, last_run: run, last_state: state, last_reason: reason } }) {
  if (!run) return html`<span class="quiet">none yet</span>`;
  if (!state) return html`<span class="quiet">forgotten</span>`;
  return html`<a href=${link(['runs', run])}><span class="unseen">Last run of ${name}: </span><${State} name=${state} /></a>${reason && html`<span class="reason">${reason}</span>`}`;
}

/** The window for one command. */
function CommandDialog({ command, schedule, close, done }) {
  const Body = { fire: Fire, pause: Pause, resume: Resume }[command];
  return html`<${Body} schedule=${schedule} ask=${(body) => post(address(path('schedules', schedule.name, command)), body)} close=${close} done=${done} />`;
}

function Fire({ schedule: { name, job, paused }, ask, close }) {
  const act = (form) => ask(form.get('full') ? { full: true } : {});
  const done = ({ run }) => go(['runs', run]);
  return html`<${Question} title=${`Fire ${name} now?`} verb="Fire now" what="to fire a schedule" close=${close} done=${done} said=${({ new: isNew }) => (isNew ? 'The run has begun.' : 'The run had begun already.')} act=${act}>
    <p>A run begins at once: it ${JOBS[job]?.does ?? job}. The times of the schedule stay as they are${paused ? ', and it stays paused' : ''}.</p>
    ${job === 'backup' && html`<label class="check"><input type="checkbox" name="full" /> Read everything, not only what has changed (a full backup)</label>`}
  </${Question}>`;
}

function Pause({ schedule: { name, job }, ask, close, done }) {
  return html`<${Question} title=${`Pause ${name}?`} verb="Pause" tone="danger" what="to pause a schedule" close=${close} done=${done} said=${`${name} is paused.`} act=${() => ask({})}>
    <p>The clock begins nothing until somebody resumes it: ${JOBS[job]?.lacks ?? 'it does nothing'}.</p>
    <p>A run under way goes on, and it can still be fired by hand. Times that pass meanwhile are not made up for, and nobody is told of them.</p>
  </${Question}>`;
}

function Resume({ schedule: { name, paused_by: by }, ask, close, done }) {
  return html`<${Question} title=${`Resume ${name}?`} verb="Resume" what="to resume a schedule" close=${close} done=${done} said=${`${name} goes on.`} act=${() => ask({})}>
    <p>It goes on with its next time. What passed while it was paused${by ? html` by <b>${by}</b>` : ''} is not made up for: fire it if that is needed.</p>
  </${Question}>`;
}
