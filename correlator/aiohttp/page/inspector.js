// The inspector's page. It is told a snapshot a second, and shows it; whatever it is told is text.
"use strict";

const KEPT = 300; // snapshots, of a second each
const SHOWN = 60; // snapshots for which there is room at least
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
  if (value < 100) return `${value.toFixed(1)} s`;
  if (value < 6000) return `${(value / 60).toFixed(1)} min`;
  return `${(value / 3600).toFixed(1)} h`;
}

const words = (name) => name.replaceAll("_", " ");

// -- tables ---------------------------------------------------------------------------------------

// Rows are kept and filled again: what is selected or read aloud stays where it is.
function fill(id, rows) {
  const body = byId(id).tBodies[0];
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
const code = (value) => (value === null ? ["none", "–"] : ["code", String(value)]);

// -- charts ---------------------------------------------------------------------------------------

function draw(id, series, unit) {
  const svg = byId(id);
  const width = Math.max(200, svg.clientWidth);
  const height = Math.max(80, svg.clientHeight);
  const top = Math.max(...series.flatMap(({ values }) => values), 0);
  const scale = top > 0 ? nice(top) : 1;
  const span = Math.max(SHOWN, history.length) - 1;
  const x = (index) => width - ((history.length - 1 - index) / span) * width;
  const y = (value) => height - 2 - (value / scale) * (height - 18);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    parts.push(shape("line", { x1: 0, x2: width, y1: y(scale * share), y2: y(scale * share) }));
  }
  const label = shape("text", { x: 0, y: y(scale) - 4 });
  label.textContent = unit(scale);
  parts.push(label);
  for (const { kind, values } of series) {
    if (values.length < 2) continue;
    const line = values.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join("L");
    if (series.length === 1) {
      parts.push(shape("path", { class: "area", d: `M${line}L${width},${y(0)}L${x(0)},${y(0)}Z` }));
    }
    parts.push(shape("path", { class: kind, d: `M${line}` }));
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...parts);
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
  say("oldest-age", stats.pending ? seconds(stats.oldest_age) : "–");
  say("waiting", number(stats.waiting));
  for (const name of ["resolved", "timed_out", "refused"]) say(`rate-${name}`, number(rates[name]));
  for (const name of ["p50", "p90", "p99", "max"]) say(name, seconds(latency[name]));
  say("latency-count", `of ${number(latency.count)}`);
  for (const name of ["late", "duplicate", "unknown"]) say(name, number(stats[name]));

  history.push({ pending: stats.pending, oldest: stats.oldest_age, ...rates });
  if (history.length > KEPT) history.shift();
  const past = (name) => history.map((each) => each[name]);
  draw("chart-pending", [{ kind: "pending", values: past("pending") }], number);
  draw("chart-oldest", [{ kind: "oldest", values: past("oldest") }], seconds);
  draw("chart-outcomes", ENDS.map((kind) => ({ kind, values: past(kind) })), number);
  say("pending-now", number(stats.pending));
  say("oldest-now", seconds(stats.oldest_age));

  fill("oldest", seen.oldest.map((each) => [
    code(each.request_id), ["number", seconds(each.age)], ["number", seconds(each.remaining)],
    text(each.label), text(each.group), code(each.origin),
  ]));
  fill("labels", seen.labels.map((each) => [
    text(each.label), count(each.pending), count(each.registered), count(each.resolved),
    count(each.rejected), count(each.timed_out, "timed_out"), count(each.cancelled), count(each.closed),
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
    state("live", "live");
    show(JSON.parse(event.data));
  });
}

// EventSource gives up on some answers, and does not notice a link that is only silent.
function watch() {
  const silent = Date.now() - (lastAt || beganAt);
  if (silent < STALE_AFTER) return;
  const ago = seconds(Math.round(silent / 1000));
  state("stale", lastAt ? `stale: last heard ${ago} ago, trying again` : "cannot connect, trying again");
  const isOver = source.readyState === EventSource.CLOSED;
  if (Date.now() - triedAt > (isOver ? AGAIN_AFTER : ATTEMPT)) connect();
}

makeLegend();
connect();
setInterval(watch, 500);
