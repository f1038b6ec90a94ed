// Several runs side by side: maps on one colour scale, curves overlaid.
import { $, el, fill, later, say } from "./dom.js";
import { Address } from "./address.js";
import { address as link, getHallmarks, getMap, getRun, getRuns, mapQuery, runPath } from "./api.js";
import { chooseScale } from "./colors.js";
import { showBar } from "./colorbar.js";
import { CrossPanel } from "./cross.js";
import { Curves } from "./curves.js";
import { keys } from "./keys.js";
import { repeat } from "./live.js";
import { MapPlot, entryName, omegaWords } from "./map.js";
import { plotFile, saveMenu } from "./save.js";
import { HALLMARKS, scopeWords } from "./words.js";

const MOST_RUNS = 12;
const REPEAT_SECONDS = 5;
const STATE = ["checkpoints", "superseded", "last_time", "phase"];
const SHOWN = [
  "mds",
  "relative_mds",
  "update_angle_degrees",
  "apex_angle_initialization_degrees",
  "apex_angle_origin_degrees",
  "parameter_norm",
  "distance_from_initialization",
  "update_norm",
];

const address = new Address({ run: [], scope: "network", about: "", scale: "fixed", axis: "checkpoint" });
const cards = new Map();
const across = el("figure", { className: "panel", id: "cross", hidden: true });
$("curves").before(across);
const cross = new CrossPanel(across);
let curves = null;
let curvesOf = "";
let shown = [];
let asking = null;
let known = "";

async function load() {
  asking?.abort();
  const { signal } = (asking = new AbortController());
  const names = [...new Set(address.get("run"))].slice(0, MOST_RUNS);
  showChosen(names);
  say($("empty"), names.length ? "" : "Add two or more runs to see their maps on one scale.");
  const scope = address.get("scope") || "network";
  const tau = address.get("about") === "" ? null : address.get("about");
  const problems = [];
  const forEach = async (entries, ask) => {
    const found = await Promise.all(
      entries.map(async (one) => {
        try {
          return await ask(one);
        } catch (error) {
          if (error.name !== "AbortError" && error.status !== 0) problems.push(`${one.name}: ${error.message}`);
          if (one.run) return one;  // its map is there: only its curves are missing
          return error.status === 0 ? (shown.find(({ name }) => name === one.name) ?? null) : null;
        }
      }),
    );
    if (!signal.aborted) say($("problem"), problems.join(" · "));
    return found.filter((one) => one !== null).map((one, at) => ({ ...one, slot: at + 1 }));
  };
  const withMaps = await forEach(
    names.map((name) => ({ name })),
    async ({ name }) => {
      const [drawn, run] = await Promise.all([mapOf(name, { scope, tau }, signal), getRun(name, {}, signal)]);
      return { name, run, ...drawn, told: null };
    },
  );
  if (signal.aborted) return;
  shown = withMaps;
  showScopes();
  await show();
  // Maps first: of long runs, curves take the server longer, and the page too.
  const withCurves = await forEach(shown, async (one) => ({
    ...one,
    told: await getHallmarks(one.name, { scope }, signal),
  }));
  if (signal.aborted) return;
  shown = withCurves;
  showTau();
  await showCurves();
  const two = names.length === 2 && shown.length === 2 ? shown.map(({ run }) => run) : [];
  await cross.load(two, { scope, about: address.get("about"), scale: address.get("scale") }, signal);
}

/** A run's map, or why it has none about this checkpoint: the others still have theirs. */
async function mapOf(name, query, signal) {
  try {
    return { map: await getMap(name, query, signal), why: "" };
  } catch (error) {
    if (!error.fields?.includes("relative_to")) throw error;
    return { map: null, why: error.message.replace(/^relative_to: /, "") };
  }
}

async function show() {
  const scope = address.get("scope") || "network";
  const maps = shown.filter(({ map }) => map !== null).map(({ map }) => map);
  const scale = chooseScale(maps, address.get("scale"));
  for (const [name, card] of cards) {
    if (!shown.some((one) => one.name === name)) {
      card.plot.clear();
      card.figure.remove();
      cards.delete(name);
    }
  }
  const room = shown.some(({ map, run }) => map !== null && run.findings.length > 0);
  for (const { name, map, why, run, slot } of shown) {
    const card = cards.get(name) ?? newCard(name);
    $("maps").append(card.figure);
    card.title.className = `key line-${slot}`;
    say(card.why, why);
    card.div.hidden = card.save.hidden = card.readout.hidden = map === null;
    card.omega.textContent = map === null ? "" : omegaWords(map);
    if (map === null) {
      card.plot.clear();
      continue;
    }
    await card.plot.show(map, { scale, phases: run.phases, findings: run.findings, bar: false, room, name });
    saveMenu(card.save, [
      ["PNG", () => plotFile(card.div, "png", name, scope)],
      ["SVG", () => plotFile(card.div, "svg", name, scope)],
      ["Data (.npz)", link(`${runPath(name)}/map`, { ...mapQuery({ scope, tau: map.relative_to }), format: "npz" })],
    ]);
  }
  $("maps").ariaBusy = "false";
  $("bar").hidden = !maps.length;
  if (maps.length)
    showBar(
      $("bar"),
      scale,
      `${entryName(maps[0])} · ${scopeWords(scope)}`,
      maps.some(({ values }) => values.some(Number.isNaN)),
    );
}

