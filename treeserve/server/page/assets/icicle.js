// The live tree as an icicle: width is requests beneath, height is tokens.
import { brief, plural, seconds } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const LEAST_HEIGHT = 3;

// From the rows of a picture to nodes by name.
export function read(picture) {
  const nodes = picture.nodes.map((row) => Object.fromEntries(picture.fields.map((name, i) => [name, row[i]])));
  nodes.forEach((node, place) => {
    node.place = place;
    node.children = node.children ?? 0;
    node.shown = [];
    node.above = node.parent < 0 ? null : nodes[node.parent];
    node.level = node.above ? node.above.level + 1 : 0;
    node.above?.shown.push(node);
    node.owner = picture.namespaces[node.namespace];
  });
  return nodes;
}

export function stateOf(node) {
  const states = node.module ? ["module"] : [];
  if (node.computed < node.tokens) states.push(node.computed ? `pending after ${brief(node.computed)} tokens` : "pending");
  if (node.pins) states.push("in use");
  else if (node.retained) states.push("retained");
  else states.push(`cached, last used ${seconds(node.age)} ago`);
  if (node.pins && node.retained) states.push("retained");
  return states.join(", ");
}

export const readOf = (node) => ["read once per row", "read once for all rows"][node.shared] ?? "";

export class Icicle {
  // choose(node) when one is clicked or moved to, open(id) when it is to fill the picture.
  constructor(svg, tip, { choose, open, up, all }) {
    this.svg = svg;
    this.tip = tip;
    this.blocks = svg.querySelector("#blocks");
    this.parts = new Map();
    this.nodes = [];
    this.picture = null;
    this.chosen = null;
    this.byLevels = false;
    this.act = { choose, open, up, all };
    svg.addEventListener("click", (event) => this.#click(event));
    svg.addEventListener("pointermove", (event) => this.#hover(event));
    svg.addEventListener("pointerleave", () => { this.tip.hidden = true; });
    svg.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(svg);
  }

  show(picture, nodes) {
    this.picture = picture;
    this.nodes = nodes;
    this.draw();
  }

  choose(id) {
    this.chosen = id;
    for (const [key, part] of this.parts) part.group.classList.toggle("chosen", key === `n${id}`);
    this.#raise();
  }

  draw() {
    if (!this.picture) return;
    const width = this.svg.clientWidth, height = this.svg.clientHeight;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const seen = new Set();
    this.#place(width, height, (key, shape) => { seen.add(key); this.#block(key, shape); });
    for (const [key, part] of this.parts) {
      if (seen.has(key)) continue;
      part.group.remove();
      this.parts.delete(key);
    }
    this.#raise();
  }

  // Nothing may lie on the chosen block's outline.
  #raise() {
    const part = this.parts.get(`n${this.chosen}`);
    if (part && part.group !== this.blocks.lastElementChild) this.blocks.append(part.group);
  }

  #place(width, height, put) {
    const tops = this.nodes.filter((node) => !node.above);
    const [restNodes, restTokens, restWeight] = this.picture.rest;
    const total = tops.reduce((sum, node) => sum + node.weight, 0) + restWeight;
    const first = Math.min(...tops.map((node) => node.start), Infinity);
    const last = Math.max(...this.nodes.map((node) => node.start + node.tokens), first + 1);
    const levels = Math.max(...this.nodes.map((node) => node.level), 0) + 2;
    const down = this.byLevels ? height / levels : height / (last - first);
    let x = 0;
    for (const node of tops) { node.x = x; x += (node.weight / total) * width; }
    const rest = (key, from, wide, y, nodes, tokens) => {
      if (nodes) put(key, { x: from, y, width: wide, height: Math.max(LEAST_HEIGHT, Math.min(26, height - y)), rest: { nodes, tokens } });
    };
    rest("r", x, (restWeight / total) * width, 0, restNodes, restTokens);
    for (const node of this.nodes) {
      const wide = (node.weight / total) * width;
      const y = this.byLevels ? node.level * down : (node.start - first) * down;
      const high = this.byLevels ? down : Math.max(LEAST_HEIGHT, node.tokens * down);
      put(`n${node.id}`, { x: node.x, y, width: wide, height: Math.min(high, Math.max(LEAST_HEIGHT, height - y)), node });
      let from = node.x;
      for (const child of node.shown) { child.x = from; from += (child.weight / total) * width; }
      rest(`r${node.id}`, from, (node.rest_weight / total) * width, y + high, node.rest_nodes, node.rest_tokens);
    }
  }

