// The inspector's page. It is told a snapshot a second, and shows it; whatever it is told is text.
"use strict";

const KEPT = 300; // seconds
const SHOWN = 60; // seconds for which there is room at least
const GAP = 2.5; // seconds between two snapshots that no line joins
const STALE_AFTER = 3500; // milliseconds without a snapshot
const AGAIN_AFTER = 1000; // milliseconds from an attempt to connect that failed to the next
const ATTEMPT = 6000; // milliseconds that an attempt may take, the first snapshot included
const ENDS = ["resolved", "rejected", "timed_out", "cancelled", "closed"];
const SVG = "http://www.w3.org/2000/svg";

const history = [];
const beganAt = Date.now();
let lastAt = 0; // when the last snapshot came
let triedAt = 0; // when the last attempt to connect began
let source = null;
let isLost = false; // the stream has ended, or could not begin
let reason = ""; // why the server does not let us have it
let started = null; // when the process began that told the last snapshot

const byId = (id) => document.getElementById(id);
const say = (id, text) => {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
};

function number(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 });
}

function seconds(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (value === 0) return "0 s";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${Number((value * 1e3).toPrecision(3))} ms`;
  if (value < 100) return `${Number.isInteger(value) ? value : value.toFixed(1)} s`;
  if (value < 6000) return `${(value / 60).toFixed(1)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

const words = (name) => name.replaceAll("_", " ");

// -- tables ---------------------------------------------------------------------------------------

// Rows are kept and filled again: what is selected or read aloud stays where it is.
function fill(id, rows) {
  const body = byId(id).tBodies[0];
  const selected = document.getSelection();
  const isHeld = !selected.isCollapsed && body.contains(selected.anchorNode);
  body.closest("section").classList.toggle("held", isHeld);
  if (isHeld) return; // or nobody could copy an id
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, index) => {
    const row = body.rows[index] ?? body.insertRow();
    while (row.cells.length > cells.length) row.deleteCell(-1);
    cells.forEach(([kind, text], at) => {
      const cell = row.cells[at] ?? row.insertCell();
      if (cell.className !== kind) cell.className = kind;
      if (cell.textContent !== text) cell.textContent = text;
    });
  });
  byId(id).hidden = rows.length === 0;
  const empty = byId(`${id}-empty`);
  if (empty) empty.hidden = rows.length !== 0;
}

const count = (value, kind = "") => ["number" + (kind && value > 0 ? ` ${kind}` : ""), number(value)];
const text = (value) => (value === null ? ["none", "–"] : ["text", String(value)]);
const code = (value, kind = "code") => (value === null ? ["none", "–"] : [kind, String(value)]);

// -- charts ---------------------------------------------------------------------------------------

function draw(id, series, unit) {
  const svg = byId(id);
  const width = Math.max(200, svg.clientWidth);
  const height = Math.max(90, svg.clientHeight);
  const most = Math.max(...series.flatMap(({ values }) => values), 0);
  const scale = most > 0 ? nice(most) : 1;
  const now = history.at(-1).at;
  const span = Math.max(SHOWN, now - history[0].at);
  const [ground, roof] = [height - 16, 16];
  const x = (at) => width - ((now - at) / span) * width;
  const y = (value) => ground - (value / scale) * (ground - roof);
  const parts = [0, 0.5, 1].map((share) => shape("line", { x1: 0, x2: width, y1: y(scale * share), y2: y(scale * share) }));
  parts.push(label(0, roof - 4, unit(scale)), label(0, height - 3, `${seconds(Math.round(span))} ago`));
  parts.push(label(width, height - 3, "now", { "text-anchor": "end" }));
  for (const { at } of history.filter((each) => each.isRestart)) {
    parts.push(shape("line", { class: "restart", x1: x(at), x2: x(at), y1: roof, y2: ground }));
    parts.push(label(x(at), roof - 4, "restarted", { class: "restart", "text-anchor": x(at) > width / 2 ? "end" : "start" }));
  }
  for (const { kind, values } of series) {
    for (const [first, last] of stretches()) {
      let line = "";
      for (let index = first; index <= last; index += 1) {
        line += `${line && "L"}${x(history[index].at).toFixed(1)},${y(values[index]).toFixed(1)}`;
      }
      if (series.length === 1) {
        const [from, to] = [x(history[first].at), x(history[last].at)];
        parts.push(shape("path", { class: "area", d: `M${line}L${to},${ground}L${from},${ground}Z` }));
      }
      parts.push(shape("path", { class: kind, d: `M${line}` }));
    }
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts);
}

// Where a line may go without a break: over what nobody has seen, it would tell a tale.
function stretches() {
  const found = [[0, 0]];
  for (let index = 1; index < history.length; index += 1) {
    const isBroken = history[index].isRestart || history[index].at - history[index - 1].at > GAP;
    if (isBroken) found.push([index, index]);
    else found.at(-1)[1] = index;
  }
  return found.filter(([first, last]) => last > first);
}

