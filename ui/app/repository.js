// The repository: how much it stores, and how that grows.

import { address } from './api.js';
import { Chart } from './chart.js';
import { bytes } from './format.js';
import { useResource } from './hooks.js';
import { html } from './html.js';
import { Ago, Bytes, Empty, Facts, Head, Panel, Resource } from './parts.js';

const DAY_MS = 86_400_000;

export function Repository() {
  const repository = useResource(address('repository'), { matters: (event) => event.event === 'moved' && event.state === 'succeeded', every: 60_000 });
  const site = useResource(address('site'));
  return html`<${Head} title="Repository" lead=${site.data?.repository?.location} />
    <${Resource} of=${repository} what="figures of its repository">${(data) => html`<${Content} ...${data} isEncrypted=${site.data?.repository?.encrypted} />`}</${Resource}>`;
}

function Content({ stored_bytes: stored, counted, data_bytes: data, images, snapshots, forgotten, growth = [], isEncrypted }) {
  const daily = perDay(growth);
  const added = growth.at(-1)?.stored_bytes;
  return html`
    <${Panel} title="Now"><${Facts} of=${[
      ['Stored', html`<span class="figure">${bytes(stored)}</span>`],
      ['Data of all snapshots', data !== undefined ? html`<${Bytes} count=${data} />` : null],
      ['Deduplication and compression', data > 0 && stored > 0 ? `${(data / stored).toFixed(1)} : 1` : null],
      ['Added by backups that are there', added === undefined ? null : html`<${Bytes} count=${added} />`],
      ['Images', images?.toLocaleString()],
      ['Snapshots', snapshots?.toLocaleString()],
      ['Forgotten, not removed yet', forgotten ? forgotten.toLocaleString() : null],
      ['Counted', counted ? html`<${Ago} at=${counted} />` : null],
      ['Encrypted', isEncrypted === undefined ? null : isEncrypted ? 'yes' : 'no'],
      ['Growth', daily === null ? null : `${daily < 0 ? '−' : ''}${bytes(Math.abs(daily))} a day`],
    ]} /></${Panel}>
    <${Panel} title="Growth">
      <p class="quiet">What backups have added up to a time, of all snapshots that are still there. What was collected is in it no more, so what is stored now may be more or less.</p>
      ${growth.length > 1 ? html`<${Chart} points=${growth.map((point) => ({ at: point.time, value: point.stored_bytes }))} title="Bytes stored in the repository over time" measure="stored" kind="area" />` : html`<${Empty}>There are not enough measurements yet to draw a line.</${Empty}>`}
    </${Panel}>`;
}

/** Bytes a day between the first and the last measurement of the last 30 days; `null` where that is less than a day. */
export function perDay(growth) {
  const last = growth.at(-1);
  const first = last && growth.find((point) => Date.parse(point.time) >= Date.parse(last.time) - 30 * DAY_MS);
  const days = first ? (Date.parse(last.time) - Date.parse(first.time)) / DAY_MS : 0;
  return days >= 1 ? (last.stored_bytes - first.stored_bytes) / days : null;
}