  #block(key, { x, y, width, height, node, rest }) {
    let part = this.parts.get(key);
    if (!part) this.parts.set(key, (part = this.#make()));
    const { group, whole, pending, mark, text } = part;
    part.node = node;
    part.rest = rest;
    const thin = width < 4 || height < 5 ? " thin" : "";
    const kind = rest ? "rest" : node.module ? (node.pins ? "module" : "module unused") : node.pins ? "in-use" : node.retained ? "retained" : "cached";
    group.setAttribute("class", `block ${kind}${thin}${node && node.id === this.chosen ? " chosen" : ""}`);
    frame(whole, x, y, width, height);
    const computed = node ? node.computed / node.tokens : 1;
    frame(pending, x, y + computed * height, width, (1 - computed) * height);
    frame(mark, x, y, width, node?.shared === 1 ? Math.min(4, height / 2) : 0);
    const label = rest ? `+${brief(rest.nodes)}` : node.rows > 1 ? `${brief(node.tokens)} × ${brief(node.rows)}` : brief(node.tokens);
    const fits = height >= 15 && width >= 7 * label.length + 6;
    text.textContent = fits ? label : "";
    if (fits) { text.setAttribute("x", x + 4); text.setAttribute("y", y + Math.min(height - 4, 16)); }
  }

  #make() {
    const make = (name, className) => {
      const element = document.createElementNS(SVG, name);
      element.setAttribute("class", className);
      return element;
    };
    const group = make("g", "block");
    const part = { group, whole: make("rect", "whole"), pending: make("rect", "pending"), mark: make("rect", "mark"), text: make("text", "") };
    part.pending.setAttribute("fill", "url(#hatch)");
    group.append(part.whole, part.pending, part.mark, part.text);
    group.part = part;
    this.blocks.append(group);
    return part;
  }

  #click(event) {
    const part = event.target.closest(".block")?.part;
    if (!part?.node) return;
    if (part.node.id === this.chosen) this.act.open(part.node.id);
    else this.act.choose(part.node);
  }

  #hover(event) {
    const part = event.target.closest?.(".block")?.part;
    this.tip.hidden = !part;
    if (!part) return;
    this.tip.textContent = part.rest
      ? `${plural(part.rest.nodes, "node")} of ${plural(part.rest.tokens, "token")}, too small to show: open what is above`
      : `${plural(part.node.tokens, "token")} from ${brief(part.node.start)}; ${stateOf(part.node)}; used by ${brief(part.node.pins)}; ${plural(part.node.rows, "row")} in the last step`;
    const box = this.svg.getBoundingClientRect();
    const left = Math.min(event.clientX - box.left + 12, box.width - this.tip.offsetWidth - 4);
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${Math.min(event.clientY - box.top + 14, box.height - this.tip.offsetHeight - 4)}px`;
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const node = this.nodes.find((each) => each.id === this.chosen);
    const target = {
      ArrowDown: () => (node ? widest(node.shown) : widest(this.nodes.filter((each) => !each.above))),
      ArrowUp: () => node?.above,
      ArrowLeft: () => this.#beside(node, -1),
      ArrowRight: () => this.#beside(node, 1),
    }[event.key];
    if (target) {
      const found = target();
      if (found) this.act.choose(found);
    } else if (event.key === "Enter" && node) this.act.open(node.id);
    else if (event.key === "Backspace" || event.key === "Escape") this.act.up();
    else if (event.key === "Home") this.act.all();
    else return;
    event.preventDefault();
  }

  #beside(node, step) {
    if (!node) return widest(this.nodes.filter((each) => !each.above));
    const row = this.nodes.filter((each) => each.level === node.level).sort((a, b) => a.x - b.x);
    return row[row.indexOf(node) + step];
  }
}

const widest = (nodes) => nodes.reduce((best, node) => (best && best.weight >= node.weight ? best : node), null);

function frame(rect, x, y, width, height) {
  rect.setAttribute("x", x.toFixed(1));
  rect.setAttribute("y", y.toFixed(1));
  rect.setAttribute("width", Math.max(0, width).toFixed(1));
  rect.setAttribute("height", Math.max(0, height).toFixed(1));
}
