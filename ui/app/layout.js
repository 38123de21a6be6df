// Where the steps of a plan are drawn: one row each, in an order in which each comes after those it waits for, and lanes side by side for
// branches, as on the map of an underground railway. Plain functions; nothing here draws.

/** The steps in rows, each with its lane, and the lines between them. */
export function layout(steps) {
  const rows = inOrder(steps);
  const before = reduced(rows);
  const row = new Map(rows.map((step, at) => [step.name, at]));
  const followers = new Map(rows.map((step) => [step.name, []]));
  for (const [name, names] of before) for (const other of names) followers.get(other).push(row.get(name));
  const lane = lanes(rows, before, followers, row);
  const nodes = rows.map((step, at) => ({ step, row: at, lane: lane.get(step.name) }));
  const edges = rows.flatMap((step) => before.get(step.name).map((other) => edge(other, step.name, row, lane)));
  const ways = routed(edges, nodes);
  return { nodes, edges: ways, lanes: 1 + Math.max(0, ...nodes.map((node) => node.lane), ...ways.map(({ via }) => via)) };
}

/** The plan's order, except where a step would stand before one that it waits for. A circle, which no plan has, ends up at the end. */
export function inOrder(steps) {
  const rows = [];
  const placed = new Set();
  const known = new Set(steps.map((step) => step.name));
  const left = [...steps];
  while (left.length > 0) {
    const ready = left.findIndex((step) => (step.after ?? []).every((name) => placed.has(name) || !known.has(name)));
    const [step] = left.splice(Math.max(0, ready), 1);
    placed.add(step.name);
    rows.push(step);
  }
  return rows;
}

/** What each step waits for, without what follows from the rest: a line beside a longer way tells nothing. */
function reduced(rows) {
  const above = new Map();
  const result = new Map();
  for (const { name, after = [] } of rows) {
    const direct = [...new Set(after)].filter((other) => above.has(other));
    result.set(name, direct.filter((other) => !direct.some((third) => third !== other && above.get(third).has(other))));
    above.set(name, new Set(direct.flatMap((other) => [other, ...above.get(other)])));
  }
  return result;
}

function lanes(rows, before, followers, row) {
  const lane = new Map();
  // The last step of each lane, and the last row that a line of it needs.
  const tails = [];
  const endOf = (name) => Math.max(row.get(name), ...followers.get(name));
  for (const [at, { name }] of rows.entries()) {
    const from = before.get(name);
    const first = Math.min(at, ...from.map((other) => row.get(other)));
    let found = tails.findIndex((tail) => from.includes(tail.name));
    if (found < 0) found = tails.findIndex((tail) => endOf(tail.name) <= first && tail.row < first);
    if (found < 0) found = tails.length;
    tails[found] = { name, row: at };
    lane.set(name, found);
  }
  return lane;
}

/** Gives each line the lane in which it runs down: its end's or its beginning's where it meets no node and no other branch's line there. */
function routed(edges, nodes) {
  const done = [];
  const isBetween = (at, { a, b }) => at > a.row && at < b.row;
  const overlaps = (one, other) => Math.max(one.a.row, other.a.row) + 1 < Math.min(one.b.row, other.b.row);
  const isFree = (lane, line) =>
    !nodes.some((node) => node.lane === lane && isBetween(node.row, line)) &&
    !done.some((other) => other.via === lane && other.from !== line.from && other.to !== line.to && overlaps(other, line));
  const short = [...edges].sort((one, other) => one.b.row - one.a.row - (other.b.row - other.a.row));
  for (const line of short) {
    let via = [line.b.lane, line.a.lane].find((lane) => isFree(lane, line));
    for (let lane = 0; via === undefined; lane += 1) if (isFree(lane, line)) via = lane;
    done.push({ ...line, via });
  }
  return done;
}

function edge(from, to, row, lane) {
  return { from, to, a: { row: row.get(from), lane: lane.get(from) }, b: { row: row.get(to), lane: lane.get(to) } };
}
