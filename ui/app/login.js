// The door: a token is pasted, and kept in this tab only.

import { html, useEffect, useRef, useState } from './html.js';
import { Icon } from './icons.js';
import { Field, moved, ProblemBox } from './parts.js';
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
  const refused = problem?.status === 401 || problem?.status === 403;
  return html`<main class="login">
    <form onSubmit=${submit} aria-label="Log in">
      <div class="login-head"><${Icon} name="brand" size="40" /><div><h1>Leeward</h1><p class="lead">Log in to this site</p></div></div>
      <${ProblemBox} problem=${problem} what=${refused ? 'The token is not accepted' : null} />
      <${Field} label="Token" name="token" hint="Made with “leeward token add”. It is kept in this tab, and gone when the tab is closed.">
        <input id="token" type="password" ref=${field} autocomplete="off" spellcheck="false" required aria-describedby="token-hint" />
      </${Field}>
      <button type="submit" class="primary" disabled=${isBusy}>${isBusy ? 'Asking…' : 'Log in'}</button>
    </form>
    <${ThemeSwitch} />
  </main>`;
}
