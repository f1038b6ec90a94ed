// The panel of two runs across each other: cosines and distances between the checkpoints of one and those of the other.
import { el, fill, say } from "./dom.js";
import { crossAddress, getCross } from "./api.js";
import { CrossMapPlot, crossScale, measured } from "./cross_map.js";
import { clear, draw, layout, lineColors } from "./plots.js";
import { plotFile, saveMenu } from "./save.js";
import { scopeWords } from "./words.js";

const MOST_CHECKPOINTS = 128;
const CONFIDENCE_95 = 1.96;
const CURVE_HEIGHT = "280px";

/** Pairs of rows and columns at equal numbers of checkpoints. */
export function sameNumber(told) {
  const columns = new Map(told.other_checkpoint.map((number, at) => [number, at]));
  return told.checkpoint.flatMap((number, at) => (columns.has(number) ? [[at, columns.get(number)]] : []));
}

/**
 * Which checkpoint of the other run is nearest to the last one, in words; behind it the first and last that are as near
 * within one standard error of both.
 */
export function nearestWords(told) {
  const row = told.distance.length - 1;
  const [distance, error] = [told.distance[row], told.distance_error[row]];
  const known = distance.map((_, at) => at).filter((at) => distance[at] !== null);
  const whose = `Nearest to checkpoint ${told.checkpoint[row]} of ${told.run}, its last`;
  if (!known.length) return `${whose}: undefined.`;
  const best = known.reduce((a, b) => (distance[b] < distance[a] ? b : a));
  const farthest = distance[best] + (error[best] ?? 0);
  const near = known.filter((at) => at === best || distance[at] - (error[at] ?? 0) < farthest);
  const [first, last] = [near[0], near.at(-1)].map((at) => told.other_checkpoint[at]);
  const others = first === last ? "" : ` (${first} to ${last} within error)`;
  const at = `at distance ${measured(distance[best], error[best])}`;
  return `${whose}: checkpoint ${told.other_checkpoint[best]} of ${told.other}${others}, ${at}.`;
}