function newCard(name) {
  const title = el("a", { href: `/runs/${encodeURIComponent(name)}` }, name);
  const omega = el("span", { className: "omega" });
  const save = el("details", { className: "menu" });
  const div = el("div", {
    className: "plot square",
    tabIndex: 0,
    role: "img",
    "aria-label": `Trajectory map of ${name}; arrow keys move the cursor`,
  });
  const readout = el("p", { className: "readout", "aria-live": "polite" }, "\u00a0");
  const why = el("p", { className: "problem", role: "status", hidden: true });
  const figure = el(
    "figure",
    { className: "panel", "data-run": name },
    el("figcaption", {}, el("h2", {}, title), omega, el("span", { className: "spacer" }), save),
    why,
    div,
    readout,
  );
  const card = { figure, title, omega, save, why, readout, div, plot: new MapPlot(div, readout) };
  cards.set(name, card);
  return card;
}

async function showCurves() {
  const ready = shown.filter(({ told }) => told !== null);
  const metrics = [...new Set(ready.flatMap(({ told }) => Object.keys(told.metrics)))].sort().slice(0, 4);
  if (curvesOf !== metrics.join("\n") || curves === null) {
    curves?.clear();
    curves = new Curves($("curves"), [
      ...SHOWN.map((id) => [id, HALLMARKS[id], [id]]),
      ...metrics.map((metric) => [`metric:${metric}`, metric, [`metric:${metric}`]]),
    ]);
    curvesOf = metrics.join("\n");
  }
  $("curves").hidden = !ready.length;
  const scope = address.get("scope") || "network";
  const series = ready.map(({ name, told, slot }) => {
    const named = Object.fromEntries(
      Object.entries(told.metrics).map(([metric, values]) => [`metric:${metric}`, values]),
    );
    return { name, slot, told: { ...told, hallmarks: { ...told.hallmarks, ...named } } };
  });
  const data = ready.map(({ name }) => [
    `Data of ${name} (CSV)`,
    link(`${runPath(name)}/hallmarks`, { scope, format: "csv" }),
  ]);
  if (series.length) await curves.show(series, { axis: address.get("axis"), data });
}

function showChosen(names) {
  fill(
    $("chosen"),
    names.map((name) => {
      const remove = el(
        "button",
        { type: "button", className: "chip", title: `Take ${name} out`, "aria-label": `Take ${name} out` },
        name,
        " ✕",
      );
      remove.addEventListener("click", () => choose(address.get("run").filter((one) => one !== name)));
      return el("span", { role: "listitem" }, remove);
    }),
  );
}

function choose(names) {
  address.set({ run: names }, { push: true });
  load();
}

function showScopes() {
  const names = new Set(["network"]);
  for (const { run } of shown) {
    run.groups.forEach(({ name }) => name !== "network" && names.add(`group:${name}`));
    run.layers.forEach(({ name }) => names.add(`layer:${name}`));
  }
  const entries = [...names];
  if (known === entries.join("\n")) return;
  known = entries.join("\n");
  fill(
    $("scopes"),
    entries.map((value) => el("option", { value })),
  );
}

const suggest = later(async () => {
  const { runs } = await getRuns({ search: $("add").value, limit: 20 }).catch(() => ({ runs: [] }));
  fill(
    $("known"),
    runs.map(({ name }) => el("option", { value: name })),
  );
}, 120);
const add = () => {
  const name = $("add").value.trim();
  if (!name) return;
  $("add").value = "";
  if (!address.get("run").includes(name)) choose([...address.get("run"), name]);
};
$("add").addEventListener("input", suggest);
$("add").addEventListener("focus", suggest);
$("add").addEventListener("change", add);
for (const id of ["scope", "scale", "axis"]) {
  $(id).addEventListener("change", () => {
    address.set({ [id]: $(id).value }, { push: true });
    if (id === "scale") show().then(() => cross.draw(address.get("scale")));
    else if (id === "axis") showCurves();
    else load();
  });
}

// About the origin, the initialization, or one checkpoint that has the same number in all runs.
const isChosen = () => !["", "0"].includes(address.get("about"));
const lastOf = ({ told, map }) => told?.path.at(-1) ?? map?.checkpoint.at(-1) ?? 0;
/** `all`: also the field that somebody may be typing in. */
function showTau(all = false) {
  const last = Math.max(0, ...shown.map(lastOf));
  $("tau-chosen").hidden = !isChosen();
  $("about").value = isChosen() ? "tau" : address.get("about");
  for (const id of ["tau", "tau-number"]) {
    $(id).max = last;
    if (isChosen() && (all || $(id) !== document.activeElement)) $(id).value = address.get("about");
  }
}
const slid = later(() => load(), 120);
const chooseTau = (number, push) => {
  address.set({ about: number }, { push });
  showTau();
  slid();
};
$("about").addEventListener("change", () => {
  // Halfway through the longest run: from there on both what came before and what follows is seen.
  const halfway = Math.max(1, Math.floor(Math.max(0, ...shown.map(lastOf)) / 2));
  address.set({ about: $("about").value === "tau" ? halfway : $("about").value }, { push: true });
  showTau();
  load();
});
$("tau").addEventListener("input", () => chooseTau($("tau").value, false));
$("tau-number").addEventListener("change", () => {
  if ($("tau-number").value !== "" && $("tau-number").checkValidity()) chooseTau($("tau-number").value, true);
  else $("tau-number").reportValidity();
});
const restore = () => {
  for (const id of ["scope", "scale", "axis"]) $(id).value = address.get(id);
  showTau(true);
};
keys([["a", "add a run", () => $("add").focus()]]);
address.onMove(() => {
  restore();
  load();
});
restore();
await load();
document.body.dataset.ready = "true";
// Maps are asked for again only where something has come.
repeat(async () => {
  const now = await Promise.all(shown.map(({ name }) => getRun(name).catch(() => null)));
  const moved = now.some((run, at) => run !== null && STATE.some((key) => run[key] !== shown[at].run[key]));
  if (moved || shown.length < address.get("run").length) await load();
}, REPEAT_SECONDS);
