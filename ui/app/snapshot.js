// What is done with a snapshot: it is restored, or held.

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
    ${holdsOf(snapshot).map((name) => html`<p key=${name} class="row"><b>${name}</b><button type="button" class="small danger" disabled=${isBusy} onClick=${() => letGo(name)}>Let go</button></p>`)}
    <form class="stack" onSubmit=${submit}>
      <${Field} label="Name of the hold" name="hold-name"><input id="hold-name" name="name" required maxlength="64" pattern="[A-Za-z0-9._\\-]+" spellcheck="false" autocomplete="off" /></${Field}>
      <${Field} label="Reason" name="hold-reason"><input id="hold-reason" name="reason" maxlength="500" /></${Field}>
      <${Refusal} problem=${problem} what="holds" />
      <div class="buttons"><button type="button" onClick=${close}>Close</button><button type="submit" class="primary" disabled=${isBusy}>Hold</button></div>
    </form></${Dialog}>`;
}
