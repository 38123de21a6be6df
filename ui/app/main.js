// The frame around the pages: log-in, navigation, and how the connection stands.

import { address, get, onSignedOut, token } from './api.js';
import { duration } from './format.js';
import { useLiveStatus, useTick } from './hooks.js';
import { html, render, useEffect, useState } from './html.js';
import { Icon } from './icons.js';
import { ImagePage } from './image.js';
import { Images } from './images.js';
import { Imports } from './imports.js';
import { Leftovers } from './leftovers.js';
import { connect, disconnect } from './live.js';
import { Login } from './login.js';
import { Notices } from './notices.js';
import { Overview } from './overview.js';
import { Empty, Head } from './parts.js';
import { Reports } from './reports.js';
import { Repository } from './repository.js';
import { link, useRoute } from './router.js';
import { RunPage } from './run.js';
import { Runs } from './runs.js';
import { say, Speaker } from './say.js';
import { Schedules } from './schedules.js';
import { finish, returned } from './sign-in.js';
import { Sites } from './sites.js';
import { applyTheme, ThemeSwitch } from './theme.js';

const PAGES = [
  { name: 'overview', word: 'Overview' },
  { name: 'runs', word: 'Runs' },
  { name: 'reports', word: 'Reports' },
  { name: 'schedules', word: 'Schedules' },
  { name: 'imports', word: 'Imports' },
  { name: 'images', word: 'Images' },
  { name: 'repository', word: 'Repository' },
  { name: 'notices', word: 'Notices' },
  { name: 'leftovers', word: 'Leftovers' },
  { name: 'sites', word: 'Site' },
];

function App() {
  const [who, setWho] = useState(null);
  const [note, setNote] = useState(null);
  const [isAsking, setIsAsking] = useState(returned !== null || token.get() !== null);
  const leave = (why) => (token.clear(), disconnect(), setWho(null), setNote(why));
  const enter = async (value) => {
    token.set(value);
    try {
      setWho(await get(address('whoami')));
      setNote(null);
      connect();
    } catch (problem) {
      token.clear();
      setNote(problem);
    }
  };
  const enterBack = async () => {
    try {
      const found = await finish(returned);
      history.replaceState(null, '', `#${found.back}`);
      await enter(found.token);
    } catch (problem) {
      // Whoever is in already stays in: any page can lead here.
      if (token.get()) return enter(token.get());
      setNote(Object.assign(problem, { isSignIn: true }));
    }
  };
  useEffect(() => {
    onSignedOut(leave);
    const known = returned ? enterBack() : token.get() && enter(token.get());
    known?.finally(() => setIsAsking(false));
  }, []);
  if (isAsking) return html`<p class="loading" role="status">Logging in…</p>`;
  if (!who) return html`<${Login} enter=${enter} problem=${note} /><${Speaker} />`;
  return html`<${Frame} who=${who} leave=${() => leave(null)} />`;
}

function Frame({ who, leave }) {
  const { parts, query } = useRoute();
  const name = parts[0] ?? 'overview';
  const skip = (event) => (event.preventDefault(), document.querySelector('main h1')?.focus());
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header class="top">
      <a class="brand" href="#/"><${Icon} name="brand" /><span>Leeward</span></a>
      <nav aria-label="Pages"><ul>${PAGES.map((page) => html`<li key=${page.name}><a href=${link([page.name])} aria-current=${page.name === name ? 'page' : undefined}><${Icon} name=${page.name} /><span>${page.word}</span></a></li>`)}</ul></nav>
      <div class="me">
        <${Connection} />
        <${ThemeSwitch} />
        <button type="button" class="plain" onClick=${leave} title=${`${who.name}, ${who.role}`}><${Icon} name="out" /><span>Log out <span class="quiet">${who.name}</span></span></button>
      </div>
    </header>
    <main id="main"><${Page} name=${name} parts=${parts} query=${query} who=${who} /></main>
    <${Speaker} />`;
}

function Page({ name, parts, query, who }) {
  const rest = parts.slice(1);
  if (name === 'overview') return html`<${Overview} />`;
  if (name === 'runs' && rest.length > 0) return html`<${RunPage} key=${rest[0]} id=${rest[0]} query=${query} role=${who.role} />`;
  if (name === 'runs') return html`<${Runs} query=${query} />`;
  if (name === 'reports') return html`<${Reports} query=${query} />`;
  if (name === 'schedules') return html`<${Schedules} role=${who.role} />`;
  if (name === 'imports') return html`<${Imports} query=${query} role=${who.role} />`;
  if (name === 'images' && rest.length > 0) return html`<${ImagePage} key=${rest[0]} image=${rest[0]} query=${query} role=${who.role} />`;
  if (name === 'images') return html`<${Images} />`;
  if (name === 'repository') return html`<${Repository} />`;
  if (name === 'notices') return html`<${Notices} query=${query} role=${who.role} />`;
  if (name === 'leftovers') return html`<${Leftovers} role=${who.role} />`;
  if (name === 'sites') return html`<${Sites} who=${who} />`;
  return html`<${Head} title="No such page" /><${Empty}>There is nothing at this address. <a href="#/">Go to the overview</a>.</${Empty}>`;
}

const CONNECTION = {
  off: { tone: 'calm', word: 'not connected' },
  connecting: { tone: 'calm', word: 'connecting' },
  live: { tone: 'good', word: 'live' },
  lost: { tone: 'bad', word: 'not connected' },
  'not-offered': { tone: 'warn', word: 'no live events' },
};

/** Whether what is shown is what is; where it may not be, it says so. */
function Connection() {
  const status = useLiveStatus();
  const { tone, word } = CONNECTION[status.state];
  useTick(status.state === 'lost' ? 1000 : 0);
  const [wasLost, setWasLost] = useState(false);
  useEffect(() => {
    if (status.state === 'lost' && !wasLost) say('The connection to the daemon is lost. What is shown may be old.'), setWasLost(true);
    if (status.state === 'live' && wasLost) say('Connected again.'), setWasLost(false);
  }, [status.state]);
  const left = status.until ? Math.max(0, Math.ceil((status.until - Date.now()) / 1000)) : 0;
  const more = status.state === 'lost' && left > 0 ? `, again in ${duration(left)}` : '';
  const title = { lost: 'What is shown may be old.', 'not-offered': 'This daemon sends no events; pages are read anew every few seconds.' }[status.state];
  return html`<span class=${`connection ${tone}`} title=${title}><span class="lamp" aria-hidden="true"></span>${word}${more}</span>`;
}

applyTheme();
const place = document.getElementById('page');
place.textContent = '';
render(html`<${App} />`, place);
