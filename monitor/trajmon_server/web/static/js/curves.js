// Curves of hallmarks over checkpoints, steps or time, with the learning rate and a metric faint behind them.
import { el, fill, say } from "./dom.js";
import { SWITCH_COLOR } from "./colors.js";
import { rateChanges } from "./map.js";
import { clear, draw, layout, lineColors, style } from "./plots.js";
import { saveMenu, plotFile } from "./save.js";
import { HALLMARKS, plain } from "./words.js";

/** Panels: id, title, hallmarks, scale of the axis if it is not linear. Together they hold every hallmark there is. */
export const PANELS = [
  ["mds", "Mean directional similarity", ["mds", "relative_mds", "windowed_mds", "length_weighted_mds"]],
  ["update_angle", "Update angle (degrees)", ["update_angle_degrees"]],
  ["apex_angles", "Apex angles (degrees)", ["apex_angle_initialization_degrees", "apex_angle_origin_degrees"]],
  ["norms", "Norms", ["parameter_norm", "distance_from_initialization", "update_norm"]],
  [
    "lags",
    "Cosines of updates, k apart",
    ["update_cosine_lag1", "update_cosine_lag2", "update_cosine_lag3", "update_cosine_lag4"],
  ],
  ["path", "Path length", ["path_length"]],
  ["tortuosity", "Tortuosity (path length / ‖θₜ−θ₀‖)", ["tortuosity"]],
  ["learning_rate", "Learning rate", ["learning_rate"], "log"],
];

/** What a curve runs over: title and values of hallmarks as the API gives them. */
export const AXES = {
  checkpoint: { title: "checkpoint", values: (told) => told.checkpoint },
  step: { title: "step", values: (told) => told.step.map((step) => (step < 0 ? null : step)) },
  time: {
    title: "time",
    type: "date",
    values: (told) => told.time_unix_seconds.map((time) => (time === null ? null : time * 1000)),
  },
  share: {
    title: "share of the run",
    values: (told) => {
      const last = told.path.length - 1;
      const every = told.reduced?.every ?? 1;
      return told.checkpoint.map((_, at) => (last > 0 ? Math.min(at * every, last) / last : 0));
    },
  },
};

/** What is left out of the curves, in words; empty where nothing is. */
export function reducedWords(series) {
  const reduced = series.filter(({ told }) => told.reduced);
  const words = reduced.map(({ name, told: { reduced: how } }) => {
    const which = `every ${ordinal(how.every)} of ${how.from} checkpoints is shown`;
    return series.length > 1 ? `${name}: ${which}` : which[0].toUpperCase() + which.slice(1);
  });
  return words.length ? `${words.join("; ")}, and the last. Saved data has all of them.` : "";
}

function ordinal(number) {
  const ending = /1[123]$/.test(number) ? "th" : ({ 1: "st", 2: "nd", 3: "rd" }[number % 10] ?? "th");
  return `${number}${ending}`;
}

const CONFIDENCE_95 = 1.96;

/** A grid of panels in an element; each can be saved. */
export class Curves {
  #panels = new Map();
  #notes = el("p", { className: "notes curves-notes", role: "status", hidden: true });

