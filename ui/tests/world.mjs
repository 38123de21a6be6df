// A site of the tests' own: runs, images and what happens to them, in the forms in which the daemon gives them. It exists only to drive the
// pages into states that a real daemon reaches slowly or by accident; the same tests run against a real one where LEEWARD_UI_URL is set.

const DIGITS = '0123456789abcdefghjkmnpqrstvwxyz';
const MINUTE = 60_000;
const DAY = 1440 * MINUTE;
export const GIB = 2 ** 30;

const PLAN = [
  ['get_file_head', 'Look at the object', [], {}],
  ['create_instance', 'Launch a temporary worker', ['get_file_head'], { has_undo: true }],
  ['get_private_ip', 'Find the worker’s address', ['create_instance'], {}],
  ['wait_cloud_init_execution', 'Wait until the worker is ready', ['get_private_ip'], {}],
  ['download_image_from_bucket', 'Read the image’s head from the bucket', ['get_file_head'], {}],
  ['create_block_volume', 'Create the volume', ['download_image_from_bucket'], { has_undo: true }],
  ['attach_block_volume', 'Attach the volume to the worker', ['wait_cloud_init_execution', 'create_block_volume'], { has_undo: true }],
  ['wait_for_attachment', 'Wait for the attachment', ['attach_block_volume'], {}],
  ['write_image_to_bv', 'Write the image to the volume, and compare', ['wait_for_attachment'], {}],
  ['fsck_on_block_volume', 'Check the file systems', ['write_image_to_bv'], { may_skip: true }],
  ['detach_block_volume', 'Detach the volume', ['fsck_on_block_volume'], {}],
  ['terminate_instance', 'Remove the worker', ['detach_block_volume'], {}],
  ['update_performance_of_bv', 'Lower the performance', ['detach_block_volume'], {}],
  ['setup_backup_policy', 'Assign the backup policy', ['update_performance_of_bv'], { may_skip: true }],
];

const plan = () => ({
  kind: 'import',
  version: 1,
  steps: PLAN.map(([name, title, after, more]) => ({ name, title, after, retry: { attempts: 5, first_ms: 2000, most_ms: 120000 }, deadline_seconds: 3600, may_skip: false, has_undo: false, ...more })),
  on_failure: 'hold',
  on_cancel: 'undo',
  pools: ['imports'],
});

const smallPlan = (kind) => ({
  ...plan(),
  kind,
  steps: ['prepare', 'transfer', 'check', 'publish'].map((name, at, all) => ({ name, title: name, after: at > 0 ? [all[at - 1]] : [], retry: { attempts: 3, first_ms: 1000, most_ms: 9000 }, deadline_seconds: null, may_skip: name === 'check', has_undo: false })),
});

const record = (name) => ({ name, state: 'pending', attempts: 0, tries: 0, interruptions: 0, undo_attempts: 0, started: null, finished: null, next_at: null, outputs: null, failure: null, skipped: null, released: false });

