// Serves the pages as the daemon does, with the same headers, over a World.

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import path from 'node:path';

import { GIB, iso } from './world.mjs';

const UI = fileURLToPath(new URL('..', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml' };
export const TOKEN = 'lwt-of-the-tests';

/** A server on a free port (or on `port`): `{ url, token, world, close }`. */
export async function serve(world, port = 0) {
  const policy = (await readFile(path.join(UI, 'policy.txt'), 'utf8')).trim();
  const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://localhost');
    if (world.isDown) return request.socket.destroy();
    const answer = url.pathname.startsWith('/v1/') ? api(world, request, response, url) : page(response, url, policy);
    answer.catch((error) => problem(response, 500, 'The mock broke', error.stack));
  });
  await new Promise((done) => server.listen(port, '127.0.0.1', done));
  const close = () => (server.closeAllConnections(), new Promise((done) => server.close(done)));
  return { url: `http://127.0.0.1:${server.address().port}/`, token: TOKEN, world, close, server };
}

async function page(response, url, policy) {
  const isReturn = /^\/sign-in\/[\w.-]+$/.test(url.pathname);
  const isPage = url.pathname === '/' || isReturn;
  const name = isPage ? 'index.html' : url.pathname.replace(/^\/assets\/[^/]+\//, '');
  const file = path.join(UI, name);
  let bytes = file.startsWith(UI) && !name.startsWith('tests') ? await readFile(file).catch(() => null) : null;
  if (isReturn) bytes = Buffer.from(String(bytes).replaceAll('"assets/', '"../assets/'));
  if (!bytes) return problem(response, 404, 'Not found');
  response.writeHead(200, {
    'content-type': TYPES[path.extname(name)] ?? 'text/plain; charset=utf-8',
    'content-security-policy': policy,
    'x-content-type-options': 'nosniff',
    'cross-origin-opener-policy': 'same-origin',
    etag: `"${createHash('sha256').update(bytes).digest('hex').slice(0, 32)}"`,
  });
  response.end(bytes);
}

function json(response, value, status = 200) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify(value));
}

function problem(response, status, title, detail = '', hint = '', type = 'about:blank') {
  response.writeHead(status, { 'content-type': 'application/problem+json' });
  response.end(JSON.stringify({ type, title, status, detail, hint }));
}

async function bodyOf(request) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  return pieces.length > 0 ? JSON.parse(Buffer.concat(pieces).toString()) : {};
}

async function api(world, request, response, url) {
  const parts = url.pathname.slice(4).split('/').map(decodeURIComponent);
  const entry = { method: request.method, path: url.pathname, query: Object.fromEntries(url.searchParams), headers: request.headers };
  world.requests.push(entry);
  if (parts[0] === 'sign-in') return signIn(world, request, response, parts, entry);
  if (request.headers.authorization !== `Bearer ${TOKEN}`) return problem(response, 401, 'Not logged in', 'The token is unknown or has expired.', 'Ask for a new token with “leeward token add”.');
  if (world.absent.has(parts[0]) || world.absent.has(parts.at(-1))) return problem(response, 404, 'No such route', '', '', 'urn:leeward:no-such-route');
  const route = ROUTES.find(([method, shape]) => method === request.method && fits(shape, parts));
  if (!route) return problem(response, 501, 'Not implemented');
  const query = url.searchParams;
  if (world.slowMs && parts[0] === 'runs') await new Promise((done) => setTimeout(done, world.slowMs));
  entry.body = request.method === 'POST' ? await bodyOf(request) : {};
  return route[2]({ world, request, response, parts, query, body: entry.body });
}

const COOKIE = '__Host-leeward-sign-in';

/** Signing in at `world.provider`: a cookie that belongs to a state, and a token for a code that comes back with both. */
async function signIn(world, request, response, parts, entry) {
  const body = (entry.body = request.method === 'POST' ? await bodyOf(request) : {});
  const set = (value, seconds) => response.setHeader('set-cookie', `${COOKIE}=${value}; Max-Age=${seconds}; Path=/; Secure; HttpOnly; SameSite=Lax`);
  if (parts.length === 1) return json(response, { providers: world.provider ? [{ name: 'company' }] : [] });
  if (parts.length === 2) {
    world.back = body.back;
    set('of-state-1', 600);
    return json(response, { location: `${world.provider}?state=state-1` });
  }
  const refuse = (detail, hint) => problem(response, 403, 'Signing in did not work', detail, hint, 'urn:leeward:problem:not-signed-in');
  if (!request.headers.cookie?.includes(`${COOKIE}=of-state-1`) || body.state !== 'state-1') return refuse('this browser has not begun to sign in');
  set('', 0);
  if (body.error) return refuse('company has not let you in, or you have declined', 'begin anew');
  if (body.code !== 'good') return refuse('“alice” is known at company and has no role here', 'it has no value in the claim groups that is a role here');
  return json(response, { token: TOKEN, until: iso(Date.now() + 3_600_000), back: world.back });
}

