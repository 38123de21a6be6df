// What is done with a snapshot: it is restored, exported, or held.

import { address, path, post, remove } from './api.js';
import { useResource } from './hooks.js';
import { html, useState } from './html.js';
import { Dialog, Field, NotOffered, ProblemBox, Resource, Time } from './parts.js';
import { go } from './router.js';
import { say } from './say.js';

/** The names of a snapshot's holds, in whichever form they come. */
export function holdsOf({ hold, holds }) {
  const given = holds ?? hold;
  if (!given) return [];
  if (given === true) return ['held'];
  const list = Array.isArray(given) ? given : [given];
  return list.map((one) => (typeof one === 'string' ? one : one.name ?? 'held'));
}

/** What people say of a snapshot: its tags, but for that by which its run finds it again. */
export function labelOf({ label, tags = {} }) {
  const said = Object.entries(tags).filter(([name]) => name !== 'run');
  return label || said.map(([name, value]) => (value ? `${name}=${value}` : name)).join(', ');
}

/** Why a snapshot is held, and since when, where that is told. */
function reasonOf({ hold, holds }, name) {
  const found = [holds ?? hold].flat().find((one) => one?.name === name);
  return found && html`<span class="quiet"> ${found.reason}${found.created && html` · since <${Time} at=${found.created} />`}</span>`;
}

function useAsk(close) {
  const [state, set] = useState({ problem: null, isBusy: false });
  const ask = async (act, said) => {
    set({ problem: null, isBusy: true });
    try {
      const result = await act();
      say(said, { isShown: true });
      close();
      return result;
    } catch (problem) {
      set({ problem, isBusy: false });
      return null;
    }
  };
  return { ...state, ask };
}

function Refusal({ problem, what }) {
  return problem?.isNotOffered ? html`<${NotOffered} what=${what} />` : html`<${ProblemBox} problem=${problem} />`;
}

export function RestoreDialog({ image, snapshot, close }) {
  const site = useResource(address('site'));
  const { problem, isBusy, ask } = useAsk(close);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const body = { image, snapshot: snapshot.id, target: form.get('target'), ...(form.get('name') && { name: form.get('name') }) };
    const made = await ask(() => post(address('restores'), body), 'The restore has begun.');
    if (made?.run) go(['runs', made.run]);
  };
  return html`<${Dialog} title="Restore this snapshot?" close=${close}>
    <form class="stack" onSubmit=${submit}>
      <p><b>${image}</b> as it was on <${Time} at=${snapshot.time} /> is written to a new volume. Nothing that exists is changed.</p>
      <${Resource} of=${site} what="its targets">${({ targets = [] }) => html`<${Field} label="Target" name="target"><select id="target" name="target" required>${targets.map(({ name, kind }) => html`<option key=${name} value=${name}>${name} (${kind})</option>`)}</select></${Field}>`}</${Resource}>
      <${Field} label="Name of the volume" name="name" hint="Otherwise the image’s name."><input id="name" name="name" spellcheck="false" autocomplete="off" aria-describedby="name-hint" /></${Field}>
      <${Refusal} problem=${problem} what="restores" />
      <div class="buttons"><button type="button" onClick=${close}>Close</button><button type="submit" class="primary" disabled=${isBusy || !site.data}>Restore</button></div>
    </form></${Dialog}>`;
}

const FORMATS = [
  ['qcow2', 'qcow2'], ['raw', 'raw'], ['zst', 'raw, compressed (zstd)'],
  ['vmdk', 'vmdk (VMware)'], ['vhdx', 'vhdx (Hyper-V)'], ['vhd', 'vhd'], ['vhd-fixed', 'vhd, fixed (Azure)'],
];

export function ExportDialog({ image, snapshot, close }) {
  const site = useResource(address('site'));
  const { problem, isBusy, ask } = useAsk(close);
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const object = form.get('object').trim();
    const body = { image, snapshot: snapshot.id, bucket: form.get('bucket'), format: form.get('format'), replace: form.get('replace') === 'on', ...(object && { object }) };
    const made = await ask(() => post(address('exports'), body), 'The export has begun.');
    if (made?.run) go(['runs', made.run]);
  };
  const choose = (buckets) => (buckets.length > 0
    ? html`<${Field} label="Bucket" name="bucket"><select id="bucket" name="bucket" required>${buckets.map(({ name, location }) => html`<option key=${name} value=${name}>${name} (${location})</option>`)}</select></${Field}>`
    : html`<p>This site has no bucket for exports: add a <code>[bucket.NAME]</code> to its configuration.</p>`);
  return html`<${Dialog} title="Export this snapshot?" close=${close}>
    <form class="stack" onSubmit=${submit}>
      <p><b>${image}</b> as it was on <${Time} at=${snapshot.time} /> becomes an object that others can read. It is read back and compared.</p>
      <${Resource} of=${site} what="its buckets">${({ buckets = [] }) => choose(buckets)}</${Resource}>
      <${Field} label="Format" name="format"><select id="format" name="format">${FORMATS.map(([value, label]) => html`<option key=${value} value=${value}>${label}</option>`)}</select></${Field}>
      <${Field} label="Name of the object" name="object" hint="Otherwise the image’s name, the snapshot and the format."><input id="object" name="object" maxlength="1024" spellcheck="false" autocomplete="off" aria-describedby="object-hint" /></${Field}>
      <label class="row"><input type="checkbox" name="replace" /> Replace an object that is there</label>
      <${Refusal} problem=${problem} what="exports" />
      <div class="buttons"><button type="button" onClick=${close}>Close</button><button type="submit" class="primary" disabled=${isBusy || !site.data?.buckets?.length}>Export</button></div>
    </form></${Dialog}>`;
}

export function HoldDialog({ image, snapshot, close, done }) {
  const { problem, isBusy, ask } = useAsk(close);
  const url = (...more) => address(path('images', image, 'snapshots', snapshot.id, 'holds', ...more));
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    await ask(() => post(url(), { name: form.get('name'), reason: form.get('reason') }), 'The snapshot is held.');
    done();
  };
  const letGo = async (name) => {
    await ask(() => remove(url(name)), 'The hold is gone.');
    done();
  };
  return html`<${Dialog} title="Hold this snapshot" close=${close}>
    <p>A snapshot that is held is not forgotten, whatever the rules of retention say, until it is let go.</p>
    ${holdsOf(snapshot).map((name) => html`<p key=${name} class="row"><span><b>${name}</b>${reasonOf(snapshot, name)}</span><button type="button" class="small danger" disabled=${isBusy} onClick=${() => letGo(name)}>Let go</button></p>`)}
    <form class="stack" onSubmit=${submit}>
      <${Field} label="Name of the hold" name="hold-name"><input id="hold-name" name="name" required maxlength="64" pattern="[A-Za-z0-9._\\-]+" spellcheck="false" autocomplete="off" /></${Field}>
      <${Field} label="Reason" name="hold-reason"><input id="hold-reason" name="reason" maxlength="500" /></${Field}>
      <${Refusal} problem=${problem} what="holds" />
      <div class="buttons"><button type="button" onClick=${close}>Close</button><button type="submit" class="primary" disabled=${isBusy}>Hold</button></div>
    </form></${Dialog}>`;
}
