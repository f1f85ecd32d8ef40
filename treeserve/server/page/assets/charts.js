// The charts of the last five minutes.
/* global uPlot */
import { brief, part, rate, seconds } from "./words.js";

const CHARTS = [
  { title: "Tokens per second", say: rate, lines: [["drawn", "drawn_per_second"], ["prompts", "prompt_rows_per_second"]] },
  { title: "Time to first token", say: seconds, lines: [["median", "first_token_p50_seconds"], ["95%", "first_token_p95_seconds"]] },
  { title: "Time per token", say: seconds, lines: [["median", "token_p50_seconds"], ["95%", "token_p95_seconds"]] },
  { title: "Prompt tokens found in the tree", say: part, top: 1, lines: [["hit rate", "hit_rate"]] },
  { title: "KV reads saved by sharing", say: part, top: 1, lines: [["saved", "kv_saved"]] },
  { title: "Pool in use", say: part, top: 1, lines: [["with the cache", "pool"], ["by what runs", "pool_live"]] },
];
const HEIGHT = 130;
const MOST = 300;

export class Charts {
  constructor(place) {
    this.columns = { at: [] };
    this.charts = CHARTS.map((chart) => this.#frame(place, chart));
    // Widths are the page's, colours are the scheme's.
    new ResizeObserver(() => this.#fit()).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#rebuild());
  }

  // All points, field by field.
  start(columns) {
    this.columns = columns;
    columns.pool = columns.at.map((_, i) => share(columns.used_pages[i], columns.total_pages[i]));
    columns.pool_live = columns.at.map((_, i) =>
      share(columns.used_pages[i] - columns.cached_pages[i], columns.total_pages[i]));
    this.#rebuild();
  }

  add(point) {
    const last = this.columns.at.at(-1);
    if (last !== undefined && point.at <= last) return;
    point.pool = share(point.used_pages, point.total_pages);
    point.pool_live = share(point.used_pages - point.cached_pages, point.total_pages);
    for (const [name, values] of Object.entries(this.columns)) {
      values.push(point[name]);
      if (values.length > MOST) values.shift();
    }
    for (const chart of this.charts) {
      if (chart.plot) chart.plot.setData(this.#data(chart));
      this.#say(chart);
    }
  }

  #frame(place, { title, say, top, lines }) {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = title;
    caption.append(name, " ");
    const values = lines.map(([label], i) => {
      const value = document.createElement("span");
      value.className = `now line-${i + 1}`;
      caption.append(value, " ");
      return { label, value };
    });
    const canvas = document.createElement("div");
    canvas.setAttribute("aria-hidden", "true");
    figure.append(caption, canvas);
    place.append(figure);
    return { lines, say, top, values, canvas, plot: null };
  }

  #data({ lines }) {
    return [this.columns.at, ...lines.map(([, field]) => this.columns[field] ?? [])];
  }

  // The last value that there was: not every second has a request that ended.
  #say({ lines, say, values }) {
    lines.forEach(([label, field], i) => {
      const value = (this.columns[field] ?? []).findLast((v) => v != null);
      values[i].value.textContent = `${label} ${say(value)}`;
    });
  }

  #rebuild() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    for (const chart of this.charts) {
      chart.plot?.destroy();
      chart.plot = new uPlot(this.#options(chart, colour), this.#data(chart), chart.canvas);
      this.#say(chart);
    }
  }

  #options({ lines, say, top, canvas }, colour) {
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 0.5 }, ticks: { show: false }, font: "11px system-ui" };
    return {
      width: Math.max(120, canvas.clientWidth),
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      scales: { y: { range: (u, low, high) => [0, top ?? Math.max(high * 1.1, 1e-6)] } },
      axes: [
        { ...axis, space: 70, incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300], values: "{HH}:{mm}:{ss}", size: 24 },
        { ...axis, size: 52, space: 28, values: (u, splits) => splits.map((v) => (say === rate ? brief(v) : say(v))) },
      ],
      series: [{}, ...lines.map((_, i) => ({
        stroke: colour(`--line-${i + 1}`), width: 1.75, spanGaps: true, points: { show: false },
        dash: i ? [5, 3] : undefined,
      }))],
    };
  }

  #fit() {
    for (const { plot, canvas } of this.charts) {
      const width = Math.max(120, canvas.clientWidth);
      if (plot && plot.width !== width) plot.setSize({ width, height: HEIGHT });
    }
  }
}

const share = (value, whole) => (whole ? value / whole : null);
