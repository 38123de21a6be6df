// The files in a snapshot, read without a restore.

import { address, get, path, send } from './api.js';
import { useResource } from './hooks.js';
import { html, useState } from './html.js';
import { Icon } from './icons.js';
import { Bytes, Empty, ProblemBox, Resource, Time } from './parts.js';

/** A file that a browser keeps whole in memory may not be larger, in bytes. */
const DOWNLOAD_BYTES_MAX = 512 * 1024 * 1024;
/** Entries of a folder that are read at once. */
const PAGE_ENTRIES = 200;

export function Files({ image, snapshot }) {
  const [folder, setFolder] = useState('/');
  const [problem, setProblem] = useState(null);
  const base = path('images', image, 'snapshots', snapshot, 'files');
  const take = async ({ name, path: place, bytes }) => {
    setProblem(null);
    try {
      if (bytes > DOWNLOAD_BYTES_MAX) throw { title: 'The file is too large to take through the browser', hint: `Use “leeward cp '${image}@${snapshot.slice(0, 12)}:${volumeAndPath(place)}' .”` };
      await download(address(`${base}/content`, { path: place }), name);
    } catch (failure) {
      setProblem(failure);
    }
  };
  const open = (place) => (setProblem(null), setFolder(place));
  return html`<div class="files">
    <nav aria-label="Folder"><${Trail} folder=${folder} open=${open} /></nav>
    <${ProblemBox} problem=${problem} />
    <${Folder} key=${folder} base=${base} folder=${folder} open=${open} take=${take} />
  </div>`;
}

function Folder({ base, folder, open, take }) {
  const first = useResource(address(base, { path: folder, most: PAGE_ENTRIES }), { patience: 65_000 });
  const [more, setMore] = useState({ entries: [], next: undefined });
  const [problem, setProblem] = useState(null);
  const [isBusy, setIsBusy] = useState(false);
  const readOn = async (after) => {
    setIsBusy(true);
    try {
      const page = await get(address(base, { path: folder, after, most: PAGE_ENTRIES }), { patience: 65_000 });
      setMore((before) => ({ entries: [...before.entries, ...page.entries], next: page.next }));
      setProblem(null);
    } catch (failure) {
      setProblem(failure);
    }
    setIsBusy(false);
  };
  return html`<${Resource} of=${first} what="the files in snapshots" isItem>${({ entries = [], next, warnings = [] }) => {
    const all = [...entries, ...more.entries];
    const after = more.next === undefined ? next : more.next;
    return html`${warnings.map((warning) => html`<p key=${warning} class="reason">${warning}</p>`)}
      <ul class="entries">${all.map((entry) => html`<li key=${entry.path}><${Entry} entry=${entry} open=${open} take=${take} /></li>`)}</ul>
      ${all.length === 0 && html`<${Empty}>The folder is empty.</${Empty}>`}
      <${ProblemBox} problem=${problem} />
      ${after && html`<button type="button" class="more" disabled=${isBusy} onClick=${() => readOn(after)}>Show more</button>`}`;
  }}</${Resource}>`;
}

/** A part of a path as a person reads it: in paths `%XX` stands for a byte of a name. */
export function shownPart(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Where a file is, as the command line wants it: `/2/etc/fstab` is `2:/etc/fstab`. */
export function volumeAndPath(place) {
  const [volume, ...rest] = place.split('/').filter(Boolean).map(shownPart);
  return `${volume}:/${rest.join('/')}`;
}

function Trail({ folder, open }) {
  const parts = folder.split('/').filter(Boolean);
  return html`<ol class="trail"><li><button type="button" class="link" onClick=${() => open('/')}>disk</button></li>${parts.map((part, at) => html`<li key=${at}><button type="button" class="link" onClick=${() => open(`/${parts.slice(0, at + 1).join('/')}`)}>${shownPart(part)}</button></li>`)}</ol>`;
}

function Entry({ entry, open, take }) {
  const { name, path: place, kind, bytes, modified, about } = entry;
  const isFolder = kind === 'directory' || kind === 'partition';
  const isPlain = isFolder || kind === 'file';
  const shown = isFolder ? html`<button type="button" class="link" onClick=${() => open(place)}>${name}</button>` : kind === 'file' ? html`<button type="button" class="link" onClick=${() => take(entry)} title="Take this file">${name}</button>` : name;
  const remark = kind === 'symlink' && about ? `→ ${about}` : [!isPlain && kind !== 'unreadable' && kind, about].filter(Boolean).join(', ');
  return html`<${Icon} name=${isFolder ? 'folder' : 'file'} /><span class="name">${shown}${remark && html` <span class="quiet">${remark}</span>`}</span>
    ${bytes === null || bytes === undefined ? html`<span></span>` : html`<${Bytes} count=${bytes} />`}${modified ? html`<${Time} at=${modified} />` : html`<span></span>`}`;
}

async function download(url, name) {
  const answer = await send('GET', url, { headers: { Accept: 'application/octet-stream' }, patience: 0 });
  save(await answer.blob(), name);
}

/** Has the browser keep bytes as a file. */
export function save(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
