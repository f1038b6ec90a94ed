// Panels of a run that are asked for when they are opened: the random walk beside the run, and the spectrum.
import { $, say } from "./dom.js";
import { address as link, getMap, getNull, getSpectrum, runPath } from "./api.js";
import { showBar } from "./colorbar.js";
import { chooseScale } from "./colors.js";
import { MapPlot, omegaWords } from "./map.js";
import { draw, layout, lineColors } from "./plots.js";
import { plotFile, saveMenu } from "./save.js";
import { short } from "./words.js";

class Panel {
  constructor(id, run) {
    this.id = id;
    this.run = run;
    this.details = $(`${id}-panel`);
    this.scope = "network";
  }

  /** Open if the address says so. */
  restore(address) {
    this.details.open = address.get("open").includes(this.id);
  }

  /** Keep in the address whether it is open, and load when it is opened. */
  onToggle(address) {
    this.details.addEventListener("toggle", () => {
      const others = address.get("open").filter((id) => id !== this.id);
      address.set({ open: this.details.open ? [...others, this.id] : others });
      if (this.details.open && !this.loaded) this.load(this.scope, this.about);
    });
  }

  /** Show it for a scope; a closed one only notes the scope. */
  async load(scope, about, version = null) {
    this.scope = scope;
    this.about = about;
    this.loaded = this.details.open;
    if (!this.details.open) return;
    this.details.ariaBusy = "true";
    try {
      await this.show(scope, version);
      say($(`${this.id}-why`), this.why);
    } catch (error) {
      if (error.status !== 0) say($(`${this.id}-why`), error.message);
    }
    this.details.ariaBusy = "false";
  }
}

/** The relative map about the initialization beside that of a random walk, on one scale. */
export class NullPanel extends Panel {
  constructor(run) {
    super("null", run);
    this.own = new MapPlot($("null-own"));
    this.walk = new MapPlot($("null-walk"));
  }

  async show(scope, version) {
    const [own, walk] = await Promise.all([
      getMap(this.run, { scope, tau: 0, version }),
      getNull(this.run, { scope, version }),
    ]);
    const scale = chooseScale([own, walk], "fixed");
    $("null-own-title").textContent = `this run · ${omegaWords(own)}`;
    $("null-walk-title").textContent = `random walk · ${omegaWords(walk)}`;
    await this.own.show(own, { scale, phases: this.about?.phases, name: this.run, bar: false });
    await this.walk.show(walk, { scale, phases: this.about?.phases, name: "random walk", bar: false });
    showBar(
      $("null-bar"),
      scale,
      "cosine",
      [own, walk].some(({ values }) => values.some(Number.isNaN)),
    );
    this.why = walk.undefined_because;
    saveMenu($("null-save"), [
      ["PNG of the walk", () => plotFile($("null-walk"), "png", this.run, "random-walk")],
      ["SVG of the walk", () => plotFile($("null-walk"), "svg", this.run, "random-walk")],
      ["Data (JSON)", link(`${runPath(this.run)}/null`, { scope })],
    ]);
  }
}

/** Shares of the eigenvalues of map and Gram. */
export class SpectrumPanel extends Panel {
  constructor(run) {
    super("spectrum", run);
  }

  async show(scope, version) {
    const told = await getSpectrum(this.run, { scope, version });
    const colors = lineColors();
    // Eigenvalues are known to about n ε times the largest, or to the errors of the entries: what is below says nothing.
    const least = ({ eigenvalues, error }) => Math.max(eigenvalues.length * 2 ** -52 * (eigenvalues[0] ?? 0), error ?? 0);
    const shares = (told) => {
      const sum = told.eigenvalues.reduce((a, b) => a + b, 0);
      return told.eigenvalues.map((value) => (sum > 0 && value > least(told) ? value / sum : null));
    };
    const kinds = [
      ["map", "C, the map", told.map],
      ["gram", "K, the Gram", told.gram],
    ];
    const data = kinds.map(([, name, found], at) => {
      const y = shares(found);
      return {
        type: "scatter",
        mode: y.length <= 60 ? "lines+markers" : "lines",
        name,
        x: y.map((_, k) => k + 1),
        y,
        line: { color: colors[at], width: 1.5 },
        marker: { size: 4 },
        hovertemplate: "%{y:.3~g}<extra>%{fullData.name}</extra>",
      };
    });
    await draw($("spectrum"), () => ({
      data,
      layout: layout({
        xaxis: { title: { text: "eigenvalue", standoff: 3, font: { size: 11 } } },
        yaxis: { type: "log", title: { text: "share of the trace", standoff: 4, font: { size: 11 } }, exponentformat: "power" },
        margin: { l: 62, r: 8, t: 8, b: 38 },
        showlegend: true,
        legend: { x: 1, xanchor: "right", y: 1, bgcolor: "rgba(0,0,0,0)" },
      }),
    }));
    const lost = kinds.some(([, , found]) => shares(found).includes(null));
    $("spectrum-words").textContent =
      `effective rank: map ${short(told.map.effective_rank, 3)}, Gram ${short(told.gram.effective_rank, 3)}, of ${told.map.eigenvalues.length} checkpoints` +
      (lost ? "; eigenvalues below their own error are left out" : "");
    saveMenu($("spectrum-save"), [
      ["PNG", () => plotFile($("spectrum"), "png", this.run, "spectrum")],
      ["SVG", () => plotFile($("spectrum"), "svg", this.run, "spectrum")],
      ["Data (JSON)", link(`${runPath(this.run)}/spectrum`, { scope })],
    ]);
  }
}
