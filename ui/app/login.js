// The door: a token is pasted, or comes of signing in at a provider; it is kept in this tab only.

import { html, useEffect, useRef, useState } from './html.js';
import { Icon } from './icons.js';
import { Field, moved, ProblemBox } from './parts.js';
import { begin, providers } from './sign-in.js';
import { ThemeSwitch } from './theme.js';

export function Login({ enter, problem }) {
  const [isBusy, setIsBusy] = useState(false);
  const field = useRef(null);
  useEffect(() => {
    document.title = 'Log in · Leeward';
    field.current.focus();
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    const value = field.current.value.trim();
    if (!value) return;
    setIsBusy(true);
    moved();
    await enter(value);
    setIsBusy(false);
  };
  const refused = problem?.status === 401 || (problem?.status === 403 && !problem.isSignIn);
  return html`<main class="login">
    <form onSubmit=${submit} aria-label="Log in">
      <div class="login-head"><${Icon} name="brand" size="40" /><div><h1>Leeward</h1><p class="lead">Log in to this site</p></div></div>
      <${ProblemBox} problem=${problem} what=${refused ? 'The token is not accepted' : null} />
      <${Field} label="Token" name="token" hint="Made with “leeward token add”. It is kept in this tab, and gone when the tab is closed.">
        <input id="token" type="password" ref=${field} autocomplete="off" spellcheck="false" required aria-describedby="token-hint" />
      </${Field}>
      <button type="submit" class="primary" disabled=${isBusy}>${isBusy ? 'Asking…' : 'Log in'}</button>
      <${Providers} />
    </form>
    <${ThemeSwitch} />
  </main>`;
}

/** Where else one can log in; nothing where there is no such place. */
function Providers() {
  const [names, setNames] = useState([]);
  const [problem, setProblem] = useState(null);
  const [isGoing, setIsGoing] = useState(false);
  useEffect(() => {
    // Without them a token still opens, so that they cannot be had is no trouble.
    providers().then(setNames, () => {});
  }, []);
  if (names.length === 0) return null;
  const go = async (name) => {
    setIsGoing(true);
    moved();
    await begin(name).then(() => setProblem(null), setProblem);
    setIsGoing(false);
  };
  return html`<div class="providers" role="group" aria-label="Sign in at a provider">
    <p class="or" aria-hidden="true">or</p>
    ${names.map((name) => html`<button key=${name} type="button" disabled=${isGoing} onClick=${() => go(name)}>Sign in with ${name}</button>`)}
    <${ProblemBox} problem=${problem} />
  </div>`;
}
