// The page as a whole: what it watches, and where what it is told goes.
import { Charts } from "./charts.js";
import { Refused, ask, follow } from "./events.js";
import { Icicle, read, readOf, stateOf } from "./icicle.js";
import { brief, count, part, plural, rate, seconds, visible } from "./words.js";

const at = (id) => document.getElementById(id);
const KEY = "treeserve.key";
const MOST_ROWS = 200;
const LONGEST_WAIT_SECONDS = 15;

const view = { focus: null, live: false, paused: false, picture: null, nodes: [], state: {}, chosen: null };
let watching = null;
let failures = 0;

const charts = new Charts(at("charts"));
const icicle = new Icicle(at("icicle"), at("tip"), { choose, open, up, all: () => open(null) });

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function notice(text) {
  at("notice").hidden = !text;
  at("notice").textContent = text;
}

// --- what is told

const hear = {
  history: (columns) => charts.start(columns),
  point: (point) => { charts.add(point); showNow(point); },
  state: (state) => { view.state = state; showState(); },
  tree: showTree,
};

function showState() {
  const { phase, alive, calls, stalled_seconds: stalled } = view.state;
  at("state").textContent = `${alive ? phase : "failed"} · ${plural(calls, "call")} in flight${view.paused ? " · paused" : ""}`;
  if (!alive) notice("The engine has failed.");
  else if (stalled > 5) notice(`The engine has made no step for ${seconds(stalled)}: what is shown is as old.`);
  else notice("");
}

function showNow(point) {
  const tiles = [
    ["samples running", count(point.running_samples)],
    ["prompts waiting", count(point.waiting_requests)],
    ["tokens per second", rate(point.drawn_per_second)],
    ["step", seconds(point.step_seconds)],
    ["KV reads saved", part(point.kv_saved)],
    ["pool in use", point.total_pages ? part(point.used_pages / point.total_pages) : "–"],
  ];
  if (at("now").childElementCount !== tiles.length) {
    at("now").replaceChildren(...tiles.map(([name]) => {
      const tile = element("div");
      tile.append(element("dt", name), element("dd"));
      return tile;
    }));
  }
  tiles.forEach(([, value], i) => { at("now").children[i].lastChild.textContent = value; });
}

function showTree(picture) {
  view.picture = picture;
  view.nodes = read(picture);
  if (view.focus !== null && picture.focus === null) view.focus = null;
  icicle.show(picture, view.nodes);
  at("empty").hidden = view.nodes.length > 0;
  const [nodes, tokens] = picture.total;
  at("tree-summary").textContent = `${picture.is_cut ? "More than " : ""}${plural(nodes, "node")} of ${plural(tokens, "token")}` +
    `${picture.live_only ? " in use" : ""}; ${plural(view.nodes.length, "node")} drawn.`;
  showPath(picture.path);
  showPlan(picture.plan);
  showTable();
  const chosen = view.nodes.find((node) => node.id === view.chosen);
  if (chosen) showFacts(chosen);
  else if (view.chosen !== null) dismiss();
}

function showPath(path) {
  const steps = [["all", null], ...path.map(([id, start, tokens]) => [`${brief(start)}–${brief(start + tokens)}`, id])];
  const place = at("path");
  const wanted = JSON.stringify(steps);
  if (place.dataset.shown === wanted) return;
  place.dataset.shown = wanted;
  place.replaceChildren(...steps.flatMap(([label, id], i) => {
    const button = element("button", label);
    button.type = "button";
    if (i === steps.length - 1) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => open(id));
    return i ? [element("span", "›"), button] : [button];
  }));
}

function showPlan({ segments, left_out: leftOut, totals }) {
  const said = [];
  if (totals) {
    const { tokens_read: did, tokens_read_flat: flat } = totals;
    if (flat) said.push(`Reads ${brief(did)} KV tokens where every sample alone would read ${brief(flat)}: ${part(1 - did / flat)} saved.`);
    said.push(`${plural(totals.shared_items, "shared work item")}, ${plural(totals.private_items, "private one")}, ${plural(totals.folded_segments, "shared segment")} folded.`);
  }
  if (!segments.length) said.push("No segment is read by several rows.");
  if (leftOut) said.push(`${plural(leftOut, "segment")} with fewer rows not listed.`);
  at("plan-summary").textContent = said.join(" ");
  fill(at("plan").tBodies[0], segments, ({ id, start, end, rows, shared, pieces, reason }) => [
    id, `${brief(start)}–${brief(end)}`, count(rows),
    shared ? (pieces > 1 ? `once, in ${pieces} pieces` : "once") : "per row", reason,
  ], 3);
}

function showTable() {
  const table = at("tree-table");
  // It stands still while somebody is in it.
  if (!table.open || table.contains(document.activeElement) && document.activeElement.closest("tbody")) return;
  const rows = view.nodes.slice(0, MOST_ROWS);
  table.querySelector("caption").textContent = view.nodes.length > rows.length
    ? `The first ${rows.length} of ${view.nodes.length} nodes; open one to see those beneath it.` : "Parents before children.";
  fill(table.querySelector("tbody"), rows, (node) => [
    node.id, count(node.level), count(node.start), count(node.tokens), stateOf(node), count(node.pins),
    count(node.rows), readOf(node), plural(node.children, "child", "children"),
  ], 4, 7);
}