function label(x, y, told, attributes = {}) {
  const made = shape("text", { x, y, ...attributes });
  made.textContent = told;
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function makeLegend() {
  for (const name of ENDS) {
    const item = document.createElement("li");
    const svg = shape("svg", { class: "chart", viewBox: "0 0 26 8", "aria-hidden": "true" });
    svg.append(shape("path", { class: name, d: "M0,4L26,4" }));
    item.append(svg, words(name));
    byId("legend").append(item);
  }
}

// -- a snapshot -------------------------------------------------------------------------------------

function show(seen) {
  const { stats, rates, latency } = seen;
  say("name", seen.name);
  document.title = `${number(stats.pending)} pending – ${seen.name}`;
  say("pending", number(stats.pending));
  say("bound", `of ${number(seen.max_pending)}`);
  say("oldest-age", stats.pending ? seconds(stats.oldest_age) : "–");
  say("waiting", number(stats.waiting));
  for (const name of ["resolved", "timed_out", "refused"]) say(`rate-${name}`, number(rates[name]));
  say("refusals", Object.entries(seen.refusals).map(([name, count]) => `${name} ${number(count)}`).join(", "));
  mark("pending-tile", stats.pending >= seen.max_pending);
  mark("refused-tile", rates.refused > 0);
  mark("timed_out-tile", rates.timed_out > 0);
  say("condition", { draining: "draining: new requests are refused", closed: "closed", new: "not started" }[seen.state] ?? "");
  byId("condition").hidden = seen.state === "open";
  for (const name of ["p50", "p90", "p99", "max"]) say(name, seconds(latency[name]));
  say("latency-count", `${number(latency.count)} resolved in the last 10 to 20 s`);
  for (const name of ["late", "duplicate", "unknown"]) say(name, number(stats[name]));
  say("started", `(${new Date(seen.started * 1000).toLocaleString("sv")})`);

  const at = performance.now() / 1000;
  const isRestart = started !== null && started !== seen.started;
  started = seen.started;
  history.push({ at, isRestart, pending: stats.pending, oldest: stats.oldest_age, ...rates });
  while (at - history[0].at > KEPT) history.shift();
  const past = (name) => history.map((each) => each[name]);
  draw("chart-pending", [{ kind: "pending", values: past("pending") }], number);
  draw("chart-oldest", [{ kind: "oldest", values: past("oldest") }], seconds);
  draw("chart-outcomes", ENDS.map((kind) => ({ kind, values: past(kind) })), number);
  say("pending-now", number(stats.pending));
  say("oldest-now", stats.pending ? seconds(stats.oldest_age) : "–");

  fill("oldest", seen.oldest.map((each) => [
    code(each.request_id), ["number", seconds(each.age)], ["number", seconds(each.remaining)],
    text(each.label), text(each.group), code(each.origin, "code origin"),
  ]));
  fill("labels", seen.labels.map((each) => [
    text(each.label), count(each.pending), count(each.timed_out, "timed_out"), count(each.resolved),
    count(each.rejected), count(each.cancelled), count(each.closed), count(each.registered),
  ]));
  fill("unmatched", seen.unmatched.map((each) => [
    ["text", new Date(each.time * 1000).toLocaleTimeString("en-GB")],
    [["late", "duplicate", "unknown"].includes(each.disposition) ? each.disposition : "text", String(each.disposition)],
    code(each.request_id),
  ]));
  byId("replicas-section").hidden = seen.replicas.length === 0;
  fill("replicas", seen.replicas.map((each, index) => [
    code(each.owner), ["number", index ? `${seconds(each.seen_ago)} ago` : "this one"],
    count(each.stats.pending), ["number", seconds(each.stats.oldest_age)], count(each.stats.registered),
    count(each.stats.resolved), count(each.stats.timed_out, "timed_out"), count(each.stats.refused),
    count(each.stats.late, "late"),
  ]));
  counters(stats);
}

const mark = (id, isBad) => byId(id).classList.toggle("bad", isBad);

function counters(stats) {
  const list = byId("counters");
  for (const [name, value] of Object.entries(stats)) {
    let field = list.querySelector(`[data-name="${CSS.escape(name)}"]`);
    if (!field) {
      const pair = document.createElement("div");
      const title = document.createElement("dt");
      field = document.createElement("dd");
      field.dataset.name = name;
      title.textContent = words(name);
      pair.append(title, field);
      list.append(pair);
    }
    const told = name === "oldest_age" ? seconds(value) : number(value);
    if (field.textContent !== told) field.textContent = told;
  }
}

// -- the stream ---------------------------------------------------------------------------------------

function state(name, told) {
  const element = byId("status");
  if (element.dataset.state !== name) element.dataset.state = name;
  document.body.classList.toggle("stale", name === "stale");
  if (element.textContent !== told) element.textContent = told;
}

function connect() {
  triedAt = Date.now();
  source?.close();
  source = new EventSource("events");
  source.addEventListener("snapshot", (event) => {
    lastAt = Date.now();
    isLost = false;
    reason = "";
    state("live", "live");
    show(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    isLost = true;
    watch();
    if (source.readyState === EventSource.CLOSED) ask();
  });
}

// An EventSource does not tell what it was answered.
async function ask() {
  const over = new AbortController();
  try {
    const answer = await fetch("events", { signal: over.signal });
    reason = answer.ok ? "" : `${answer.status}: ${(await answer.json()).detail}`;
  } catch {
    reason = "";
  } finally {
    over.abort();
  }
}

// EventSource gives up on some answers, and does not notice a link that is only silent.
function watch() {
  const silent = Date.now() - (lastAt || beganAt);
  if (!isLost && silent < STALE_AFTER) return;
  const since = lastAt ? `stale: last heard ${seconds(Math.round(silent / 1000))} ago` : "cannot connect";
  state("stale", `${since}, ${reason ? `the server says ${reason}` : "trying again"}`);
  if (lastAt && !document.title.startsWith("stale")) document.title = `stale – ${document.title}`;
  const isOver = source.readyState === EventSource.CLOSED;
  if (Date.now() - triedAt > (isOver ? AGAIN_AFTER : ATTEMPT)) connect();
}

makeLegend();
connect();
setInterval(watch, 500);
