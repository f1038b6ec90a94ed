// A map across two runs as a plot: checkpoints of one downwards, of the other across, a cursor for mouse and keys.
import { COLORSCALE, UNDEFINED_COLOR, scaleDigits } from "./colors.js";
import { clear, draw, layout, style } from "./plots.js";
import { UNDEFINED, plain, short, whole } from "./words.js";

const MOST_TICKS = 7;
const MOST_OF_THE_WINDOW = 0.5;
const LONGEST_NAME = 32;
const MOST_DECIMALS = 7;

/** A value with its standard error, to the two digits that the error leaves; an error of 0 is not shown. */
export function measured(value, error) {
  if (value === null) return "undefined";
  if (error === 0) return short(value, 6);
  if (error === null) return `${short(value, 6)} ± unknown`;
  const decimals = 1 - Math.floor(Math.log10(error));
  if (decimals > MOST_DECIMALS) return `${short(value, 6)} ± ${short(error, 2)}`;
  const digits = Math.max(0, decimals);
  return `${value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "")} ± ${error.toFixed(digits)}`;
}

/** One pair in words: i, j, their steps, cosine and distance with their standard errors. */
export function pairWords(told, i, j) {
  const step = (value) => (value < 0 ? UNDEFINED : whole(value));
  return [
    `i ${told.checkpoint[i]}, j ${told.other_checkpoint[j]}`,
    `steps ${step(told.step[i])}, ${step(told.other_step[j])}`,
    `cosine ${measured(told.map[i][j], told.error[i][j])}`,
    `distance ${measured(told.distance[i][j], told.distance_error[i][j])}`,
  ].join(" · ");
}

/** [low, high] of the defined cosines, which may be negative; `fixed` ends at 1. Without any: 0 to 1. */
export function crossScale(told, kind) {
  const known = told.map.flat().filter((value) => value !== null);
  if (!known.length) return [0, 1];
  const [low, high] = known.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const top = kind === "fixed" ? Math.max(1, high) : high;
  return top > low ? [low, top] : [low - 1e-3, top];
}

/** A name that fits beside an axis, for plotly.js. */
const axisName = (name) => plain(name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name);

/** Ticks at rows or columns that are seen, each with the number of its checkpoint. `range`: either way round. */
function ticksOf(checkpoint, range) {
  const from = Math.max(0, Math.ceil(Math.min(...range)));
  const to = Math.min(checkpoint.length - 1, Math.max(...range));
  const every = Math.max(1, Math.ceil((to - from + 1) / MOST_TICKS));
  const tickvals = checkpoint.map((_, at) => at).filter((at) => at >= from && at <= to && at % every === 0);
  return { tickvals, ticktext: tickvals.map((at) => String(checkpoint[at])) };
}

/** A plot of maps across two runs in one element. */
export class CrossMapPlot {
  #div;
  #readout;
  #told = null;
  #made = null;
  #cursor = null;
  #listening = false;

