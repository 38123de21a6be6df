// The states of runs, steps, schedules, notices and leftovers: a word, a sign and a tone for each. The sign's shape differs, so colour is never needed to tell them apart.

/** Tone: how it looks. Sign: see icons.js. */
const STATES = {
  queued: { word: 'queued', tone: 'calm', sign: 'clock' },
  running: { word: 'running', tone: 'active', sign: 'play' },
  held: { word: 'held', tone: 'warn', sign: 'hand' },
  cancelling: { word: 'cancelling', tone: 'warn', sign: 'stop' },
  undoing: { word: 'undoing', tone: 'undo', sign: 'back' },
  succeeded: { word: 'succeeded', tone: 'good', sign: 'check' },
  failed: { word: 'failed', tone: 'bad', sign: 'cross' },
  cancelled: { word: 'cancelled', tone: 'calm', sign: 'slash' },
  'undo-failed': { word: 'undo failed', tone: 'bad', sign: 'alert' },
  pending: { word: 'pending', tone: 'calm', sign: 'dot' },
  waiting: { word: 'will retry', tone: 'warn', sign: 'again' },
  skipped: { word: 'skipped', tone: 'calm', sign: 'skip' },
  'undo-waiting': { word: 'undo will retry', tone: 'warn', sign: 'again' },
  undone: { word: 'undone', tone: 'calm', sign: 'back' },
};

export const RUN_STATES = ['queued', 'running', 'held', 'cancelling', 'undoing', 'succeeded', 'failed', 'cancelled', 'undo-failed'];

/** Groups that a person asks for, as values of the filter. */
export const GROUPS = [
  { value: 'held,undo-failed', word: 'need a person' },
  { value: 'queued,running,cancelling,undoing', word: 'under way' },
  { value: 'succeeded,failed,cancelled', word: 'over' },
];

export const stateOf = (name) => STATES[name] ?? { word: String(name), tone: 'calm', sign: 'dot' };

const LIVE = new Set(['queued', 'running', 'cancelling', 'undoing']);
export const isLiveState = (name) => LIVE.has(name);
export const isDoneStep = (name) => name === 'succeeded' || name === 'skipped';
export const isActiveStep = (name) => name === 'running' || name === 'undoing';

/** Whether a role may change what is there; the daemon decides again. */
export const mayCommand = (role) => role === 'operator' || role === 'admin';

/** What a person may ask of a run now; the daemon decides again. */
export function commandsOf(run, role) {
  const may = mayCommand(role);
  const { state } = run;
  return {
    retry: may && state === 'held',
    cancel: may && ['queued', 'running', 'held'].includes(state),
    undo: may && ['held', 'undo-failed'].includes(state),
    again: may && state === 'undo-failed',
  };
}

/** What a person may ask of a step now. */
export function stepCommandsOf(run, plan, record, role) {
  const may = mayCommand(role);
  const isBegun = record.state !== 'pending';
  return {
    retry: may && isBegun && ['held', 'succeeded'].includes(run.state),
    skip: may && plan?.may_skip && ['pending', 'waiting', 'failed'].includes(record.state) && ['queued', 'running', 'held'].includes(run.state),
    release: may && run.gated && !record.released && record.state === 'pending' && ['queued', 'running'].includes(run.state),
  };
}

const OPEN = new Set(['queued', 'running', 'held', 'cancelling', 'undoing', 'undo-failed']);
const TROUBLED = new Set(['held', 'failed', 'undo-failed']);

/** How a schedule stands. */
export function scheduleStateOf({ paused, next }) {
  if (paused) return { word: 'paused', tone: 'warn', sign: 'pause' };
  return next ? { word: 'on', tone: 'good', sign: 'schedules' } : { word: 'no more times', tone: 'warn', sign: 'end' };
}

export const MISSED = { word: 'missed', tone: 'bad', sign: 'missed' };

/** Whether a time of a schedule has passed without its run, or its run came late: the note of the last time says so. */
export const hasMissed = ({ note }) => Boolean(note) && !note.startsWith('begun by ') && /^no run\b|\bmissed\b/.test(note);

/** Whether somebody should look at a schedule: it has missed a time, or its last run has failed or waits for a person. */
export const isTroubled = (schedule) => hasMissed(schedule) || TROUBLED.has(schedule.last_state);

/** What a person may ask of a schedule now. It begins one run at a time. */
export function scheduleCommandsOf({ paused, last_state: state }, role) {
  const may = mayCommand(role);
  return { fire: may && !OPEN.has(state), pause: may && !paused, resume: may && paused };
}

const NOTICES = {
  waiting: { word: 'waiting', tone: 'warn', sign: 'clock' },
  failed: { word: 'given up', tone: 'bad', sign: 'cross' },
  delivered: { word: 'delivered', tone: 'good', sign: 'check' },
};
export const noticeStateOf = (name) => NOTICES[name] ?? { word: String(name), tone: 'calm', sign: 'dot' };

/** Whether a leftover is plainly the remains of a run, or something that somebody has to know. */
export const leftoverStateOf = ({ removable }) => (removable ? { word: 'removable', tone: 'good', sign: 'check' } : { word: 'only by its id', tone: 'warn', sign: 'alert' });
