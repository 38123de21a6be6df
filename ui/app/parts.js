// Small parts that every page is made of.

import { ago, bytes, clock, localTime, percent, utc } from './format.js';
import { useTick } from './hooks.js';
import { html, useEffect, useRef } from './html.js';
import { Icon } from './icons.js';
import { stateOf } from './states.js';

/** The state of a run or a step as a sign and a word. */
export const State = ({ name }) => html`<${Mark} ...${stateOf(name)} />`;

/** A sign and a word. */
export function Mark({ word, tone, sign }) {
  return html`<span class=${`state ${tone}`}><${Icon} name=${sign} />${word}</span>`;
}

/** A moment: local, and in UTC where it is hovered over. */
export function Time({ at, as = 'local' }) {
  if (!at) return html`<span class="quiet">–</span>`;
  const shown = { local: localTime, ago, clock }[as](at);
  return html`<time datetime=${at} title=${as === 'ago' ? `${localTime(at)} · ${utc(at)}` : utc(at)}>${shown}</time>`;
}

/** How long ago, and counting. */
export function Ago({ at }) {
  useTick(10_000);
  return html`<${Time} at=${at} as="ago" />`;
}

export function Bytes({ count }) {
  return Number.isFinite(count) ? html`<span class="number" title=${`${count.toLocaleString()} bytes`}>${bytes(count)}</span>` : html`<span class="quiet">–</span>`;
}

/** How far something is. Without a total it only says that something moves. */
export function Bar({ done, total, label, tone = 'active' }) {
  const share = total > 0 ? Math.min(1, done / total) : null;
  const values = share === null ? {} : { 'aria-valuenow': Math.floor(share * 100) };
  return html`<div class=${`bar ${tone} ${share === null ? 'unknown' : ''}`} role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuetext=${share === null ? 'under way' : percent(done, total)} ...${values}>
    <div class="fill" style=${{ width: share === null ? '30%' : `${share * 100}%` }}></div>
  </div>`;
}

/** What went wrong: what, where, and what to do. */
export function ProblemBox({ problem, retry, what }) {
  if (!problem || problem.isAborted) return null;
  return html`<div class="problem" role="alert">
    <${Icon} name="alert" size="20" />
    <div>
      <strong>${what ? `${what}: ${problem.title}` : problem.title}</strong>
      ${problem.detail && html`<p>${problem.detail}</p>`}
      ${problem.hint && html`<p class="hint">${problem.hint}</p>`}
      ${retry && html`<button type="button" class="small" onClick=${retry}>Try again</button>`}
    </div>
  </div>`;
}

/** In the place of what the daemon does not have. */
export function NotOffered({ what }) {
  return html`<p class="not-offered"><${Icon} name="slash" /> This daemon does not offer ${what}.</p>`;
}

/**
 * What a resource has become: its content, what is wrong, that it is not offered, or that it is on its way. A collection that is not there
 * is one that the daemon does not know; a thing that is not there is gone, and the problem says so.
 */
export function Resource({ of, what, children, isItem = false }) {
  const { data, problem, isLoading, reload } = of;
  const isAbsent = problem?.isNotOffered || (!isItem && problem?.status === 404);
  if (isAbsent && !data) return html`<${NotOffered} what=${what} />`;
  return html`<div class="resource">
    <${ProblemBox} problem=${problem} retry=${reload} />
    ${data ? children(data) : isLoading && html`<p class="loading" role="status">Loading ${what}…</p>`}
  </div>`;
}

export function Empty({ children }) {
  return html`<p class="empty">${children}</p>`;
}

/** Whether a person has moved since the pages were loaded: before that, the focus stays where the browser has it. */
let hasMoved = false;
addEventListener('hashchange', () => (hasMoved = true));
export const moved = () => (hasMoved = true);

/** The head of a page. Its heading takes the focus when the page changes, so that a reader begins there. */
export function Head({ title, children, lead }) {
  const heading = useRef(null);
  useEffect(() => {
    document.title = `${title} · Leeward`;
    if (hasMoved) heading.current?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [title]);
  return html`<div class="head">
    <div><h1 tabindex="-1" ref=${heading}>${title}</h1>${lead && html`<p class="lead">${lead}</p>`}</div>
    ${children && html`<div class="actions">${children}</div>`}
  </div>`;
}

/** A part of a page with a heading of its own. */
export function Panel({ title, children, actions, name, box }) {
  return html`<section ref=${box} class=${`panel ${name ?? ''}`} aria-label=${title}>
    <div class="panel-head"><h2>${title}</h2>${actions}</div>
    ${children}
  </section>`;
}

/** Pairs of a name and a value; one that is long has a third member, `wide`, and a row of its own. */
export function Facts({ of }) {
  const shown = of.filter(([, value]) => value !== undefined && value !== null && value !== '');
  return html`<dl class="facts">${shown.map(([name, value, width]) => html`<div key=${name} class=${width}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A window above the page: `Esc` closes it, and the focus goes back to where it was, or to the heading where that cannot take it any more. */
export function Dialog({ title, close, children }) {
  const element = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    const box = element.current;
    box.showModal();
    // What lies below cannot take the focus before the window is closed.
    return () => (box.close(), (before?.isConnected && !before.disabled ? before : document.querySelector('main h1'))?.focus());
  }, []);
  const onCancel = (event) => (event.preventDefault(), close());
  return html`<dialog ref=${element} aria-label=${title} onCancel=${onCancel}><h2>${title}</h2>${children}</dialog>`;
}

/** A field with its label and, below, what it means. */
export function Field({ label, hint, name, children }) {
  return html`<div class="field"><label for=${name}>${label}</label>${children}${hint && html`<p class="hint" id=${`${name}-hint`}>${hint}</p>`}</div>`;
}

/** JSON as it is, for people. */
export function Json({ value }) {
  return html`<pre class="json" tabindex="0">${JSON.stringify(value, null, 2)}</pre>`;
}
