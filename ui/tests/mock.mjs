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
  const isPage = url.pathname === '/';
  const name = isPage ? 'index.html' : url.pathname.replace(/^\/assets\/[^/]+\//, '');
  const file = path.join(UI, name);
  const bytes = file.startsWith(UI) && !name.startsWith('tests') ? await readFile(file).catch(() => null) : null;
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
  world.requests.push({ method: request.method, path: url.pathname, query: Object.fromEntries(url.searchParams), headers: request.headers });
  if (request.headers.authorization !== `Bearer ${TOKEN}`) return problem(response, 401, 'Not logged in', 'The token is unknown or has expired.', 'Ask for a new token with “leeward token add”.');
  if (world.absent.has(parts[0]) || world.absent.has(parts.at(-1))) return problem(response, 404, 'No such route', '', '', 'urn:leeward:no-such-route');
  const route = ROUTES.find(([method, shape]) => method === request.method && fits(shape, parts));
  if (!route) return problem(response, 501, 'Not implemented');
  const query = url.searchParams;
  if (world.slowMs && parts[0] === 'runs') await new Promise((done) => setTimeout(done, world.slowMs));
  return route[2]({ world, request, response, parts, query, body: request.method === 'POST' ? await bodyOf(request) : {} });
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
  ['GET', ['site'], ({ response }) => json(response, { name: 'east', version: '0.1.0', repository: { location: 's3://backups/east', encrypted: true }, targets: [{ name: 'volumes', kind: 'oci' }, { name: 'shelf', kind: 'directory' }], sources: [{ name: 'bucket', location: 'oci://import-bucket', watch: true }, { name: 'inbox', location: '/srv/inbox', watch: false }] })],
  ['GET', ['overview'], overview],
  ['GET', ['runs'], list],
  ['GET', ['runs', '*'], ofRun(({ response, run, world }) => json(response, { run, lease: run.state === 'running' ? { owner: 'east-1', until: iso(Date.now() + 20_000) } : null, progress: Object.fromEntries(world.progress.get(run.id) ?? []) }))],
  ['GET', ['runs', '*', 'log'], ofRun(log)],
  ['POST', ['runs', '*', '*'], ofRun(command)],
  ['GET', ['events'], events],
  ['POST', ['imports'], begin],
  ['POST', ['restores'], ({ response, world, body }) => json(response, { run: world.make({ kind: 'restore', subject: `${body.image} to ${body.target}` }).id }, 201)],
  ['GET', ['sources', '*', 'objects'], objects],
  ['GET', ['images'], ({ response, world }) => json(response, world.images.map(({ image, snapshots }) => ({ image, snapshots: snapshots.length, latest: snapshots.at(-1).time })))],
  ['GET', ['images', '*', 'snapshots'], ({ response, world, parts }) => {
    const found = world.images.find(({ image }) => image === parts[1]);
    return found ? json(response, found.snapshots) : problem(response, 404, 'No such image', `There is no image ${parts[1]}.`, '', 'urn:leeward:not-found');
  }],
  ['POST', ['images', '*', 'snapshots', '*', 'holds'], ({ response, world, parts, body }) => {
    const snapshot = world.images.find(({ image }) => image === parts[1]).snapshots.find(({ id }) => id === parts[3]);
    snapshot.hold = [...(snapshot.hold ?? []), body];
    return json(response, snapshot, 201);
  }],
  ['GET', ['images', '*', 'snapshots', '*', 'files'], files],
  ['GET', ['repository'], ({ response, world }) => json(response, { stored_bytes: world.growth.at(-1).stored_bytes, data_bytes: 3100 * GIB, images: world.images.length, snapshots: 189, growth: world.growth })],
  ['GET', ['schedules'], ({ response, world }) => json(response, [{ name: 'nightly', kind: 'backup', next: iso(Date.now() + 7 * 3600_000), last_run: world.runs.find((run) => run.plan.kind === 'backup')?.id ?? null }, { name: 'state', kind: 'state-backup', next: iso(Date.now() + 1200_000), last_run: null }])],
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
  const tree = { '/': [['1', 'partition'], ['2', 'partition']], '/1': [['etc', 'directory'], ['hello.txt', 'file']], '/1/etc': [['hostname', 'file'], ['localtime', 'symlink']] };
  json(response, { entries: (tree[folder] ?? []).map(([name, kind]) => ({ name, kind, bytes: kind === 'file' ? 812 : null, modified: iso(Date.now() - 5e9) })) });
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