const fits = (shape, parts) => shape.length === parts.length && shape.every((part, at) => part === '*' || part === parts[at]);

/** Answers with a run, or says that there is none. */
const ofRun = (act) => (context) => {
  const run = context.world.find(context.parts[1]);
  if (!run) return problem(context.response, 404, 'No such run', `There is no run ${context.parts[1]}.`, 'It may be older than what the daemon keeps.', 'urn:leeward:not-found');
  return act({ ...context, run });
};

const ROUTES = [
  ['GET', ['whoami'], ({ response, world }) => json(response, { name: 'anna', role: world.role, prefixes: [] })],
  ['GET', ['site'], ({ response }) => json(response, { name: 'east', version: '0.1.0', repository: { location: 's3://backups/east', encrypted: true }, targets: [{ name: 'volumes', kind: 'oci' }, { name: 'shelf', kind: 'directory' }], sources: [{ name: 'bucket', location: 'oci://import-bucket', watch: true }, { name: 'inbox', location: '/srv/inbox', watch: false }], buckets: [{ name: 'archive', location: 's3://archive/exports' }] })],
  ['GET', ['overview'], overview],
  ['GET', ['runs'], list],
  ['GET', ['runs', '*'], ofRun(({ response, run, world }) => json(response, { run, lease: run.state === 'running' ? { owner: 'east-1', until: iso(Date.now() + 20_000) } : null, progress: Object.fromEntries(world.progress.get(run.id) ?? []) }))],
  ['GET', ['runs', '*', 'log'], ofRun(log)],
  ['POST', ['runs', '*', '*'], ofRun(command)],
  ['GET', ['events'], events],
  ['POST', ['imports'], begin],
  ['POST', ['restores'], ({ response, world, body }) => json(response, { run: world.make({ kind: 'restore', subject: `${body.image} to ${body.target}` }).id }, 201)],
  ['POST', ['exports'], ({ response, world, body }) => json(response, { run: world.make({ kind: 'export', subject: `${body.image} to ${body.bucket}` }).id }, 201)],
  ['GET', ['sources', '*', 'objects'], objects],
  ['GET', ['images'], ({ response, world }) => json(response, world.images.map(({ image, snapshots }) => ({ image, snapshots: snapshots.length, latest: snapshots.at(-1).time })))],
  ['GET', ['images', '*', 'snapshots'], ({ response, world, parts }) => {
    const found = world.images.find(({ image }) => image === parts[1]);
    return found ? json(response, found.snapshots) : problem(response, 404, 'No such image', `There is no image ${parts[1]}.`, '', 'urn:leeward:not-found');
  }],
  ['POST', ['images', '*', 'snapshots', '*', 'holds'], ({ response, world, parts, body }) => {
    const snapshot = world.images.find(({ image }) => image === parts[1]).snapshots.find(({ id }) => id === parts[3]);
    snapshot.holds = [...snapshot.holds, { ...body, created: iso(Date.now()) }];
    return json(response, snapshot, 201);
  }],
  ['DELETE', ['images', '*', 'snapshots', '*', 'holds', '*'], ({ response, world, parts }) => {
    const snapshot = world.images.find(({ image }) => image === parts[1]).snapshots.find(({ id }) => id === parts[3]);
    snapshot.holds = snapshot.holds.filter(({ name }) => name !== parts[5]);
    return json(response, snapshot);
  }],
  ['GET', ['images', '*', 'snapshots', '*', 'files'], files],
  ['GET', ['images', '*', 'snapshots', '*', 'files', 'content'], content],
  ['GET', ['reports'], report],
  ['GET', ['repository'], ({ response, world }) => json(response, { stored_bytes: world.growth.at(-1).stored_bytes, counted: iso(Date.now() - 20_000), data_bytes: 3100 * GIB, images: world.images.length, snapshots: 189, forgotten: 12, growth: world.growth })],
  ['GET', ['schedules'], ({ response, world }) => json(response, { schedules: world.schedules })],
  ['POST', ['schedules', '*', '*'], schedule],
  ['GET', ['notify'], ({ response, world }) => json(response, { receivers: world.receivers.map((one) => ({ ...one, ...world.countsOf(one.name) })) })],
  ['GET', ['notify', 'deliveries'], deliveries],
  ['POST', ['notify', '*', 'test'], ({ response, world, parts }) => {
    const found = world.receivers.find(({ name }) => name === parts[1]);
    if (!found) return problem(response, 404, 'There is no such thing', `this site tells nobody called ${parts[1]}`, '', 'urn:leeward:problem:not-found');
    return json(response, { id: 'msg_test', ...(world.answers[found.name] ?? { delivered: true, answer: '204 No Content' }) });
  }],
  ['GET', ['leftovers'], ({ response, world }) => json(response, { leftovers: world.leftovers, problems: world.leftoverProblems })],
  ['POST', ['leftovers', 'remove'], ({ response, world, body }) => json(response, { results: body.ids.map((id) => world.removeLeftover(id)) })],
];

