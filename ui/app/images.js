// The images of the repository.

import { address } from './api.js';
import { counted } from './format.js';
import { useResource } from './hooks.js';
import { html, useState } from './html.js';
import { Ago, Empty, Head, Resource } from './parts.js';
import { link } from './router.js';

/** Rows before a person has to narrow the list. */
const ROWS_MAX = 500;

export function Images() {
  const images = useResource(address('images'), { matters: (event) => event.event === 'moved' && event.state === 'succeeded', every: 60_000 });
  return html`<${Head} title="Images" lead="Lines of disk states in the repository." /><${Resource} of=${images} what="a list of images">${(list) => html`<${List} images=${list} />`}</${Resource}>`;
}

function List({ images }) {
  const [text, setText] = useState('');
  if (images.length === 0) return html`<${Empty}>The repository has no image yet. <a href=${link(['imports'])}>Import one</a>, or run “leeward backup”.</${Empty}>`;
  const found = images.filter(({ image }) => image.toLowerCase().includes(text.toLowerCase()));
  return html`<form class="filter" role="search" aria-label="Filter images" onSubmit=${(event) => event.preventDefault()}><label class="grow">Name <input type="search" value=${text} placeholder="has this text" onInput=${(event) => setText(event.target.value)} /></label></form>
    <p class="sum" role="status">${counted(found.length, 'image')}${found.length > ROWS_MAX ? `; the first ${ROWS_MAX} are shown` : ''}</p>
    <div class="panel"><table class="cards"><thead><tr><th scope="col">Image</th><th scope="col">Snapshots</th><th scope="col">Latest</th></tr></thead>
    <tbody>${found.slice(0, ROWS_MAX).map(({ image, snapshots, latest }) => html`<tr key=${image}>
      <th scope="row"><a href=${link(['images', image])}>${image}</a></th><td class="number" data-label="Snapshots">${snapshots.toLocaleString()}</td><td data-label="Latest"><${Latest} of=${latest} /></td></tr>`)}</tbody></table></div>`;
}

/** The latest snapshot: its time, or an object that has one. */
function Latest({ of }) {
  const at = typeof of === 'string' ? of : of?.time;
  return at ? html`<${Ago} at=${at} />` : html`<span class="quiet">–</span>`;
}
