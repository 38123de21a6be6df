// Dark or light: as the system says, or as the person chose. The choice is kept in this browser.

import { html, useState } from './html.js';
import { Icon } from './icons.js';
import { say } from './say.js';

const KEY = 'leeward.theme';
const NEXT = { system: 'light', light: 'dark', dark: 'system' };

const chosen = () => (['light', 'dark'].includes(localStorage.getItem(KEY)) ? localStorage.getItem(KEY) : 'system');

/** Makes the page look as chosen. */
export function applyTheme(theme = chosen()) {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function ThemeSwitch() {
  const [theme, set] = useState(chosen);
  const change = () => {
    const next = NEXT[theme];
    localStorage.setItem(KEY, next);
    applyTheme(next);
    set(next);
    say(`Colours: ${next}`);
  };
  return html`<button type="button" class="plain" onClick=${change} aria-label=${`Colours: ${theme}. Change to ${NEXT[theme]}`}><${Icon} name="theme" /><span>Colours: ${theme}</span></button>`;
}