function overview({ response, world }) {
  const counts = new Map();
  for (const run of world.runs) {
    const key = `${run.plan.kind} ${run.state}`;
    counts.set(key, { kind: run.plan.kind, state: run.state, count: (counts.get(key)?.count ?? 0) + 1 });
  }
  const pick = (states) => world.runs.filter((run) => states.includes(run.state)).slice(0, 10).map((run) => world.summary(run));
  const images = world.images.map(({ image, snapshots }, at) => {
    const age = Math.round((Date.now() - Date.parse(snapshots.at(-1).time)) / 1000);
    const target = [86400, 90000, 172800, null, 14400, null, 604800][at];
    return { image, snapshots: snapshots.length, latest: snapshots.at(-1).time, age_seconds: age, rpo_target_seconds: target, protected: target !== null && age < target };
  });
  json(response, { runs: [...counts.values()], held: pick(['held', 'undo-failed']), failed: pick(['failed']).slice(0, 5), images });
}

function list({ response, world, query }) {
  const states = (query.get('state') ?? '').split(',').filter(Boolean);
  const most = Number(query.get('most') ?? 100);
  const fitting = [...world.runs].sort((a, b) => (a.id < b.id ? 1 : -1)).filter((run) => (states.length === 0 || states.includes(run.state)) && (!query.get('kind') || run.plan.kind === query.get('kind')) && run.subject.includes(query.get('text') ?? '') && (!query.get('past') || run.id < query.get('past')));
  const runs = fitting.slice(0, most).map((run) => world.summary(run));
  json(response, { runs, next: fitting.length > most ? runs.at(-1).id : null });
}

function log({ response, world, run, query }) {
  const lines = (world.logs.get(run.id) ?? []).filter((line) => line.number > Number(query.get('after') ?? 0) && (!query.get('step') || line.step === query.get('step')));
  json(response, { lines: lines.slice(0, Number(query.get('most') ?? 100)) });
}

function command({ response, world, run, parts, body }) {
  const refusal = world.command(run, parts[2], body);
  if (refusal) return problem(response, 409, 'Not now', `Run ${run.id}: ${refusal}.`, 'Look at where the run stands now.', 'urn:leeward:conflict');
  return json(response, run);
}

function schedule({ response, world, parts, body }) {
  const found = world.schedules.find(({ name }) => name === parts[1]);
  if (!found) return problem(response, 404, 'There is no such thing', `this site has no schedule ${parts[1]}`, '', 'urn:leeward:problem:not-found');
  if (parts[2] !== 'fire') {
    const paused = parts[2] === 'pause';
    Object.assign(found, { paused, paused_by: paused ? 'anna' : null, next: paused ? null : iso(Date.now() + 3_600_000) });
    return json(response, found);
  }
  const open = world.find(found.last_run);
  if (open && ['running', 'held'].includes(open.state)) return problem(response, 409, 'Not in this state', `run ${open.id}: it is ${open.state}, and schedule ${found.name} begins one run at a time`, 'look at it again and decide anew', 'urn:leeward:problem:conflict');
  const run = world.make({ kind: found.job, subject: `${found.job} of ${found.name}`, inputs: { full: body.full === true } });
  Object.assign(found, { last_run: run.id, last_state: run.state, last_reason: null, note: 'begun by anna' });
  world.tell(run, { event: 'created' });
  return json(response, { run: run.id, new: true }, 201);
}

function deliveries({ response, world, query }) {
  const states = (query.get('state') ?? '').split(',').filter(Boolean);
  const most = Number(query.get('most') ?? 100);
  const fitting = world.deliveries.filter((one) => (states.length === 0 || states.includes(one.state)) && (!query.get('before') || one.number < Number(query.get('before'))));
  const shown = fitting.slice(0, most);
  json(response, { deliveries: shown, next: shown.length === most ? shown.at(-1).number : null });
}

function begin({ response, world, body }) {
  if (body.object.endsWith('.txt')) return problem(response, 422, 'Not an image', `${body.object} has no format that can be imported.`, 'Choose a qcow2, raw, vdi, vhdx or vmdk image.');
  const run = world.make({ subject: body.object, inputs: body });
  world.tell(run, { event: 'created' });
  return json(response, { run: run.id }, 201);
}

