// A trajectory map as a plot: colours, axes in checkpoint numbers, a cursor for mouse and keys, marks.
import { el } from "./dom.js";
import { COLORSCALE, SWITCH_COLOR, UNDEFINED_COLOR, scaleDigits } from "./colors.js";
import { clear, draw, layout, style } from "./plots.js";
import { UNDEFINED, plain, whole } from "./words.js";

const PHASE_COLOR = "#e8590c";
const MOST_TICKS = 7;
const MOST_OF_THE_WINDOW = 0.78;

/** What an entry is called. */
export const entryName = (map) => ({ rbf: "RBF similarity", polynomial: "polynomial cosine" })[map.kernel] ?? "cosine";

/** ω, or what it is called for this map, with its value. */
export function omegaWords(map) {
  const symbol =
    map.relative_to !== null && map.relative_to !== undefined
      ? `ω${subscript(map.relative_to)}`
      : map.kernel && map.kernel !== "linear"
        ? "mean"
        : "ω";
  if (map.mean === null || map.mean === undefined) return `${symbol} undefined`;
  if (!map.mean_error) return `${symbol} = ${map.mean.toFixed(3)}`;
  const digits = Math.min(9, Math.max(3, 1 - Math.floor(Math.log10(map.mean_error))));
  return `${symbol} = ${map.mean.toFixed(digits)} ± ${map.mean_error.toFixed(digits)}`;
}

const subscript = (number) => String(number).replace(/\d/g, (digit) => "₀₁₂₃₄₅₆₇₈₉"[digit]);

/** Phases that begin with another learning rate than the one before; where none was told there is nothing to mark. */
export const rateChanges = (phases) =>
  phases.filter(({ learning_rate }, at) => at > 0 && learning_rate !== null && phases[at - 1].learning_rate !== null);

/** Number of the checkpoints that row `i` stands for: one, or the first and last of a block. */
export function rowWords(map, i) {
  const block = map.reduced?.blocks[i];
  return block && block[0] !== block[1] ? `${block[0]}–${block[1]}` : String(map.checkpoint[i]);
}

/** One entry in words: i, j, their steps, the value and its standard error. */
export function entryWords(map, i, j) {
  const at = i * map.n + j;
  const value = map.values[at];
  const error = map.error ? map.error[at] : 0;
  const steps = map.step ? ` · steps ${stepWords(map.step[i])}, ${stepWords(map.step[j])}` : "";
  const digits = error > 0 ? Math.min(7, Math.max(2, 1 - Math.floor(Math.log10(error)))) : 6;
  const number = Number.isFinite(value) ? value.toFixed(digits) : "undefined";
  const spread = Number.isFinite(value) && error > 0 ? ` ± ${error.toFixed(digits)} (estimated)` : "";
  return `i ${rowWords(map, i)}, j ${rowWords(map, j)}${steps} · ${entryName(map)} ${number}${spread}`;
}

const stepWords = (step) => (step < 0 ? UNDEFINED : whole(step));

/** Position of a checkpoint among the rows of a map; where it is left out, that of the next one. Between rows: halves. */
export function positionOf(map, checkpoint) {
  const at = map.checkpoint.findIndex((number) => number >= checkpoint);
  return at < 0 ? map.n : map.reduced && map.checkpoint[at] !== checkpoint ? Math.max(0, at - 1) : at;
}

/** A plot of maps in one element. */
export class MapPlot {
  #div;
  #readout;
  #tip = el("div", { className: "tip", hidden: true });
  #map = null;
  #made = null;
  #cursor = null;
  #ready = false;
  #byKeys = false;