  constructor(parent, panels = PANELS) {
    const made = panels.map(([id, title, names, scale]) => {
      const plot = el("div", { className: "plot curve", id: `curve-${id}` });
      const empty = el("p", { className: "undefined", hidden: true }, "undefined");
      const save = el("details", { className: "menu" });
      const legend = el("span", { className: "legend" });
      const panel = el(
        "figure",
        { className: "panel" },
        el("figcaption", {}, el("h3", {}, title), el("span", { className: "spacer" }), save, legend),
        el("div", { className: "over" }, plot, empty),
      );
      this.#panels.set(id, { names, plot, empty, save, legend, scale });
      return panel;
    });
    fill(parent, this.#notes, made);
  }

  /**
   * Draw all panels. `series`: [{name, told, color?}] with hallmarks as the API gives them; several: one line each for the first
   * hallmark of each panel. `data`: where a series' data can be had, for the menus.
   */
  async show(series, { axis, behind = null, phases = [], findings = [], data = [] }) {
    say(this.#notes, reducedWords(series));
    for (const [id, panel] of this.#panels) {
      const lines = this.#lines(panel.names, series, axis);
      const some = lines.some(({ y }) => y.some((value) => value !== null));
      panel.empty.hidden = some;
      fill(
        panel.legend,
        lines.length > 1
          ? lines.map(({ words, slot, dash }) =>
              el("span", { className: `key line-${slot}${dash ? " dashed" : ""}` }, words),
            )
          : [],
      );
      const back =
        behind && series.length === 1
          ? { ...behind, rate: behind.rate && panel.scale !== "log", told: series[0].told }
          : null;
      await draw(panel.plot, () =>
        figure(lines, { axis, back, phases, findings, told: series[0]?.told, scale: panel.scale }),
      );
      const name = [series.map((one) => one.name).join("-"), id];
      saveMenu(panel.save, [
        ["PNG", () => plotFile(panel.plot, "png", ...name)],
        ["SVG", () => plotFile(panel.plot, "svg", ...name)],
        ...data,
      ]);
    }
  }

  /** Take the plots away. */
  clear() {
    for (const { plot } of this.#panels.values()) clear(plot);
  }

  #lines(names, series, axis) {
    const several = series.length > 1;
    return (several ? names.slice(0, 1) : names).flatMap((name, at) =>
      series.map(({ name: run, told, slot }) => ({
        words: several ? run : (HALLMARKS[name] ?? name),
        slot: several ? slot : at + 1,
        name,
        x: AXES[axis].values(told),
        y: told.hallmarks[name] ?? told[name] ?? [],
        error: told.errors?.[name] ?? null,
      })),
    );
  }
}

function figure(lines, { axis, back, phases, findings, told, scale }) {
  const colors = lineColors();
  const main = { yaxis: "y3", xaxis: "x" };
  const data = lines.map(({ words, slot, x, y, error }) => ({
    ...main,
    type: "scatter",
    mode: y.length <= 30 ? "lines+markers" : "lines",
    name: plain(words),
    x,
    y,
    connectgaps: false,
    line: { color: colors[(slot - 1) % colors.length], width: 1.6 },
    marker: { size: 4 },
    error_y: error?.some((value) => value > 0)
      ? { type: "data", array: error.map((value) => CONFIDENCE_95 * (value ?? 0)), thickness: 1, width: 0 }
      : undefined,
    hovertemplate: "%{y:.6~g}<extra>%{fullData.name}</extra>",
  }));
  if (back) data.push(...behindLines(back, lines[0]?.x ?? []));
  const hidden = {
    tickmode: "auto",
    showgrid: false,
    showline: false,
    showticklabels: false,
    ticks: "",
    fixedrange: true,
  };
  const { title, type } = AXES[axis];
  return {
    data,
    layout: layout({
      xaxis: {
        title: { text: title, standoff: 3, font: { size: 11 } },
        type: type ?? "linear",
        nticks: 7,
        anchor: "y3",
      },
      yaxis: { ...hidden, rangemode: "tozero" },
      yaxis2: { ...hidden, overlaying: "y" },
      yaxis3: {
        overlaying: "y",
        side: "left",
        tickmode: "auto",
        nticks: 6,
        type: scale ?? "linear",
        exponentformat: "power",
        ...(scale === "log" ? logTicks(lines) : {}),
      },
      margin: { l: 48, r: 8, t: 8, b: 34 },
      hovermode: "x unified",
      shapes: told ? marks(told, axis, phases, findings) : [],
      dragmode: matchMedia("(hover: none)").matches ? false : "zoom",
    }),
  };
}

function logTicks(lines) {
  const known = lines.flatMap(({ y }) => y.filter((value) => value > 0));
  const decades = known.length ? Math.log10(Math.max(...known) / Math.min(...known)) : 0;
  return { tickformat: "~g", ...(decades >= 1 ? { tickmode: "linear", tick0: 0, dtick: 1 } : {}) };
}

function behindLines({ rate, metric, told }, x) {
  const faint = { type: "scatter", mode: "lines", x, xaxis: "x" };
  const lines = [];
  if (rate && told.learning_rate.some((value) => value !== null)) {
    lines.push({
      ...faint,
      name: "learning rate",
      y: told.learning_rate,
      yaxis: "y",
      line: { color: style("--behind-rate"), width: 1, shape: "hvh" },
      fill: "tozeroy",
      fillcolor: style("--behind-fill"),
      hovertemplate: "%{y:.4~g}<extra>learning rate</extra>",
    });
  }
  if (metric && told.metrics[metric]) {
    lines.push({
      ...faint,
      name: plain(metric),
      y: told.metrics[metric],
      yaxis: "y2",
      line: { color: style("--behind-metric"), width: 1.2, dash: "dot" },
      hovertemplate: `%{y:.4~g}<extra>${plain(metric)}</extra>`,
    });
  }
  return lines;
}

function marks(told, axis, phases, findings) {
  const x = AXES[axis].values(told);
  // Checkpoints may be left out: a mark stands at its own, or in the middle of the two beside it.
  const middle = (at) => (at > 0 && x[at] !== null && x[at - 1] !== null ? (x[at - 1] + x[at]) / 2 : undefined);
  const reached = (number) => told.checkpoint.findIndex((one) => one >= number);
  const place = (number) => (told.checkpoint[reached(number)] === number ? x[reached(number)] : middle(reached(number)));
  // A phase begins between two checkpoints, as on the map.
  const between = (number) => middle(reached(number));
  const line = (at, color, dash) => ({
    type: "line",
    x0: at,
    x1: at,
    y0: 0,
    y1: 1,
    xref: "x",
    yref: "paper",
    line: { color, width: 1, dash },
    layer: "below",
  });
  const shapes = rateChanges(phases).map(({ start }) => line(between(start), style("--phase"), "dot"));
  shapes.push(...findings.map(({ checkpoint }) => line(place(checkpoint), style("--warning"), "dash")));
  for (let at = 1; at < x.length; at++)
    if (told.mode[at] !== told.mode[at - 1]) shapes.push(line(between(told.checkpoint[at]), SWITCH_COLOR, "solid"));
  return shapes.filter(({ x0 }) => x0 !== undefined && x0 !== null);
}
