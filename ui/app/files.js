// The files in a snapshot, read without a restore.

import { address, path, send } from './api.js';
import { useResource } from './hooks.js';
import { html, useState } from './html.js';
import { Icon } from './icons.js';
import { Bytes, Empty, ProblemBox, Resource, Time } from './parts.js';

/** A file that a browser keeps whole in memory may not be larger, in bytes. */
const DOWNLOAD_BYTES_MAX = 512 * 1024 * 1024;

export function Files({ image, snapshot }) {
  const [folder, setFolder] = useState('/');
  const [problem, setProblem] = useState(null);
  const base = path('images', image, 'snapshots', snapshot, 'files');
  const entries = useResource(address(base, { path: folder }));
  const take = async (name, bytes) => {
    setProblem(null);
    try {
      if (bytes > DOWNLOAD_BYTES_MAX) throw { title: 'The file is too large to take through the browser', hint: `Use “leeward cp ${image}@${snapshot.slice(0, 10)}:${joined(folder, name)} .”` };
      await download(address(`${base}/content`, { path: joined(folder, name) }), name);
    } catch (failure) {
      setProblem(failure);
    }
  };
  return html`<div class="files">
    <nav aria-label="Folder"><${Trail} folder=${folder} open=${setFolder} /></nav>
    <${ProblemBox} problem=${problem} />
    <${Resource} of=${entries} what="the files in snapshots">${({ entries: list = [] }) => html`
      <ul class="entries">${list.map((entry) => html`<li key=${entry.name}><${Entry} entry=${entry} open=${() => setFolder(joined(folder, entry.name))} take=${() => take(entry.name, entry.bytes)} /></li>`)}</ul>
      ${list.length === 0 && html`<${Empty}>The folder is empty.</${Empty}>`}`}</${Resource}>
  </div>`;
}

const joined = (folder, name) => `${folder.replace(/\/$/, '')}/${name}`;

function Trail({ folder, open }) {
  const parts = folder.split('/').filter(Boolean);
  return html`<ol class="trail"><li><button type="button" class="link" onClick=${() => open('/')}>disk</button></li>${parts.map((part, at) => html`<li key=${at}><button type="button" class="link" onClick=${() => open(`/${parts.slice(0, at + 1).join('/')}`)}>${part}</button></li>`)}</ol>`;
}

function Entry({ entry, open, take }) {
  const { name, kind, bytes, modified } = entry;
  const isFolder = kind === 'directory' || kind === 'partition';
  return html`<${Icon} name=${isFolder ? 'folder' : 'file'} /><span class="name">${isFolder ? html`<button type="button" class="link" onClick=${open}>${name}</button>` : kind === 'file' ? html`<button type="button" class="link" onClick=${take} title="Take this file">${name}</button>` : name}</span>
    ${isFolder ? html`<span></span>` : html`<${Bytes} count=${bytes} />`}<${Time} at=${modified} />`;
}

async function download(url, name) {
  const answer = await send('GET', url, { headers: { Accept: 'application/octet-stream' }, patience: 0 });
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
