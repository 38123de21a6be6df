// Notices: who is told of what happens, what waits to be told, and what was given up.

import { address, path, post } from './api.js';
import { counted } from './format.js';
import { useResource } from './hooks.js';
import { html, useState } from './html.js';
import { Ago, Empty, Head, Mark, Panel, Resource, Time } from './parts.js';
import { Question } from './question.js';
import { link, replaceQuery } from './router.js';
import { mayCommand, noticeStateOf, stateOf } from './states.js';

const PAGE_ROWS = 50;
/** An attempt takes 45 s at most, and may have to wait for its turn. */
const TEST_MS = 90_000;
/** Which notices are shown. */
const FILTERS = [
  { value: '', states: 'waiting,failed', word: 'waiting or given up' },
  { value: 'waiting', states: 'waiting', word: 'waiting' },
  { value: 'failed', states: 'failed', word: 'given up' },
  { value: 'delivered', states: 'delivered', word: 'delivered' },
  { value: 'all', states: '', word: 'any' },
];
const matters = (event) => event.event === 'moved';

export function Notices({ query, role }) {
  const receivers = useResource(address('notify'), { matters, every: 10_000 });
  const [tested, setTested] = useState(null);
  return html`<${Head} title="Notices" lead="Who is told of what becomes of runs, schedules and the daemon itself." />
    <${Panel} title="Receivers"><${Resource} of=${receivers} what="notices">${({ receivers: list }) => html`<${Receivers} list=${list} may=${mayCommand(role)} test=${setTested} />`}</${Resource}></${Panel}>
    ${!receivers.problem?.isNotOffered && html`<${Panel} title="What was told, or is to be"><${Deliveries} query=${query} hasNone=${receivers.data?.receivers.length === 0} /></${Panel}>`}
    ${tested && html`<${Test} name=${tested.name} way=${tested.way} close=${() => setTested(null)} done=${receivers.reload} />`}`;
}

function Receivers({ list, may, test }) {
  if (list.length === 0) return html`<${Empty}>Nobody is told of anything. A [notify.NAME] in the daemon’s configuration names a webhook, or addresses of mail.</${Empty}>`;
  return html`<table class="cards"><thead><tr><th scope="col">Receiver</th><th scope="col">By</th><th scope="col">Told when</th><th scope="col">Waiting</th><th scope="col">Given up</th><th scope="col">Delivered</th>${may && html`<th scope="col"><span class="unseen">What can be done</span></th>`}</tr></thead>
    <tbody>${list.map((one) => html`<tr key=${one.name}>
      <th scope="row">${one.name}</th><td data-label="By">${one.way}</td>
      <td data-label="Told when">${one.on.map((occasion) => stateOf(occasion).word).join(', ')}</td>
      <td data-label="Waiting"><${Count} number=${one.waiting} state="waiting" /></td>
      <td data-label="Given up"><${Count} number=${one.failed} state="failed" /></td>
      <td data-label="Delivered" class="number">${one.delivered.toLocaleString()}</td>
      ${may && html`<td class="does"><button type="button" class="small" aria-label=${`Test: ${one.name}`} onClick=${() => test(one)}>Test</button></td>`}
    </tr>`)}</tbody></table>`;
}

/** A number; where it is one that matters, with the sign of its state. */
function Count({ number, state }) {
  return number > 0 ? html`<${Mark} ...${noticeStateOf(state)} word=${number.toLocaleString()} />` : html`<span class="number">0</span>`;
}

function Test({ name, way, close, done }) {
  const act = () => post(address(path('notify', name, 'test')), {}, { patience: TEST_MS });
  const answer = (result) => html`<div role="status"><p><${Mark} ...${result.delivered ? { word: 'taken', tone: 'good', sign: 'check' } : { word: 'not taken', tone: 'bad', sign: 'cross' }} /></p>
    <p class="quiet">${result.delivered ? 'It answered:' : 'Why:'}</p><p class="break said">${result.answer}</p>
    ${!result.delivered && html`<p class="quiet">See [notify.${name}] in the daemon’s configuration and whether the receiver can be reached from there, then test again.</p>`}</div>`;
  return html`<${Question} title=${`Test ${name}?`} verb="Test" what="tests of receivers" close=${close} done=${done} answer=${answer} said=${({ delivered }) => (delivered ? `${name} took the notice.` : `${name} did not take the notice.`)} act=${act}>
    <p>One notice is sent to <b>${name}</b> by ${way}. It says that it is a test, and that nothing has happened. It is sent once and not kept. The answer may take a minute.</p>
  </${Question}>`;
}

function Deliveries({ query, hasNone }) {
  const wanted = FILTERS.find(({ value }) => value === (query.get('state') ?? '')) ?? FILTERS[0];
  const [pages, setPages] = useState([null]);
  const resource = useResource(address('notify/deliveries', { state: wanted.states, before: pages.at(-1), most: PAGE_ROWS }), { matters, every: 10_000 });
  const choose = (event) => (setPages([null]), replaceQuery(['notices'], { state: event.target.value }));
  return html`<form class="filter" role="search" aria-label="Filter notices" onSubmit=${(event) => event.preventDefault()}>
      <label>State <select name="state" value=${wanted.value} onChange=${choose}>${FILTERS.map(({ value, word }) => html`<option key=${value} value=${value}>${word}</option>`)}</select></label>
    </form>
    <${Resource} of=${resource} what="a list of notices">${({ deliveries, next }) => html`
      ${deliveries.length > 0 ? html`<${Table} deliveries=${deliveries} />` : html`<${Empty}>${wanted.value === '' && !hasNone ? 'Nothing waits, and nothing was given up.' : 'No notice is like that.'}</${Empty}>`}
      <div class="buttons left">${pages.length > 1 && html`<button type="button" class="small" onClick=${() => setPages(pages.slice(0, -1))}>Newer</button>`}${next && html`<button type="button" class="small" onClick=${() => setPages([...pages, next])}>Older</button>`}</div>`}</${Resource}>`;
}

function Table({ deliveries }) {
  return html`<table class="cards notices"><thead><tr><th scope="col">State</th><th scope="col">Notice</th><th scope="col">To</th><th scope="col">Made</th><th scope="col">Tried</th></tr></thead>
    <tbody>${deliveries.map((one) => html`<tr key=${one.number}>
      <td><${Mark} ...${noticeStateOf(one.state)} /></td>
      <th scope="row"><${Subject} ...${one} />${one.outcome && html`<span class="reason">${one.outcome}</span>`}</th>
      <td data-label="To" class="break">${one.receiver}</td>
      <td data-label="Made"><${Time} at=${one.made} /></td>
      <td data-label="Tried">${one.attempts === 0 ? 'not yet' : counted(one.attempts, 'time')}${one.state === 'waiting' && one.due && html`<span class="reason">due <${Due} at=${one.due} /></span>`}${one.ended && html`<span class="reason">ended <${Ago} at=${one.ended} /></span>`}</td>
    </tr>`)}</tbody></table>`;
}

const Due = ({ at }) => (Date.parse(at) > Date.now() ? html`<${Ago} at=${at} />` : 'now');

/** The notice's title; it leads to what it is about. */
function Subject({ kind, about, title }) {
  if (about && kind.startsWith('leeward.run.')) return html`<a href=${link(['runs', about])}>${title}</a>`;
  if (kind === 'leeward.schedule.missed') return html`<a href=${link(['schedules'])}>${title}</a>`;
  return title;
}