// One row for each record; the first cell is a button that chooses the node of that id.
function fill(body, records, cells, ...words) {
  while (body.rows.length > records.length) body.deleteRow(-1);
  records.forEach((record, i) => {
    const values = cells(record);
    let row = body.rows[i];
    if (!row) {
      row = body.insertRow();
      values.forEach((_, column) => {
        const cell = row.insertCell();
        if (words.includes(column) || column === values.length - 1) cell.className = "words";
      });
      const button = element("button");
      button.type = "button";
      button.addEventListener("click", () => chooseId(Number(button.dataset.id)));
      row.cells[0].append(button);
    }
    values.forEach((value, column) => {
      const place = column ? row.cells[column] : row.cells[0].firstChild;
      if (place.textContent !== String(value)) place.textContent = value;
    });
    row.cells[0].firstChild.dataset.id = values[0];
  });
}

// --- one node

function chooseId(id) {
  const node = view.nodes.find((each) => each.id === id);
  if (node) choose(node);
  else open(id);
}

function choose(node) {
  const isNew = view.chosen !== node.id;
  view.chosen = node.id;
  icicle.choose(node.id);
  showFacts(node);
  if (isNew) showText(node.id);
}

function showFacts(node) {
  at("chosen").hidden = false;
  at("chosen-title").textContent = `Node ${node.id}: ${plural(node.tokens, "token")}, ${stateOf(node)}`;
  const facts = [
    ["positions", `${count(node.start)} to ${count(node.start + node.tokens)}`],
    ["computed", `${count(node.computed)} of ${plural(node.tokens, "token")}`],
    ["used by", plural(node.pins, "live request or sample", "live requests and samples")],
    ["hits", plural(node.hits, "request")],
    ["last step", node.rows ? `${plural(node.rows, "row")}, ${readOf(node)}` : "fewer than two rows read it"],
    ["beneath", `${plural(node.children, "child", "children")}${node.rest_nodes ? `, ${plural(node.rest_nodes, "node")} not drawn` : ""}`],
  ];
  if (node.retained) facts.push(["retained", `with weight ${node.retained}`]);
  if (node.owner) facts.push(["namespace", node.owner === "*" ? "public" : visible(node.owner)]);
  at("chosen-facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

async function showText(id) {
  const place = at("chosen-text"), quote = at("chosen-quote");
  quote.hidden = true;
  place.textContent = "";
  if (!view.state.shows_text) return;
  try {
    const { text, left_out_tokens: leftOut } = await (await ask(`/page/node?id=${id}`, key())).json();
    if (view.chosen !== id) return;
    place.textContent = visible(text) + (leftOut ? `… and ${plural(leftOut, "more token")}` : "");
    quote.hidden = false;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
}

function dismiss() {
  view.chosen = null;
  icicle.choose(null);
  at("chosen").hidden = true;
}

// --- what is watched

function open(id) {
  if (view.focus === id) return;
  view.focus = id;
  restart();
}

function up() {
  const path = view.picture?.path ?? [];
  open(path.length > 1 ? path[path.length - 2][0] : null);
}

const key = () => sessionStorage.getItem(KEY);

function address() {
  const asked = new URLSearchParams();
  if (view.focus !== null) asked.set("focus", view.focus);
  if (view.live) asked.set("live", "1");
  return asked.size ? `/page/events?${asked}` : "/page/events";
}

function restart() {
  watching?.abort();
  watching = null;
  if (!view.paused && !document.hidden) watch();
}

async function watch() {
  const own = (watching = new AbortController());
  let wait = 0;
  try {
    await follow(address(), key(), own.signal, (kind, data) => {
      if (own !== watching) return;
      failures = 0;
      hear[kind]?.(data);
    });
    wait = 1;
  } catch (error) {
    if (own !== watching) return;
    wait = refusal(error);
  }
  if (own !== watching || wait === null) return;
  await new Promise((done) => setTimeout(done, 1000 * wait));
  if (own === watching) restart();
}

// Says what went wrong, and when to try again; null: not before somebody does something.
function refusal(error) {
  failures += 1;
  const later = Math.min(2 ** failures / 2, LONGEST_WAIT_SECONDS);
  at("state").textContent = "not connected";
  if (!(error instanceof Refused)) {
    notice("The server cannot be reached; trying again.");
    return later;
  }
  const isKey = error.status === 401 || (error.status === 403 && key() !== null);
  if (isKey) {
    notice(key() === null ? "" : error.message);
    askForKey();
    return null;
  }
  notice(error.message);
  return error.status >= 500 ? Math.max(later, error.retrySeconds) : null;
}

function askForKey() {
  at("key-form").hidden = false;
  at("main").hidden = true;
  at("forget").hidden = true;
  at("key").focus();
}

function forget() {
  sessionStorage.removeItem(KEY);
  watching?.abort();
  watching = null;
  // Nothing of what the key showed is to stay.
  location.reload();
}

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, at("key").value.trim());
  at("key").value = "";
  at("key-form").hidden = true;
  at("main").hidden = false;
  at("forget").hidden = false;
  notice("");
  restart();
});
at("forget").addEventListener("click", forget);
at("forget").hidden = key() === null;
at("pause").addEventListener("click", () => {
  view.paused = !view.paused;
  at("pause").setAttribute("aria-pressed", String(view.paused));
  if (view.paused) showState();
  restart();
});
at("live").addEventListener("change", () => { view.live = at("live").checked; restart(); });
at("height").addEventListener("change", () => { icicle.byLevels = at("height").value === "levels"; icicle.draw(); });
at("open").addEventListener("click", () => { if (view.chosen !== null) open(view.chosen); });
at("dismiss").addEventListener("click", dismiss);
at("tree-table").addEventListener("toggle", showTable);
// Nobody is served what nobody sees.
document.addEventListener("visibilitychange", restart);
restart();