/** "Across the two runs", in an element that is hidden unless there are two. */
export class CrossPanel {
  #root;
  #why = el("p", { className: "notes", id: "cross-why", role: "status", hidden: true });
  #halves;
  #about = el("span", { className: "notes", id: "cross-about" });
  #map = el("div", {
    className: "plot square",
    id: "cross-map",
    tabIndex: 0,
    role: "img",
    "aria-label": "Cosines between the checkpoints of the two runs; arrow keys move the cursor",
  });
  #curve = el("div", {
    className: "plot curve",
    id: "cross-distance",
    role: "img",
    "aria-label": "Distance between the two runs over the checkpoints",
  });
  #saveMap = el("details", { className: "menu", id: "cross-save" });
  #saveCurve = el("details", { className: "menu", id: "cross-distance-save" });
  #nearest = el("p", { id: "cross-nearest" });
  #notes = el("p", { className: "notes", id: "cross-notes", hidden: true });
  #plot;
  #told = null;

  constructor(root) {
    this.#root = root;
    this.#curve.style.height = CURVE_HEIGHT;
    const readout = el("p", { className: "readout", id: "cross-readout", "aria-live": "polite" }, "\u00a0");
    const spacer = () => el("span", { className: "spacer" });
    this.#halves = el(
      "div",
      { className: "halves", hidden: true },
      el("figure", {}, el("figcaption", {}, el("h3", {}, "Cosines"), spacer(), this.#saveMap), this.#map, readout),
      el(
        "figure",
        {},
        el("figcaption", {}, el("h3", {}, "Distance at equal checkpoint numbers"), spacer(), this.#saveCurve),
        this.#curve,
        this.#nearest,
        this.#notes,
      ),
    );
    fill(root, el("figcaption", {}, el("h2", {}, "Across the two runs"), this.#about), this.#why, this.#halves);
    this.#plot = new CrossMapPlot(this.#map, readout);
  }

  /**
   * Ask for two runs, given as the API tells of them, and draw; fewer or more: hide. `about`: "" for the origin, "0"
   * for the initialization.
   */
  async load(runs, { scope, about, scale }, signal) {
    this.#root.hidden = runs.length !== 2;
    if (runs.length !== 2) return this.#none("");
    const initialization = about === "0";
    if (about && !initialization) return this.#none("two runs have the origin or the initialization in common alone");
    // Known already, in the server's words: not worth a request that must fail each time.
    const bare = runs.find(({ sketch }) => sketch === null);
    if (bare)
      return this.#none(
        `run '${bare.name}' has no sketches, which a map across runs is made of: record it with sketch=True, ` +
          "or compare snapshots with `trajmon cross --exact` where they are",
      );
    const query = { run: runs[0].name, other: runs[1].name, scope, from_initialization: String(initialization) };
    this.#root.ariaBusy = "true";
    try {
      const told = await getCross({ ...query, size: MOST_CHECKPOINTS }, signal);
      if (signal.aborted) return;
      if (!told.checkpoint.length || !told.other_checkpoint.length)
        return this.#none("no checkpoint of one of the two runs has a sketch yet");
      this.#told = { ...told, query };
      this.#about.textContent = `${scopeWords(scope)} · about the ${initialization ? "initializations" : "origin"}`;
      say(this.#why, "");
      this.#halves.hidden = false;
      await this.draw(scale);
    } catch (error) {
      if (error.name === "AbortError" || error.status === 0) return;
      if (error.status === undefined) throw error;
      // The server names the parameter first, which the reader of a page did not write.
      this.#none(error.message.replace(/^(run|other|scope|from_initialization): /, ""));
    } finally {
      if (!signal.aborted) this.#root.ariaBusy = "false";
    }
  }

  /** Draw again what is known, on another scale. */
  async draw(scale) {
    const told = this.#told;
    if (told === null) return;
    await this.#plot.show(told, crossScale(told, scale));
    await this.#drawDistance(told);
    this.#nearest.textContent = nearestWords(told);
    const chosen = Math.max(told.checkpoint.length, told.other_checkpoint.length) >= MOST_CHECKPOINTS;
    say(this.#notes, chosen ? `At most ${MOST_CHECKPOINTS} checkpoints of each run, evenly chosen.` : "");
    const name = [told.run, told.other, told.scope];
    const data = ["Data (JSON)", crossAddress(told.query)];
    const entries = (div, kind) => [
      ["PNG", () => plotFile(div, "png", ...name, kind)],
      ["SVG", () => plotFile(div, "svg", ...name, kind)],
      data,
    ];
    saveMenu(this.#saveMap, entries(this.#map, "cross"));
    saveMenu(this.#saveCurve, entries(this.#curve, "distance"));
  }

  #none(why) {
    this.#told = null;
    this.#about.textContent = "";
    this.#halves.hidden = true;
    this.#plot.clear();
    clear(this.#curve);
    say(this.#why, why);
  }

  async #drawDistance(told) {
    const pairs = sameNumber(told);
    const errors = pairs.map(([i, j]) => told.distance_error[i][j]);
    const y = pairs.map(([i, j]) => told.distance[i][j]);
    await draw(this.#curve, () => ({
      data: [
        {
          type: "scatter",
          mode: pairs.length <= 30 ? "lines+markers" : "lines",
          x: pairs.map(([i]) => told.checkpoint[i]),
          y,
          text: pairs.map(([i, j], at) => measured(y[at], errors[at])),
          connectgaps: false,
          line: { color: lineColors()[0], width: 1.6 },
          marker: { size: 4 },
          error_y: errors.some((error) => error > 0)
            ? { type: "data", array: errors.map((error) => CONFIDENCE_95 * (error ?? 0)), thickness: 1, width: 0 }
            : undefined,
          hovertemplate: "%{text}<extra></extra>",
        },
      ],
      layout: layout({
        xaxis: { title: { text: "checkpoint", standoff: 3, font: { size: 11 } }, nticks: 7 },
        yaxis: { nticks: 6, exponentformat: "power", rangemode: "tozero" },
        margin: { l: 56, r: 8, t: 8, b: 34 },
        hovermode: "x unified",
        dragmode: matchMedia("(hover: none)").matches ? false : "zoom",
      }),
    }));
  }
}
