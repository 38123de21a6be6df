// The states of runs and steps: a word, a sign and a tone for each. The sign's shape differs, so colour is never needed to tell them apart.

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

/** What a person may ask of a run now; the daemon decides again. */
export function commandsOf(run, role) {
  const may = role !== 'reader' && role !== 'writer';
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
  const may = role !== 'reader' && role !== 'writer';
  const isBegun = record.state !== 'pending';
  return {
    retry: may && isBegun && ['held', 'succeeded'].includes(run.state),
    skip: may && plan?.may_skip && ['pending', 'waiting', 'failed'].includes(record.state) && ['queued', 'running', 'held'].includes(run.state),
    release: may && run.gated && !record.released && record.state === 'pending' && ['queued', 'running'].includes(run.state),
  };
}