  /** `readout` takes the words for the entry under the cursor. */
  constructor(div, readout = null) {
    this.#div = div;
    let width = 0;
    new ResizeObserver(() => {
      // The map stays square: its height follows the width.
      if (div.clientWidth !== width && this.#map !== null && div.clientWidth > 0) draw(div, this.#made);
      width = div.clientWidth;
    }).observe(div);
    this.#readout = readout;
    div.addEventListener("keydown", (event) => this.#key(event));
    div.addEventListener("blur", () => this.#point(null));
  }

  /** The map that is shown. */
  get map() {
    return this.#map;
  }

  /**
   * Draw a map. `scale`: [low, high]. `phases`: [{start, learning_rate}], the later ones are marked where they begin.
   * `findings`: [{checkpoint, text}]. `bar`: whether a colour bar stands beside it. `room`: above it also where there are no
   * findings, since a map beside it has some.
   */
  async show(map, { scale, phases = [], findings = [], bar = true, room = false, name = "" }) {
    this.#map = map;
    if (this.#cursor !== null && Math.max(...this.#cursor) >= map.n) this.#cursor = null;
    const rows = Array.from({ length: map.n }, (_, i) => map.values.subarray(i * map.n, (i + 1) * map.n));
    this.#made = () => this.#figure(rows, scale, phases, findings, bar, room, name);
    await draw(this.#div, this.#made);
    if (!this.#ready) this.#listen();
    if (this.#cursor !== null) this.#point(this.#cursor);
  }

  /** Take the map away. */
  clear() {
    this.#map = null;
    this.#ready = false;
    clear(this.#div);
  }

  #figure(rows, scale, phases, findings, bar, above, name) {
    const map = this.#map;
    const [low, high] = scale[1] > scale[0] ? scale : [scale[1] - 1e-3 * Math.max(1, Math.abs(scale[1])), scale[1]];
    const kept = this.#div._fullLayout?.xaxis?.range;
    const whole = [-0.5, map.n - 0.5];
    const digits = scaleDigits(scale);
    const ticks = this.#ticks(whole);
    const narrow = this.#div.clientWidth < 420;
    const marks = this.#marks(phases, findings);
    const margin = {
      l: narrow ? 34 : 50,
      r: bar ? (narrow ? 52 : 88) : 8,
      t: above || marks.annotations.length ? 18 : 6,
      b: 34,
    };
    const room = this.#div.clientWidth - margin.l - margin.r;
    const side = Math.max(60, Math.min(room, MOST_OF_THE_WINDOW * innerHeight));
    margin.r += Math.max(0, room - side);
    this.#div.style.height = `${side + margin.t + margin.b}px`;
    const axis = {
      ...ticks,
      range: whole,
      constrain: "domain",
      showgrid: false,
      minallowed: -0.5,
      maxallowed: map.n - 0.5,
      mirror: true,
    };
    const data = [
      {
        type: "heatmap",
        z: rows,
        name: plain(name),
        zmin: low,
        zmax: high,
        colorscale: COLORSCALE,
        zsmooth: false,
        hoverinfo: "none",
        showscale: bar,
        colorbar: {
          thickness: narrow ? 9 : 12,
          outlinewidth: 0.5,
          outlinecolor: style("--rule"),
          tickformat: `.${digits}f`,
          tickfont: { size: 11 },
          nticks: 7,
          xpad: 6,
          len: 1,
          ypad: 0,
          title: narrow ? undefined : { text: entryName(map), side: "right", font: { size: 11 } },
        },
      },
    ];
    return {
      data,
      layout: layout({
        xaxis: {
          ...axis,
          range: kept && kept[1] - kept[0] < map.n - 1 && this.#ready ? kept : whole,
          title: { text: "checkpoint", standoff: 4, font: { size: 11 } },
        },
        yaxis: {
          ...axis,
          range: [...whole].reverse(),
          scaleanchor: "x",
          title: narrow ? undefined : { text: "checkpoint", standoff: 4, font: { size: 11 } },
        },
        margin,
        height: side + margin.t + margin.b,
        plot_bgcolor: UNDEFINED_COLOR,
        hovermode: "closest",
        dragmode: matchMedia("(hover: none)").matches ? false : "zoom",
        ...marks,
      }),
    };
  }

  #ticks([from, to]) {
    const { checkpoint, n } = this.#map;
    const first = Math.max(0, Math.ceil(from));
    const last = Math.min(n - 1, Math.floor(to));
    const rough = Math.max(1, (checkpoint[last] - checkpoint[first]) / MOST_TICKS);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((a) => a * power).find((a) => a >= rough);
    const tickvals = [];
    // At the first row of each round number: rows may stand for several checkpoints, and some are left out.
    for (let at = first; at <= last; at++) {
      if (
        at === 0
          ? checkpoint[0] % step === 0
          : Math.floor(checkpoint[at] / step) > Math.floor(checkpoint[at - 1] / step)
      )
        tickvals.push(at);
    }
    return { tickmode: "array", tickvals, ticktext: tickvals.map((at) => String(checkpoint[at])) };
  }

  #marks(phases, findings) {
    const map = this.#map;
    const shapes = [];
    const annotations = [];
    const cross = (at, color, dash) => {
      for (const [x, y] of [
        ["x", "y domain"],
        ["x domain", "y"],
      ]) {
        const along = x === "x" ? { x0: at, x1: at, y0: 0, y1: 1 } : { y0: at, y1: at, x0: 0, x1: 1 };
        shapes.push({ type: "line", xref: x, yref: y, ...along, line: { color, width: 1, dash }, layer: "above" });
      }
    };
    for (const { start } of rateChanges(phases)) {
      const at = positionOf(map, start) - 0.5;
      if (at > -0.5 && at < map.n - 0.5) cross(at, PHASE_COLOR, "dot");
    }
    for (let i = 1; i < map.n; i++) {
      if (map.mode && map.mode[i] !== map.mode[i - 1]) cross(i - 0.5, SWITCH_COLOR, "solid");
    }
    for (const { checkpoint, text } of findings) {
      const at = positionOf(map, checkpoint);
      if (at < map.n)
        annotations.push({
          x: at,
          y: 1,
          yref: "y domain",
          yanchor: "bottom",
          text: "⚠",
          showarrow: false,
          font: { size: 12, color: style("--warning") },
          hovertext: plain(text),
          captureevents: true,
        });
    }
    return { shapes, annotations };
  }

  #listen() {
    this.#ready = true;
    const div = this.#div;
    div.append(this.#tip);
    div.addEventListener("mousemove", () => (this.#byKeys = false), { capture: true });
    div.on("plotly_hover", ({ points: [point], event }) => {
      // A plot that is drawn again tells of the mouse that rests on it: while keys move the cursor, that is no news.
      if (this.#byKeys) return;
      const [i, j] = [point.pointIndex[0], point.pointIndex[1]];
      const words = entryWords(this.#map, i, j);
      if (this.#readout) this.#readout.textContent = words;
      const box = div.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      this.#tip.replaceChildren(...words.split(" · ").map((line) => el("div", {}, line)));
      this.#tip.hidden = false;
      this.#tip.style.left = `${Math.max(0, Math.min(x + 14, box.width - this.#tip.offsetWidth - 4))}px`;
      this.#tip.style.top = `${y + 14 + this.#tip.offsetHeight > box.height ? y - this.#tip.offsetHeight - 10 : y + 14}px`;
    });
    div.on("plotly_unhover", () => {
      this.#tip.hidden = true;
    });
    div.on("plotly_relayout", (change) => {
      if (!("xaxis.range[0]" in change || "xaxis.range" in change || "xaxis.autorange" in change)) return;
      const ticks = this.#ticks(div._fullLayout.xaxis.range);
      Plotly.relayout(div, {
        "xaxis.tickvals": ticks.tickvals,
        "xaxis.ticktext": ticks.ticktext,
        "yaxis.tickvals": ticks.tickvals,
        "yaxis.ticktext": ticks.ticktext,
      });
    });
  }

  #key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (this.#map === null || !this.#map.n || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape" && this.#cursor !== null) {
      this.#point(null);
      event.stopPropagation();
      return;
    }
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    this.#byKeys = true;
    this.#tip.hidden = true;
    const last = this.#map.n - 1;
    const far = event.shiftKey ? 10 : 1;
    const from = this.#cursor ?? [last, last].map((at, k) => at - move[k] * far);
    this.#point(from.map((at, k) => Math.max(0, Math.min(last, at + move[k] * far))));
  }

  #point(cursor) {
    if (cursor === null && this.#cursor === null) return;
    this.#cursor = cursor;
    if (this.#map === null || !this.#div._fullLayout) return;
    const { shapes } = this.#made().layout;
    if (cursor !== null) {
      const [i, j] = cursor;
      const line = { color: style("--cursor"), width: 1.5 };
      shapes.push({
        type: "rect",
        x0: -0.5,
        x1: this.#map.n - 0.5,
        y0: i - 0.5,
        y1: i + 0.5,
        line,
        fillcolor: "transparent",
      });
      shapes.push({
        type: "rect",
        x0: j - 0.5,
        x1: j + 0.5,
        y0: -0.5,
        y1: this.#map.n - 0.5,
        line,
        fillcolor: "transparent",
      });
      if (this.#readout) this.#readout.textContent = entryWords(this.#map, i, j);
    }
    Plotly.relayout(this.#div, { shapes });
  }
}
