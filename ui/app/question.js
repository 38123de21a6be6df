// A question before something is changed: what will happen, a button that does it, and what came of it.

import { html, useEffect, useRef, useState } from './html.js';
import { Dialog, NotOffered, ProblemBox } from './parts.js';
import { say } from './say.js';

/**
 * The window closes when it is done, unless `answer` makes something of the result that a person has to see. `said` is what is told then: a
 * text, or what makes one of the result.
 */
export function Question({ title, verb, tone = 'primary', what = 'this', close, act, done, said, answer, children }) {
  const [problem, setProblem] = useState(null);
  const [isBusy, setIsBusy] = useState(false);
  const [result, setResult] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    setIsBusy(true);
    setProblem(null);
    try {
      const made = await act(new FormData(event.target));
      say(typeof said === 'function' ? said(made) : said, { isShown: !answer });
      if (answer) setResult(made);
      else close();
      done?.(made);
    } catch (failure) {
      setProblem(failure);
      setIsBusy(false);
    }
  };
  if (result) return html`<${Dialog} title=${title.replace(/\?$/, '')} close=${close}>${answer(result)}<${CloseButton} close=${close} /></${Dialog}>`;
  return html`<${Dialog} title=${title} close=${close}><form onSubmit=${submit}>
    ${children}
    ${problem?.isNotOffered ? html`<${NotOffered} what=${what} />` : html`<${ProblemBox} problem=${problem} />`}
    <div class="buttons"><button type="button" onClick=${close}>Leave it as it is</button><button type="submit" class=${tone} disabled=${isBusy}>${isBusy && answer ? 'Asking…' : verb}</button></div>
  </form></${Dialog}>`;
}

/** Takes the focus, because the button that had it is gone. */
function CloseButton({ close }) {
  const button = useRef(null);
  useEffect(() => button.current.focus(), []);
  return html`<div class="buttons"><button type="button" ref=${button} onClick=${close}>Close</button></div>`;
}
