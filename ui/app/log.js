// A run's log, as it is written: of one step or of all.

import { address, get, path } from './api.js';
import { utc, clock } from './format.js';
import { useEvents } from './hooks.js';
import { Component, html, useEffect, useLayoutEffect, useRef, useState } from './html.js';
import { Empty, NotOffered, ProblemBox } from './parts.js';

/** Lines of one request, and how many are kept on the page. */
const LINES_MOST = 500;
const LINES_KEPT = 3_000;

/** The lines of a run's log; only what is new is read each time. */
function useLog(run, step, isLive) {
  const [state, set] = useState({ lines: [], problem: null, isCut: false });
  const cursor = useRef({ key: null, after: 0, busy: false });
  const key = `${run} ${step}`;
  const look = async () => {
    const mine = cursor.current;
    if (mine.key !== key || mine.busy) return;
    mine.busy = true;
    try {
      for (let isMore = true; isMore && cursor.current === mine; ) {
        const { lines } = await get(address(path('runs', run, 'log'), { step, after: mine.after || undefined, most: LINES_MOST }));
        if (cursor.current !== mine) return;
        isMore = lines.length === LINES_MOST;
        if (lines.length > 0) mine.after = lines.at(-1).number;
        set((before) => joined(before, lines));
      }
    } catch (problem) {
      if (cursor.current === mine) set((before) => ({ ...before, problem }));
    } finally {
      mine.busy = false;
    }
  };
  useEffect(() => {
    cursor.current = { key, after: 0, busy: false };
    set({ lines: [], problem: null, isCut: false });
    look();
  }, [key]);
  useEvents(look, (event) => event.run === run, isLive ? 1000 : 0);
  return state;
}

function joined(before, lines) {
  if (lines.length === 0) return before.problem ? { ...before, problem: null } : before;
  const all = [...before.lines, ...lines];
  return { lines: all.slice(-LINES_KEPT), problem: null, isCut: before.isCut || all.length > LINES_KEPT };
}

export function Log({ run, step, isLive }) {
  const { lines, problem, isCut } = useLog(run, step, isLive);
  const [follows, setFollows] = useState(true);
  const [level, setLevel] = useState('info');
  const box = useRef(null);
  const shown = level === 'info' ? lines : lines.filter((line) => line.level !== 'info');
  useLayoutEffect(() => {
    if (follows && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown.length, follows]);
  const onScroll = ({ target }) => setFollows(target.scrollHeight - target.scrollTop - target.clientHeight < 24);
  if (problem?.isNotOffered) return html`<${NotOffered} what="logs" />`;
  return html`<div class="log">
    <div class="log-head">
      <label class="check"><input type="checkbox" checked=${level !== 'info'} onChange=${(event) => setLevel(event.target.checked ? 'warning' : 'info')} /> only warnings and errors</label>
      <label class="check"><input type="checkbox" checked=${follows} onChange=${(event) => setFollows(event.target.checked)} /> follow</label>
    </div>
    <${ProblemBox} problem=${problem} what="The log" />
    <div class="log-lines" role="log" aria-live="off" aria-label=${step ? `Log of ${step}` : 'Log'} tabindex="0" ref=${box} onScroll=${onScroll}>
      ${isCut && html`<p class="quiet">Earlier lines are left out here: “leeward run log ${run}” shows all.</p>`}
      ${shown.map((line, at) => html`<${Line} key=${line.number} line=${line} head=${!step && shown[at - 1]?.step !== line.step} />`)}
      ${shown.length === 0 && !problem && html`<${Empty}>${isLive ? 'No line yet.' : 'No lines.'}</${Empty}>`}
    </div>
  </div>`;
}

class Line extends Component {
  shouldComponentUpdate({ line, head }) {
    return line.number !== this.props.line.number || head !== this.props.head;
  }

  render({ line, head }) {
    return html`${head && html`<div class="of">${line.step}</div>`}<div class=${`line ${line.level}`}><time datetime=${line.at} title=${utc(line.at)}>${clock(line.at)}</time><span class="text">${line.level !== 'info' && html`<b>${line.level}: </b>`}${line.text}</span></div>`;
  }
}
