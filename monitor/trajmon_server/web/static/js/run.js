// One run: its map, curves, advice and findings, as it goes on.
import { $, el, fill, later, options, say } from "./dom.js";
import { Address } from "./address.js";
import { showAdvice } from "./advice.js";
import { address as link, getHallmarks, getMap, getRun, mapQuery, runPath } from "./api.js";
import { chooseScale } from "./colors.js";
import { onReturn } from "./connection.js";
import { AXES, Curves } from "./curves.js";
import { keys } from "./keys.js";
import { follow } from "./live.js";
import { MapPlot, omegaWords, rateChanges } from "./map.js";
import { showAbout, showFacts, showFindings } from "./about.js";
import { NullPanel, SpectrumPanel } from "./panels.js";
import { plotFile, saveMenu } from "./save.js";
import { scopeWords } from "./words.js";

const name = document.body.dataset.run;
const address = new Address({
  scope: "network",
  tau: "",
  kernel: "linear",
  scale: "fixed",
  low: "",
  superseded: "",
  axis: "checkpoint",
  behind: "auto",
  open: [],
});
const map = new MapPlot($("map"), $("map-readout"));
const curves = new Curves($("curves"));
const panels = [new NullPanel(name), new SpectrumPanel(name)];
let run = null;
let told = null;
let numbers = [];
const asking = {};
const problems = {};

const wanted = () => ({
  scope: address.get("scope"),
  tau: address.get("tau") === "" ? null : address.get("tau"),
  kernel: address.get("kernel"),
  superseded: address.get("superseded") === "true",
});

/** Lower end of the scale: a number as text, or empty. */
const lowEnd = () => (Number.isFinite(Number(address.get("low"))) ? address.get("low").trim() : "");

/** Ask anew what the kind of question last asked for is; an older question of the kind is dropped. */
async function once(kind, ask) {
  asking[kind]?.abort();
  const { signal } = (asking[kind] = new AbortController());
  const note = (text) => {
    problems[kind] = text;
    say($("problem"), [...new Set(Object.values(problems).filter(Boolean))].join(" · "));
  };
  try {
    const answer = await ask(signal);
    if (signal.aborted) return null;
    note("");
    return answer;
  } catch (error) {
    if (error.name !== "AbortError" && error.status !== 0) note(error.message);
    return null;
  }
}

async function loadRun(version = null) {
  const found = await once("run", (signal) => getRun(name, { version }, signal));
  if (found === null) return;
  run = found;
  showFacts(run);
  showAdvice($("advice"), run);
  $("advice").ariaBusy = "false";
  showFindings(run);
  showAbout($("about"), run);
  showControls();
}

async function loadCurves(version = null) {
  const scope = address.get("scope");
  const found = await once("curves", (signal) => getHallmarks(name, { scope, version }, signal));
  if (found === null) return;
  told = found;
  numbers = told.path;
  showTau();
  showBehind();
  await showCurves();
}

async function loadMap(version = null) {
  const query = { ...wanted(), version };
  $("map-panel").ariaBusy = "true";
  const found = await once("map", (signal) => getMap(name, query, signal));
  if (found === null) return;
  await showMap(found);
  $("map-panel").ariaBusy = "false";
}

async function showMap(found) {
  const low = lowEnd();
  const scale = chooseScale([found], address.get("scale"), low === "" ? null : Number(low));
  const relative = found.relative_to !== null;
  $("map-title").textContent =
    `${relative ? "Relative trajectory map" : "Trajectory map"} · ${scopeWords(address.get("scope"))}`;
  $("map-omega").textContent = omegaWords(found);
  fill(
    $("map-notes"),
    notes(found).map((text) => el("span", {}, text)),
  );
  await map.show(found, { scale, phases: run?.phases, findings: networkFindings(), name });
  const query = mapQuery(wanted());
  const path = `${runPath(name)}/map`;
  const label = [name, address.get("scope"), ...(relative ? [`about-${found.relative_to}`] : [])];
  saveMenu($("map-save"), [
    ["PNG", () => plotFile($("map"), "png", ...label)],
    ["SVG", () => plotFile($("map"), "svg", ...label)],
    ["Data (.npz, all checkpoints)", link(path, { ...query, format: "npz" })],
    ["Data (JSON)", link(path, { ...query, format: "json" })],
  ]);
}

function notes(found) {
  const said = [];
  if (found.reduced)
    said.push(
      `${found.reduced.from} checkpoints, shown as ${found.reduced.to}: each entry is the mean over ${found.reduced.block} × ${found.reduced.block}.`,
    );
  if (found.error?.some((value) => value > 0)) said.push("Entries with ± are estimated from sketches.");
  const undefinedEntries = found.values.reduce((sum, value) => sum + Number(Number.isNaN(value)), 0);
  if (undefinedEntries) said.push(`${undefinedEntries} of ${found.n * found.n} entries are undefined (sand).`);
  if (run && rateChanges(run.phases).length) said.push("Dotted lines: the learning rate changed.");
  if (found.mode?.some((value) => value)) said.push("Crimson lines: training switched to norm-only, or back.");
  if (!found.n) said.push("No checkpoints yet.");
  return said;
}

