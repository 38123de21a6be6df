// The site: what it is made of.

import { address } from './api.js';
import { useResource } from './hooks.js';
import { html } from './html.js';
import { Empty, Facts, Head, Panel, Resource } from './parts.js';

export function Sites({ who }) {
  const site = useResource(address('site'), { every: 60_000 });
  return html`<${Head} title=${site.data?.name ? `Site ${site.data.name}` : 'Site'} />
    <${Resource} of=${site} what="a description of its site">${(data) => html`<${Content} ...${data} who=${who} />`}</${Resource}>`;
}

function Content({ name, version, repository, targets = [], sources = [], who }) {
  return html`<div class="columns even">
      <${Panel} title="The daemon"><${Facts} of=${[
        ['Site', name],
        ['Release', version],
        ['Repository', repository ? html`<span class="break">${repository.location}</span>` : 'none'],
        ['Encrypted', repository ? (repository.encrypted ? 'yes' : 'no') : null],
      ]} /></${Panel}>
      <${Panel} title="You"><${Facts} of=${[['Name', who.name], ['Role', who.role], ['Images', who.prefixes?.length > 0 ? who.prefixes.join(', ') : 'all']]} /></${Panel}>
    </div>
    <div class="columns even">
      <${Panel} title="Sources">${sources.length > 0 ? html`<table class="cards"><thead><tr><th scope="col">Name</th><th scope="col">Location</th><th scope="col">Watched</th></tr></thead>
        <tbody>${sources.map((source) => html`<tr key=${source.name}><th scope="row">${source.name}</th><td class="break" data-label="Location">${source.location}</td><td data-label="Watched">${watched(source.watch)}</td></tr>`)}</tbody></table>` : html`<${Empty}>There is no source to import from.</${Empty}>`}</${Panel}>
      <${Panel} title="Targets">${targets.length > 0 ? html`<table class="cards"><thead><tr><th scope="col">Name</th><th scope="col">Kind</th></tr></thead>
        <tbody>${targets.map((target) => html`<tr key=${target.name}><th scope="row">${target.name}</th><td data-label="Kind">${target.kind}</td></tr>`)}</tbody></table>` : html`<${Empty}>There is no target to import to.</${Empty}>`}</${Panel}>
    </div>`;
}

/** Whether new objects begin imports by themselves. */
function watched(watch) {
  if (watch === true) return 'yes';
  return watch ? (typeof watch === 'string' ? watch : JSON.stringify(watch)) : 'no';
}