function objects({ response, query }) {
  const names = ['debian-13.qcow2', 'disks/legacy.example.vmdk', 'disks/web-01.vhdx', 'notes.txt', 'windows.server.2019.vdi', '<b>bold</b>.raw'];
  const found = names.filter((name) => name.startsWith(query.get('prefix') ?? ''));
  json(response, { objects: found.map((name, at) => ({ name, bytes: Math.round(GIB * (at + 0.4)), modified: iso(Date.now() - at * 86_400_000) })), next: null });
}

function files({ response, query }) {
  const folder = query.get('path') ?? '/';
  const many = Array.from({ length: 450 }, (_, at) => [`message-${String(at).padStart(4, '0')}`, 'file']);
  const tree = {
    '/': [['1', 'partition', 'ext4, Linux filesystem'], ['2', 'unreadable', 'Linux swap']],
    '/1': [['etc', 'directory'], ['hello.txt', 'file'], ['spool', 'directory']],
    '/1/etc': [['100% <b>sure</b>', 'directory'], ['hostname', 'file'], ['localtime', 'symlink', '/usr/share/zoneinfo/UTC'], ['ttyS0', 'device']],
    '/1/etc/100%25 <b>sure<%2Fb>': [],
    '/1/spool': many,
  };
  const encoded = (name) => name.replaceAll('%', '%25').replaceAll('/', '%2F');
  const most = Number(query.get('most') ?? 100);
  const all = (tree[folder] ?? []).filter(([name]) => name > (query.get('after') ?? ''));
  const shown = all.slice(0, most);
  const line = ([name, kind, about = null]) => ({ name, path: `${folder.replace(/\/$/, '')}/${encoded(name)}`, kind, bytes: kind === 'file' ? 812 : kind === 'partition' ? 40 * GIB : null, modified: kind === 'partition' || kind === 'unreadable' ? null : iso(Date.now() - 5e9), about });
  json(response, { entries: shown.map(line), next: all.length > most ? shown.at(-1)[0] : null, warnings: folder === '/1' ? ['the log was not replayed: recent changes may be missing'] : [] });
}

function content({ response, query }) {
  response.writeHead(200, { 'content-type': 'application/octet-stream', 'content-disposition': 'attachment' });
  response.end(`bytes of ${query.get('path')}`);
}

function report({ response, world, query }) {
  const [from, to] = [query.get('from'), query.get('to')];
  const runs = world.runs.filter((run) => run.created >= from && run.created < to && (!query.get('kind') || run.plan.kind === query.get('kind')));
  const groups = [...new Set(runs.map((run) => run.plan.kind))].sort().map((kind) => {
    const own = runs.filter((run) => run.plan.kind === kind);
    const of = (...states) => own.filter((run) => states.includes(run.state)).length;
    const isBackup = kind === 'backup';
    return { kind, schedule: isBackup ? 'nightly' : null, begun: own.length, succeeded: of('succeeded'), partial: 0, failed: of('failed'), cancelled: of('cancelled'), held: of('held'), undo_failed: of('undo-failed'), waiting: of('queued'), running: of('running', 'cancelling', 'undoing'), read_bytes: isBackup ? 90 * GIB : 0, stored_bytes: isBackup ? 7 * GIB : 0, written_bytes: kind === 'import' ? 300 * GIB : 0, median_seconds: 312.5, longest_seconds: 4312 };
  });
  const images = world.images.slice(0, 4).map(({ image, snapshots }, at) => ({ image, backups: 20 + at, stored_bytes: (at + 1) * GIB, last: snapshots.at(-1).time, longest_gap_seconds: 86_400 * (at + 1), rpo_target_seconds: at === 0 ? 43_200 : null, rpo_misses: at === 0 ? 3 : null }));
  const answer = { from, to, since: world.since ?? from, complete: world.isComplete, runs: runs.length, groups, images };
  if (query.get('format') !== 'csv') return json(response, answer);
  response.writeHead(200, { 'content-type': 'text/csv' });
  response.end(`kind,begun\r\n${groups.map((group) => `${group.kind},${group.begun}\r\n`).join('')}`);
}

function events({ request, response, world, query }) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
  const send = (event) => query.get('run') && event.run !== query.get('run') ? null : response.write(`id: ${event.number}\ndata: ${JSON.stringify(event)}\n\n`);
  const past = request.headers['last-event-id'];
  if (past !== undefined) world.events.filter((event) => event.number > Number(past)).forEach(send);
  response.write(': hello\n\n');
  world.clients.add(send);
  const beat = setInterval(() => response.write(': beat\n\n'), 5000);
  request.on('close', () => (clearInterval(beat), world.clients.delete(send)));
}