/** Numbers that look random and are the same each time. */
function chance(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

export class World {
  runs = [];
  events = [];
  clients = new Set();
  logs = new Map();
  progress = new Map();
  absent = new Set();
  /** Where people can sign in; nowhere where it is null. */
  provider = null;
  back = '/';
  receivers = [
    { name: 'operators', way: 'webhook', on: ['failed', 'held', 'undo-failed', 'missed', 'trouble'] },
    { name: 'storage-team', way: 'mail', on: ['failed', 'succeeded'] },
  ];
  /** What receivers answer to a test, where it is not that they take it. */
  answers = { 'storage-team': { delivered: false, answer: '550 5.7.1 storage@example.org: relaying denied' } };
  leftoverProblems = [];
  requests = [];
  isDown = false;
  /** From when on a report is whole, where that is later than asked; and whether all runs were counted. */
  since = null;
  isComplete = true;
  /** How long answers take, in milliseconds. */
  slowMs = 0;
  role = 'operator';
  #numbers = { event: 0, line: 0, run: 0 };

  constructor({ runs = 250, now = Date.now() } = {}) {
    const random = chance(7);
    const kinds = ['import', 'backup', 'restore', 'push'];
    for (let at = 0; at < runs; at += 1) {
      const kind = kinds[Math.floor(random() * kinds.length)];
      const state = random() < 0.9 ? 'succeeded' : random() < 0.6 ? 'failed' : 'cancelled';
      const created = now - (runs - at) * 11 * MINUTE - 3 * MINUTE;
      const run = this.make({ kind, subject: `${kind} ${['web-01/root', 'db-02/data', 'mail/root', 'legacy.example/disk0'][at % 4]} #${at}`, created });
      this.#finish(run, state, created + random() * 40 * MINUTE);
    }
    this.images = this.#images(now, random);
    this.schedules = this.#schedules(now);
    this.deliveries = this.#deliveries(now);
    this.leftovers = this.#leftovers(now);
    this.growth = Array.from({ length: 90 }, (_, at) => ({ time: iso(now - (90 - at) * DAY), stored_bytes: Math.round(GIB * (120 + at * 1.7 + 12 * Math.sin(at / 6))) }));
  }

  /** A run that has not begun. */
  make({ kind = 'import', subject, created = Date.now(), inputs }) {
    const run = {
      id: identity(created, (this.#numbers.run += 1)),
      subject,
      plan: kind === 'import' ? plan() : smallPlan(kind),
      inputs: inputs ?? { source: 'bucket', object: subject, target: 'volumes', options: { volume_name: subject, vpus_per_gb: 10 } },
      labels: { cause: 'event', site: 'east' },
      by: ['scheduler', 'anna', 'event'][this.#numbers.run % 3],
      created: iso(created),
      finished: null,
      state: 'queued',
      reason: null,
      gated: false,
      steps: [],
      fence: 1,
      sequence: 1,
    };
    run.steps = run.plan.steps.map(({ name }) => record(name));
    this.runs.unshift(run);
    return run;
  }

  #finish(run, state, at) {
    run.state = state;
    run.finished = iso(at);
    const broken = state === 'succeeded' ? run.steps.length : 1 + (run.steps.length >> 1);
    run.steps.forEach((step, index) => {
      if (index < broken) Object.assign(step, { state: 'succeeded', attempts: 1, tries: 1, started: run.created, finished: iso(at), outputs: { ok: true } });
    });
    if (state === 'failed') run.reason = `${run.steps[broken - 1].name}: the service answers 500`;
  }

  #images(now, random) {
    const names = ['web-01/root', 'web-01/data', 'db-02/root', 'db-02/data', 'mail/root', 'build/cache', 'legacy.example/disk0'];
    return names.map((image, index) => {
      const count = 12 + index * 5;
      const snapshots = Array.from({ length: count }, (_, at) => ({
        id: Array.from({ length: 64 }, () => '0123456789abcdef'[Math.floor(random() * 16)]).join(''),
        time: iso(now - (count - at) * DAY * 0.9 + random() * 3 * 3600_000),
        virtual_bytes: (40 + index * 20) * GIB,
        data_bytes: Math.round(GIB * (9 + index * 3 + at * 0.1)),
        stored_bytes: Math.round(GIB * (at === 0 ? 5 + index : 0.1 + random() * 0.9)),
        holds: at === 3 ? [{ name: 'audit', reason: 'year end', created: iso(now - 20 * DAY) }] : [],
        tags: at === count - 1 ? { run: 'lw', nightly: '', by: 'anna' } : { run: 'lw' },
      }));
      return { image, snapshots };
    });
  }

  /** One that does well, one that missed, one that failed, one that is paused, one that has not begun yet. */
  #schedules(now) {
    const last = (state) => this.runs.find((run) => run.state === state);
    const make = (name, job, times, more = {}) => ({ name, job, times, jitter_seconds: 0, catch_up: 'once', paused: false, paused_by: null, next: iso(now + 7 * 60 * MINUTE), last_slot: iso(now - 17 * 60 * MINUTE), last_run: null, last_state: null, last_reason: null, note: null, ...more });
    const of = (run) => (run ? { last_run: run.id, last_state: run.state, last_reason: run.reason } : {});
    return [
      make('look', 'check', 'every 1d', of(last('failed'))),
      make('nightly', 'backup', '30 2 * * * full every 30d (Europe/Berlin)', { jitter_seconds: 600, ...of(last('succeeded')) }),
      make('noon', 'import', '0 12 * * MON-FRI (Europe/Berlin)', { note: 'its time was missed, and 2 before it', ...of(last('succeeded')) }),
      make('state', 'state', 'every 1h', { next: iso(now + 20 * MINUTE), last_slot: null }),
      make('tidy', 'retain', 'every 1d', { paused: true, paused_by: 'bert', next: null, last_run: identity(now - 90 * DAY, 1) }),
    ];
  }

  #deliveries(now) {
    const [run] = this.runs;
    const make = (number, state, receiver, more) => ({ number, receiver, id: `msg_${number}`, kind: 'leeward.run.failed', about: run?.id ?? null, title: 'backup of db-02/data failed', made: iso(now - (80 - number) * MINUTE), state, due: null, attempts: 1, outcome: '204 No Content', ended: iso(now - (80 - number) * MINUTE), ...more });
    const taken = Array.from({ length: 70 }, (_, at) => make(70 - at, 'delivered', 'storage-team', { kind: 'leeward.run.succeeded', title: `backup of web-01/root #${70 - at} succeeded` }));
    return [
      make(73, 'waiting', 'operators', { due: iso(now + 5 * MINUTE), attempts: 4, outcome: 'https://hooks.example.org/leeward answers 503 Service Unavailable', ended: null }),
      make(72, 'waiting', 'operators', { kind: 'leeward.schedule.missed', about: 'noon', title: 'schedule noon missed a time', due: iso(now - 1000), attempts: 0, outcome: null, ended: null }),
      make(71, 'failed', 'storage-team', { attempts: 9, outcome: '550 5.7.1 storage@example.org: relaying denied' }),
      ...taken,
    ];
  }

  #leftovers(now) {
    const failed = this.runs.find((run) => run.state === 'failed');
    const make = (id, name, more) => ({ id, kind: 'volume', name, target: 'volumes', state: 'AVAILABLE', bytes: 50 * GIB, created: iso(now - 9 * DAY), age_seconds: 9 * 86400, run: failed?.id ?? 'gone', run_state: failed ? 'failed' : null, attached_to: [], why: 'its run has ended without it', removable: true, ...more });
    return [
      make('ocid1.volume.oc1.eu-frankfurt-1.abtheljraaaa4nvq5z3example', 'debian-13.qcow2', {}),
      make('ocid1.instance.oc1.eu-frankfurt-1.antheljraaaa7cxample', 'leeward-worker-7', { kind: 'instance', state: 'RUNNING', bytes: null, attached_to: null }),
      make('ocid1.volume.oc1.eu-frankfurt-1.abtheljrbbbb6mexample', 'db-02-data', { bytes: 500 * GIB, created: iso(now - 400 * DAY), age_seconds: 400 * 86400, run: identity(now - 400 * DAY, 9), run_state: null, removable: false, why: 'no run of that name is known here: its history is forgotten, or it is another daemon’s; it may be what it delivered' }),
      make('vol-attached', 'mail-root', { target: 'shelf', created: null, age_seconds: null, attached_to: ['i-0a1b2c3d'], removable: false, why: 'its run has ended without it, but it is in use' }),
    ];
  }

  /** How many notices stand where. */
  countsOf(receiver) {
    const count = (state) => this.deliveries.filter((one) => one.receiver === receiver && one.state === state).length;
    return { waiting: count('waiting'), failed: count('failed'), delivered: count('delivered') };
  }

  /** What is attached to a foreign machine stays. */
  removeLeftover(id) {
    const found = this.leftovers.find((one) => one.id === id);
    if (!found) return { id, target: null, removed: false, what: 'it is no leftover: it is not there, or in use, or what a run has delivered' };
    const removed = !found.attached_to?.length;
    if (removed) this.leftovers = this.leftovers.filter((one) => one !== found);
    return { id, target: found.target, removed, what: removed ? found.why : `it is attached to ${found.attached_to[0]}, which is not this site's: detach it there first` };
  }

  find(id) {
    return this.runs.find((run) => run.id === id);
  }

  /** Keeps an event and sends it to those who listen. */
  tell(run, event) {
    run.sequence += 1;
    const stored = { number: (this.#numbers.event += 1), run: run.id, at: iso(Date.now()), ...event };
    this.events.push(stored);
    for (const client of this.clients) client(stored);
  }

  say(run, step, text, level = 'info') {
    const lines = this.logs.get(run.id) ?? [];
    lines.push({ number: (this.#numbers.line += 1), step, at: iso(Date.now()), level, text });
    this.logs.set(run.id, lines);
  }

  move(run, state, reason = null) {
    Object.assign(run, { state, reason });
    run.finished = ['succeeded', 'failed', 'cancelled', 'undo-failed'].includes(state) ? iso(Date.now()) : null;
    this.tell(run, { event: 'moved', state, reason });
  }

  begin(run, name, ago = 0) {
    const step = run.steps.find((one) => one.name === name);
    Object.assign(step, { state: 'running', attempts: step.attempts + 1, tries: step.tries + 1, started: step.started ?? iso(Date.now() - ago), failure: null, next_at: null });
    if (run.state === 'queued') this.move(run, 'running');
    this.tell(run, { event: 'started', step: name });
    this.say(run, name, `attempt ${step.attempts} begins`);
  }

  end(run, name, outputs = {}) {
    const step = run.steps.find((one) => one.name === name);
    Object.assign(step, { state: 'succeeded', outputs, finished: iso(Date.now()) });
    this.progress.get(run.id)?.delete(name);
    this.say(run, name, 'done');
    this.tell(run, { event: 'succeeded', step: name, outputs });
  }

  fail(run, name, message, hint) {
    const step = run.steps.find((one) => one.name === name);
    Object.assign(step, { state: 'failed', finished: iso(Date.now()), failure: { message, hint, passing: false } });
    this.say(run, name, message, 'error');
    this.tell(run, { event: 'failed', step: name, failure: step.failure });
    this.move(run, 'held', `${name}: ${message}`);
  }

  advance(run, name, done, total, note = '') {
    const all = this.progress.get(run.id) ?? new Map();
    this.progress.set(run.id, all.set(name, { done, total, note, at: iso(Date.now()) }));
  }

  /** Steps up to one, all done. */
  upTo(run, name) {
    for (const step of run.steps) {
      if (step.name === name) return;
      this.begin(run, step.name, 5000);
      this.end(run, step.name, step.name === 'create_block_volume' ? { volume: 'ocid1.volume.oc1..aaaa', size_gib: 50 } : {});
    }
  }

  /** What the daemon makes of a command; a message where it is not possible now. */
  command(run, name, { step, inputs, reason } = {}) {
    if (name === 'retry' && run.state === 'held') {
      if (inputs) for (const [key, value] of Object.entries(inputs)) value === null ? delete run.inputs[key] : (run.inputs[key] = value);
      const failed = run.steps.filter((one) => (step ? one.name === step : one.state === 'failed'));
      failed.forEach((one) => Object.assign(one, record(one.name), { tries: one.tries }));
      this.tell(run, { event: 'cleared', step: failed[0]?.name });
      this.move(run, 'running');
      failed.forEach((one) => this.begin(run, one.name));
    } else if (name === 'skip' && ['held', 'running', 'queued'].includes(run.state)) {
      const one = run.steps.find((other) => other.name === step);
      Object.assign(one, { state: 'skipped', skipped: reason ?? 'a person said so', failure: null, finished: iso(Date.now()) });
      this.tell(run, { event: 'skipped', step, reason: one.skipped });
      if (run.state === 'held') this.move(run, 'running');
    } else if (name === 'cancel' && ['held', 'running', 'queued'].includes(run.state)) {
      this.move(run, 'undoing', 'cancelled');
      for (const one of run.steps) if (one.tries > 0) one.state = 'undone';
      this.move(run, 'cancelled', 'cancelled');
    } else if (name === 'undo' && run.state === 'held') {
      this.move(run, 'undoing');
      this.move(run, 'failed', 'undone');
    } else {
      return `it is ${run.state}`;
    }
    return null;
  }

  summary(run) {
    const { id, subject, by, state, reason, created, finished } = run;
    return { id, kind: run.plan.kind, subject, by, state, reason, created, finished, steps_done: run.steps.filter((step) => ['succeeded', 'skipped'].includes(step.state)).length, steps: run.steps.length };
  }
}

export const iso = (time) => new Date(time).toISOString();

function identity(time, number) {
  let text = '';
  for (let left = Math.floor(time), at = 0; at < 10; at += 1, left = Math.floor(left / 32)) text = DIGITS[left % 32] + text;
  return text + String(number).padStart(16, '0');
}