  /** `readout` takes the words for the pair under the cursor. */
  constructor(div, readout) {
    this.#div = div;
    this.#readout = readout;
    let width = 0;
    new ResizeObserver(() => {
      // The height follows the width.
      if (div.clientWidth !== width && this.#told !== null && div.clientWidth > 0) draw(div, this.#made);
      width = div.clientWidth;
    }).observe(div);
    div.addEventListener("keydown", (event) => this.#key(event));
    div.addEventListener("blur", () => this.#point(null));
  }

  /** Draw what the server told of two runs, on the scale [low, high]. */
  async show(told, scale) {
    this.#told = told;
    const [i, j] = this.#cursor ?? [0, 0];
    if (i >= told.map.length || j >= told.other_checkpoint.length) this.#cursor = null;
    const words = told.map.map((row, at) => row.map((_, to) => pairWords(told, at, to).replaceAll(" · ", "<br>")));
    this.#made = () => this.#figure(words, scale);
    await draw(this.#div, this.#made);
    if (!this.#listening) {
      this.#listening = true;
      this.#div.on("plotly_hover", ({ points: [point] }) => this.#say(...point.pointIndex));
      this.#div.on("plotly_relayout", (change) => {
        if (Object.keys(change).some((name) => name.includes("range"))) this.#renewTicks();
      });
    }
  }

  /** Take the map away. */
  clear() {
    this.#told = this.#cursor = null;
    this.#listening = false;
    this.#readout.textContent = "\u00a0";
    clear(this.#div);
  }

  #figure(words, scale) {
    const told = this.#told;
    const narrow = this.#div.clientWidth < 420;
    const margin = { l: 50, r: narrow ? 52 : 88, t: 6, b: 34 };
    const room = this.#div.clientWidth - margin.l - margin.r;
    const side = Math.max(60, Math.min(room, MOST_OF_THE_WINDOW * innerHeight));
    margin.r += Math.max(0, room - side);
    this.#div.style.height = `${side + margin.t + margin.b}px`;
    const axis = (checkpoint, name) => {
      const ends = { minallowed: -0.5, maxallowed: checkpoint.length - 0.5 };
      const title = { text: `checkpoint of ${axisName(name)}`, standoff: 4, font: { size: 11 } };
      const ticks = ticksOf(checkpoint, [0, checkpoint.length - 1]);
      return { ...ends, ...ticks, title, tickmode: "array", showgrid: false, mirror: true };
    };
    const heatmap = {
      type: "heatmap",
      z: told.map,
      text: words,
      zmin: scale[0],
      zmax: scale[1],
      colorscale: COLORSCALE,
      zsmooth: false,
      hovertemplate: "%{text}<extra></extra>",
      colorbar: {
        thickness: narrow ? 9 : 12,
        outlinewidth: 0.5,
        outlinecolor: style("--rule"),
        tickformat: `.${scaleDigits(scale)}f`,
        tickfont: { size: 11 },
        nticks: 7,
        xpad: 6,
        len: 1,
        ypad: 0,
        title: narrow ? undefined : { text: "cosine", side: "right", font: { size: 11 } },
      },
    };
    const [rows, columns] = [told.checkpoint.length, told.other_checkpoint.length];
    return {
      data: [heatmap],
      layout: layout({
        xaxis: { ...axis(told.other_checkpoint, told.other), range: [-0.5, columns - 0.5] },
        yaxis: { ...axis(told.checkpoint, told.run), range: [rows - 0.5, -0.5] },
        margin,
        height: side + margin.t + margin.b,
        plot_bgcolor: UNDEFINED_COLOR,
        hovermode: "closest",
        dragmode: matchMedia("(hover: none)").matches ? false : "zoom",
        shapes: this.#marks(),
      }),
    };
  }

  #marks() {
    if (this.#cursor === null) return [];
    const [i, j] = this.#cursor;
    const line = { color: style("--cursor"), width: 1.5 };
    const box = (x0, x1, y0, y1) => ({ type: "rect", x0, x1, y0, y1, line, fillcolor: "transparent" });
    return [
      box(-0.5, this.#told.other_checkpoint.length - 0.5, i - 0.5, i + 0.5),
      box(j - 0.5, j + 0.5, -0.5, this.#told.checkpoint.length - 0.5),
    ];
  }

  #renewTicks() {
    const { xaxis, yaxis } = this.#div._fullLayout;
    const across = ticksOf(this.#told.other_checkpoint, xaxis.range);
    const down = ticksOf(this.#told.checkpoint, yaxis.range);
    Plotly.relayout(this.#div, {
      "xaxis.tickvals": across.tickvals,
      "xaxis.ticktext": across.ticktext,
      "yaxis.tickvals": down.tickvals,
      "yaxis.ticktext": down.ticktext,
    });
  }

  #key(event) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (this.#told === null || event.ctrlKey || event.altKey || event.metaKey) return;
    const move = moves[event.key];
    if (event.key === "Escape" && this.#cursor !== null) this.#point(null);
    else if (move) {
      event.preventDefault();
      const last = [this.#told.checkpoint.length - 1, this.#told.other_checkpoint.length - 1];
      const far = event.shiftKey ? 10 : 1;
      const from = this.#cursor ?? last.map((at, k) => at - move[k] * far);
      this.#point(from.map((at, k) => Math.max(0, Math.min(last[k], at + move[k] * far))));
    } else return;
    event.stopPropagation();
  }

  #point(cursor) {
    if (cursor === null && this.#cursor === null) return;
    this.#cursor = cursor;
    if (this.#told === null || !this.#div._fullLayout) return;
    Plotly.relayout(this.#div, { shapes: this.#marks() });
    if (cursor !== null) this.#say(...cursor);
  }

  #say(i, j) {
    this.#readout.textContent = pairWords(this.#told, i, j);
  }
}
