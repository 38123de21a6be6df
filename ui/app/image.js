// One image: its snapshots along time, what each added, and what can be done with one.

import { address, path } from './api.js';
import { Chart } from './chart.js';
import { bytes, counted } from './format.js';
import { useResource, useShown } from './hooks.js';
import { html, useState } from './html.js';
import { Files } from './files.js';
import { Icon } from './icons.js';
import { Ago, Bytes, Empty, Facts, Head, Panel, Resource, Time } from './parts.js';
import { link, replaceQuery } from './router.js';
import { ExportDialog, HoldDialog, holdsOf, labelOf, RestoreDialog } from './snapshot.js';
import { mayCommand } from './states.js';

/** Digits of an id that a person needs to see. */
const DIGITS = 10;

export function ImagePage({ image, query, role }) {
  const url = address(path('images', image, 'snapshots'));
  const snapshots = useResource(url, { matters: (event) => event.event === 'moved' && event.state === 'succeeded', every: 60_000 });
  return html`<${Head} title=${image} lead=${html`<a href=${link(['images'])}>All images</a>`} />
    <${Resource} of=${snapshots} what="the snapshots of this image" isItem>${(list) => html`<${Content} image=${image} list=${list} query=${query} role=${role} reload=${snapshots.reload} />`}</${Resource}>`;
}

function Content({ image, list, query, role, reload }) {
  const [dialog, setDialog] = useState(null);
  if (list.length === 0) return html`<${Empty}>This image has no snapshot.</${Empty}>`;
  const sorted = [...list].sort((a, b) => Date.parse(a.time) - Date.parse(b.time));
  const chosen = list.find(({ id }) => id === query.get('snapshot')) ?? null;
  const choose = (snapshot) => replaceQuery(['images', image], { snapshot: snapshot.id === chosen?.id ? null : snapshot.id });
  const shown = { restore: RestoreDialog, export: ExportDialog, hold: HoldDialog }[dialog];
  return html`
    <${Panel} title="Snapshots along time">
      <${Chart} points=${sorted.map((snapshot) => ({ at: snapshot.time, value: snapshot.stored_bytes ?? snapshot.data_bytes, mark: holdsOf(snapshot).length > 0, of: snapshot }))}
        title=${`Size of each snapshot of ${image}`} measure=${sorted.some(({ stored_bytes: stored }) => stored !== undefined) ? 'stored' : 'data'} chosen=${sorted.indexOf(chosen)} choose=${({ of }) => choose(of)} kind="bars" />
      <${Sums} list=${sorted} />
    </${Panel}>
    <div class="columns image">
      <${Panel} title=${counted(list.length, 'snapshot')} name="wide"><${Table} list=${[...sorted].reverse()} chosen=${chosen} choose=${choose} /></${Panel}>
      ${chosen ? html`<${Chosen} key=${chosen.id} image=${image} snapshot=${chosen} role=${role} open=${setDialog} />` : html`<${Panel} title="A snapshot"><${Empty}>Choose a snapshot to restore it, to hold it, or to see its files.</${Empty}></${Panel}>`}
    </div>
    ${shown && chosen && html`<${shown} image=${image} snapshot=${chosen} close=${() => setDialog(null)} done=${reload} />`}`;
}

/** What deduplication saves: the data of all snapshots against what is stored of them. */
function Sums({ list }) {
  const data = sum(list.map((snapshot) => snapshot.data_bytes));
  const stored = list.every(({ stored_bytes: one }) => one !== undefined && one !== null) ? sum(list.map((snapshot) => snapshot.stored_bytes)) : null;
  return html`<${Facts} of=${[
    ['Size of the disk', html`<${Bytes} count=${list.at(-1).virtual_bytes} />`],
    ['Data in all snapshots', html`<${Bytes} count=${data} />`],
    ['Stored of it', stored !== null && html`<${Bytes} count=${stored} />`],
    ['Saved', stored !== null && data > 0 && stored < data ? `${(100 - (stored / data) * 100).toFixed(1)} % (${(data / Math.max(1, stored)).toFixed(1)} : 1)` : null],
  ].filter(([, value]) => value !== false)} />`;
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);

function Table({ list, chosen, choose }) {
  const hasStored = list.some(({ stored_bytes: stored }) => stored !== undefined);
  return html`<table class="cards snapshots"><thead><tr><th scope="col">Time</th><th scope="col">Age</th><th scope="col">Name</th><th scope="col">Data</th>${hasStored && html`<th scope="col">Stored</th>`}<th scope="col">Hold</th></tr></thead>
    <tbody>${list.map((snapshot) => html`<tr key=${snapshot.id} class=${snapshot.id === chosen?.id ? 'chosen' : ''}>
      <th scope="row"><button type="button" class="link" aria-pressed=${snapshot.id === chosen?.id} onClick=${() => choose(snapshot)}><${Time} at=${snapshot.time} /></button></th>
      <td data-label="Age"><${Ago} at=${snapshot.time} /></td>
      <td data-label="Name"><code>${snapshot.id.slice(0, DIGITS)}</code>${labelOf(snapshot) && html` <br /><span class="label">${labelOf(snapshot)}</span>`}</td>
      <td class="number" data-label="Data"><${Bytes} count=${snapshot.data_bytes} /></td>
      ${hasStored && html`<td class="number" data-label="Stored"><${Bytes} count=${snapshot.stored_bytes} /></td>`}
      <td data-label="Hold">${holdsOf(snapshot).length > 0 ? html`<span class="state warn"><${Icon} name="lock" />${holdsOf(snapshot).join(', ')}</span>` : html`<span class="quiet">–</span>`}</td></tr>`)}</tbody></table>`;
}

function Chosen({ image, snapshot, role, open }) {
  const [showsFiles, setShowsFiles] = useState(false);
  const box = useShown();
  const may = mayCommand(role);
  return html`<${Panel} title="The chosen snapshot" name="step-panel" box=${box}>
    <${Facts} of=${[
      ['Snapshot', html`<code class="break">${snapshot.id}</code>`, 'wide'],
      ['Made', html`<${Time} at=${snapshot.time} />`],
      ['Size of the disk', html`<${Bytes} count=${snapshot.virtual_bytes} />`],
      ['Data', html`<${Bytes} count=${snapshot.data_bytes} />`],
      ['Stored', snapshot.stored_bytes === undefined ? null : bytes(snapshot.stored_bytes)],
      ['Holds', holdsOf(snapshot).join(', ')],
      ['Tags', labelOf(snapshot)],
    ]} />
    <div class="buttons left">
      ${may && html`<button type="button" class="primary" onClick=${() => open('restore')}>Restore</button><button type="button" onClick=${() => open('export')}>Export</button><button type="button" onClick=${() => open('hold')}>${holdsOf(snapshot).length > 0 ? 'Hold or let go' : 'Hold'}</button>`}
      ${may && html`<button type="button" aria-expanded=${showsFiles} onClick=${() => setShowsFiles(!showsFiles)}><${Icon} name="folder" /> Files</button>`}
    </div>
    ${showsFiles && html`<${Files} image=${image} snapshot=${snapshot.id} />`}
  </${Panel}>`;
}