const networkFindings = () => run?.findings ?? [];

async function showCurves() {
  if (told === null) return;
  const scope = address.get("scope");
  const data = ["csv", "arrow", "json"].map((format) => [
    `Data (${format === "arrow" ? "Arrow" : format.toUpperCase()})`,
    link(`${runPath(name)}/hallmarks`, { scope, format }),
  ]);
  const axis = address.get("axis") in AXES ? address.get("axis") : "checkpoint";
  await curves.show([{ name, told, slot: 1 }], {
    axis,
    behind: behind(),
    phases: run?.phases ?? [],
    findings: networkFindings(),
    data,
  });
}

function behind() {
  const chosen = address.get("behind");
  if (chosen === "none") return null;
  const metrics = Object.keys(told.metrics);
  const metric =
    chosen === "auto"
      ? (metrics.find((one) => one === "loss") ?? metrics.find((one) => one.includes("loss")) ?? metrics[0])
      : chosen.replace(/^metric:/, "");
  return { rate: true, metric: chosen === "rate" ? null : metric };
}

function showControls() {
  const groups = run.groups.map(({ name: group }) =>
    group === "network" ? ["network", "network"] : [`group:${group}`, group],
  );
  const layers = run.layers.map(({ name: layer }) => [`layer:${layer}`, layer]);
  options(
    $("scope"),
    [
      { label: "groups", options: groups },
      { label: "layers", options: layers },
    ],
    address.get("scope"),
  );
  $("superseded-label").hidden = !run.superseded;
  restore();
}

function showBehind() {
  const entries = [
    ["auto", "learning rate and loss"],
    ["rate", "learning rate"],
    ...Object.keys(told.metrics).map((one) => [`metric:${one}`, one]),
    ["none", "nothing"],
  ];
  options($("behind"), entries, address.get("behind"));
}

function showTau() {
  $("tau").max = numbers.length - 1;
  const tau = wanted().tau;
  $("tau").value = tau === null ? -1 : numbers.indexOf(Number(tau));
  tauWords();
}

function tauWords() {
  const at = Number($("tau").value);
  const about =
    at < 0
      ? "about the origin"
      : numbers[at] === 0
        ? "about the initialization (τ = 0)"
        : `about checkpoint τ = ${numbers[at]}`;
  $("tau-words").textContent = about;
  $("tau").setAttribute("aria-valuetext", about);
}

function restore() {
  if (run) $("scope").value = address.get("scope");
  for (const id of ["kernel", "scale", "axis"]) $(id).value = address.get(id);
  $("low").value = lowEnd();
  $("superseded").checked = address.get("superseded") === "true";
  for (const panel of panels) panel.restore(address);
  // Kernels other than the linear one know no relative map.
  $("kernel").disabled = wanted().tau !== null;
  $("tau").disabled = wanted().kernel !== "linear";
}

const slid = later(() => loadMap(), 60);
$("tau").addEventListener("input", () => {
  const at = Number($("tau").value);
  address.set({ tau: at < 0 ? "" : numbers[at] });
  tauWords();
  restore();
  slid();
});
const changed = (id, action) =>
  $(id).addEventListener("change", () => {
    const value = $(id).type === "checkbox" ? ($(id).checked ? "true" : "") : $(id).value;
    address.set({ [id]: value }, { push: true });
    restore();
    action();
  });
changed("scope", () => loadAll());
changed("kernel", () => loadMap());
changed("superseded", () => loadMap());
changed("scale", () => map.map && showMap(map.map));
changed("low", () => map.map && showMap(map.map));
changed("axis", () => showCurves());
changed("behind", () => showCurves());
for (const panel of panels) panel.onToggle(address);

const loadPanels = (version) => panels.forEach((panel) => panel.load(address.get("scope"), run, version));
let turn = 0;
/** The map first: of a long run, curves take the server longer, and the page too. */
async function loadAll(version = null) {
  const mine = ++turn;
  asking.curves?.abort();
  for (const load of [loadMap, loadCurves, loadPanels]) {
    if (mine !== turn) return;
    await load(version);
  }
}

const slide = (by) => {
  $("tau").value = Number($("tau").value) + by;
  $("tau").dispatchEvent(new Event("input"));
};
keys([
  ["[", "τ one checkpoint back", () => slide(-1)],
  ["]", "τ one checkpoint on", () => slide(1)],
  ["o", "about the origin", () => slide(-numbers.length - 1)],
  ["m", "to the map; then arrow keys move its cursor (Shift: by 10)", () => $("map").focus()],
  ["l", "layers", () => (location.href = `/runs/${encodeURIComponent(name)}/layers`)],
]);
address.onMove(() => {
  restore();
  showTau();
  loadAll();
});
restore();
await loadRun();
await loadAll();
document.body.dataset.ready = "true";
let seen = 0;
const refresh = async (event) => {
  const same = event.revision === seen;
  seen = event.revision;
  await loadRun(event.version);
  if (!same) await loadAll(event.version);
};
follow(name, refresh);
onReturn(async () => {
  await loadRun();
  await loadAll();
});
