// Imports: begun by hand here, and watched.

import { address, path, post } from './api.js';
import { useResource } from './hooks.js';
import { html, useState } from './html.js';
import { Bytes, Empty, Field, Head, NotOffered, Panel, ProblemBox, Resource, Time } from './parts.js';
import { go, link } from './router.js';
import { Table, useRuns } from './runs.js';
import { say } from './say.js';

/** What an import may be told, by kind of target; everything else goes into the free lines. */
const OPTIONS = [
  { name: 'volume_name', label: 'Name of the volume', hint: 'Otherwise the object’s name.' },
  { name: 'ad_number', label: 'Availability domain', hint: 'From 1; 0 or nothing: any.', kinds: ['oci'], type: 'number' },
  { name: 'vpus_per_gb', label: 'Performance (VPUs per GB)', hint: 'After the import; while it is written it is raised.', kinds: ['oci'], type: 'number' },
  { name: 'backup_policy', label: 'Backup policy', kinds: ['oci'] },
  { name: 'kms_key', label: 'Key (KMS)', kinds: ['oci'] },
];

export function Imports({ role }) {
  const site = useResource(address('site'));
  return html`<${Head} title="Imports" lead="An object in a bucket, or a file, becomes a volume." />
    <div class="columns imports">
      <${Panel} title="Begin an import">${role === 'reader' ? html`<${Empty}>Your role is “reader”: it can watch imports, not begin them.</${Empty}>` : html`<${Resource} of=${site} what="its sources and targets">${(data) => html`<${Form} ...${data} />`}</${Resource}>`}</${Panel}>
      <${Panel} title="Imports so far" name="wide" actions=${html`<a href=${link(['runs'], { kind: 'import' })}>Search in all</a>`}><${Watch} /></${Panel}>
    </div>`;
}

const IMPORTS = { kind: 'import', most: 20 };

function Watch() {
  const { runs, next, problem, isLoading, more, first } = useRuns(IMPORTS);
  if (problem?.isNotOffered || problem?.status === 404) return html`<${NotOffered} what="a list of runs" />`;
  return html`<${ProblemBox} problem=${problem} retry=${first} />
    <${Table} runs=${runs} isBrief />
    ${isLoading && runs.length === 0 && html`<p class="loading">Loading imports…</p>`}
    ${!isLoading && runs.length === 0 && !problem && html`<${Empty}>Nothing has been imported yet.</${Empty}>`}
    ${next && html`<button type="button" class="more" onClick=${more}>Show more</button>`}`;
}

function Form({ sources = [], targets = [] }) {
  const [source, setSource] = useState(sources[0]?.name ?? '');
  const [object, setObject] = useState('');
  const [target, setTarget] = useState(targets[0]?.name ?? '');
  const [more, setMore] = useState('');
  const [state, setState] = useState({ problem: null, isBusy: false });
  if (sources.length === 0 || targets.length === 0) {
    return html`<${Empty}>This site has no ${sources.length === 0 ? 'source to import from' : 'target to import to'}. Add one to the daemon’s configuration, under ${sources.length === 0 ? '[source.NAME]' : '[target.NAME]'}.</${Empty}>`;
  }
  const kind = targets.find(({ name }) => name === target)?.kind;
  const fields = OPTIONS.filter(({ kinds }) => !kinds || kinds.includes(kind));
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    setState({ problem: null, isBusy: true });
    try {
      const options = { ...given(fields, form), ...lines(more) };
      const { run } = await post(address('imports'), { source, object, target, options });
      say('The import has begun.', { isShown: true });
      go(['runs', run]);
    } catch (problem) {
      setState({ problem, isBusy: false });
    }
  };
  return html`<form class="stack" onSubmit=${submit} aria-label="Begin an import">
    <${Field} label="Source" name="source"><select id="source" value=${source} onChange=${(event) => (setSource(event.target.value), setObject(''))}>${sources.map(({ name, location }) => html`<option key=${name} value=${name}>${name} (${location})</option>`)}</select></${Field}>
    <${Objects} key=${source} source=${source} object=${object} choose=${setObject} />
    <${Field} label="Object" name="object" hint="Choose it above, or write its name."><input id="object" value=${object} onInput=${(event) => setObject(event.target.value)} required spellcheck="false" autocomplete="off" aria-describedby="object-hint" /></${Field}>
    <${Field} label="Target" name="target"><select id="target" value=${target} onChange=${(event) => setTarget(event.target.value)}>${targets.map(({ name, kind: of }) => html`<option key=${name} value=${name}>${name} (${of})</option>`)}</select></${Field}>
    ${fields.map(({ name, label, hint, type }) => html`<${Field} key=${name} label=${label} name=${name} hint=${hint}><input id=${name} name=${name} type=${type ?? 'text'} min="0" step="1" spellcheck="false" autocomplete="off" /></${Field}>`)}
    <details><summary>More options</summary><${Field} label="One on each line: name = value" name="more"><textarea id="more" rows="4" spellcheck="false" value=${more} onInput=${(event) => setMore(event.target.value)}></textarea></${Field}></details>
    ${state.problem?.isNotOffered ? html`<${NotOffered} what="imports by hand" />` : html`<${ProblemBox} problem=${state.problem} />`}
    <button type="submit" class="primary" disabled=${state.isBusy || !object}>${state.isBusy ? 'Asking…' : 'Begin the import'}</button>
  </form>`;
}

function given(fields, form) {
  const filled = fields.map(({ name, type }) => [name, (form.get(name) ?? '').trim(), type]).filter(([, value]) => value !== '');
  return Object.fromEntries(filled.map(([name, value, type]) => [name, type === 'number' ? Number(value) : value]));
}

/** `name = value` lines; values that are JSON numbers or truth values are those. */
export function lines(text) {
  const pairs = text.split('\n').map((line) => line.trim()).filter(Boolean).map((line) => {
    const [, name, value] = /^([^=\s]+)\s*=\s*(.*)$/.exec(line) ?? [];
    if (!name) throw Object.assign(new Error(), { title: `“${line}” is no option`, hint: 'Write name = value.' });
    return [name, /^(true|false|-?\d+(\.\d+)?)$/.test(value) ? JSON.parse(value) : value];
  });
  return Object.fromEntries(pairs);
}

/** The objects of a source, to choose one. */
function Objects({ source, object, choose }) {
  const [prefix, setPrefix] = useState('');
  const [pages, setPages] = useState([null]);
  const after = pages.at(-1);
  const resource = useResource(address(path('sources', source, 'objects'), { prefix, after }));
  return html`<fieldset class="objects"><legend>Objects of ${source}</legend>
    <label>Names that begin with <input type="search" value=${prefix} spellcheck="false" onInput=${(event) => (setPages([null]), setPrefix(event.target.value))} /></label>
    <${Resource} of=${resource} what=${`a list of the objects of ${source}`}>${({ objects = [], next }) => html`
      <ul class="pick">${objects.map((one) => html`<li key=${one.name}><label class=${one.name === object ? 'chosen' : ''}><input type="radio" name="pick" checked=${one.name === object} onChange=${() => choose(one.name)} /><span class="name">${one.name}</span><${Bytes} count=${one.bytes} /><${Time} at=${one.modified} /></label></li>`)}</ul>
      ${objects.length === 0 && html`<${Empty}>No object has a name like that.</${Empty}>`}
      <div class="buttons left">${pages.length > 1 && html`<button type="button" class="small" onClick=${() => setPages(pages.slice(0, -1))}>Back</button>`}${next && html`<button type="button" class="small" onClick=${() => setPages([...pages, next])}>More objects</button>`}</div>`}</${Resource}>
  </fieldset>`;
}
