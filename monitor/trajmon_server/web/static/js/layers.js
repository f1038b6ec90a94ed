// All layers of a run: small maps by kind and depth, the tree of their names, and which groups settle last.
import { $, el, fill, later, say } from "./dom.js";
import { Address } from "./address.js";
import { address as link, getLayers, getMap, getRun, mapQuery, runPath } from "./api.js";
import { chooseScale, paint } from "./colors.js";
import { showBar } from "./colorbar.js";
import { onReturn } from "./connection.js";
import { keys } from "./keys.js";
import { follow } from "./live.js";
import { MapPlot, omegaWords } from "./map.js";
import { plotFile, saveMenu } from "./save.js";
import { STILL_AHEAD, settledRow } from "./settling.js";
import { sheet } from "./sheet.js";
import { fits, showTree } from "./tree.js";
import { fileName, fixed, whole } from "./words.js";

const SMALL = 48;
const GROUP_SIZE = 200;
const MOST_GROUPS = 40;
const GROUPS_AT_ONCE = 3;
const GROUPS_EVERY_MS = 10_000;
const KINDS = ["attention.qkv", "attention", "mlp", "conv", "linear", "embedding", "head", "norm", "other"];

const name = document.body.dataset.run;
const address = new Address({ filter: "", scale: "common", order: "depth", size: "88", layer: "" });
const large = new MapPlot($("large-map"), $("large-readout"));
let layers = [];
let told = null;
let run = null;
let tiles = [];
let groupsAt = -Infinity;

async function load(version = null) {
  try {
    [told, run] = await Promise.all([getLayers(name, { size: SMALL, version }), getRun(name, { version })]);
    say($("problem"), "");
  } catch (error) {
    if (error.status !== 0) say($("problem"), error.message);
    return;
  }
  layers = told.layers.map((layer, index) => {
    const values = told.maps[index];
    const row = settledRow(values, told.n);
    return { ...layer, index, values, n: told.n, settled: row === null ? null : told.checkpoint[row] };
  });
  showTree(
    $("tree"),
    layers.map((layer) => layer.name),
    { onLayer: enlarge, onBranch: (pattern) => setFilter(pattern) },
  );
  show();
  saveMenus();
  if (performance.now() - groupsAt > GROUPS_EVERY_MS) await showGroups(version);
}

function show() {
  const shown = layers.filter((layer) => fits(layer.name, address.get("filter")));
  $("count").textContent =
    shown.length === layers.length ? whole(layers.length) : `${whole(shown.length)} of ${whole(layers.length)}`;
  say($("empty"), shown.length ? "" : layers.length ? "No layer fits the pattern." : "No layers.");
  document.documentElement.style.setProperty("--tile", `${Number(address.get("size")) || 88}px`);
  const common = chooseScale(shown, "fixed");
  const each = address.get("scale") === "each";
  const someUndefined = shown.some(({ values }) => values.some(Number.isNaN));
  $("bar").hidden = each || !shown.length;
  showBar($("bar"), common, "cosine", someUndefined);
  tiles = [];
  const scaleOf = (layer) => (each ? chooseScale([layer], "fixed") : common);
  fill(
    $("kinds"),
    sections(shown).map(([title, rows]) => section(title, rows, scaleOf)),
  );
  $("kinds").ariaBusy = "false";
}

/** [title, [[row's label, layers]]]: kinds with a row for each role over depth, or one list in another order. */
function sections(shown) {
  const order = address.get("order");
  const last = (value, low) => (value === null || value === undefined ? low : value);
  if (order === "settled")
    return [["Settles last first", [["", shown.toSorted((a, b) => last(b.settled, -1) - last(a.settled, -1))]]]];
  if (order === "mds")
    return [["Lowest ω first", [["", shown.toSorted((a, b) => last(a.hallmarks.mds, 2) - last(b.hallmarks.mds, 2))]]]];
  const kinds = new Map(KINDS.map((kind) => [kind, []]));
  for (const layer of shown) (kinds.get(layer.kind) ?? kinds.get("other")).push(layer);
  return [...kinds]
    .filter(([, found]) => found.length)
    .map(([kind, found]) => [kind, byRole(found.toSorted((a, b) => a.depth - b.depth || a.index - b.index))]);
}

function byRole(found) {
  const roles = new Map();
  for (const layer of found) roles.set(layer.role, [...(roles.get(layer.role) ?? []), layer]);
  const rows = [...roles].filter(([, members]) => members.length > 1);
  const single = found.filter(({ role }) => roles.get(role).length === 1);
  return single.length ? [...rows, [rows.length ? "once" : "", single]] : rows;
}

function section(title, rows, scaleOf) {
  const total = rows.reduce((sum, [, members]) => sum + members.length, 0);
  return el(
    "section",
    { className: "kind", "data-kind": title },
    el("h2", {}, title, el("span", { className: "dim" }, ` ${whole(total)}`)),
    el(
      "div",
      { className: "roles" },
      rows.map(([label, members]) =>
        el(
          "div",
          { className: "role" },
          label ? el("h3", { title: label }, label) : null,
          el(
            "div",
            { className: "tiles" },
            members.map((layer) => tile(layer, scaleOf(layer), label)),
          ),
        ),
      ),
    ),
  );
}

/** Below the role's name, what stands for its stars: `* = 3`. */
function caption({ name, role }, label) {
  return label === role && role.includes("*") ? `* = ${name.match(/\d+/g).join(", ")}` : name;
}

function tile(layer, scale, label) {
  const canvas = el("canvas", { className: "small" });
  paint(canvas, layer.values, layer.n, scale);
  const omega = `ω ${fixed(layer.hallmarks.mds)}`;
  const settled = layer.settled === null ? "" : `, settled from checkpoint ${layer.settled}`;
  const button = el(
    "button",
    {
      type: "button",
      className: "tile",
      "data-layer": layer.name,
      title: `${layer.name}\n${omega}${settled}`,
      "aria-label": `${layer.name}, ${omega}${settled}`,
    },
    canvas,
    el("span", { className: "tile-name" }, el("bdi", {}, caption(layer, label))),
    el("span", { className: "tile-omega" }, omega),
  );
  button.addEventListener("click", () => enlarge(layer.name));
  tiles.push({ canvas, name: layer.name, words: omega });
  return button;
}

async function enlarge(layer) {
  address.set({ layer }, { push: true });
  const scope = `layer:${layer}`;
  $("large-title").textContent = layer;
  $("large-omega").textContent = "";
  $("large-notes").textContent = "";
  $("large-open").href = `/runs/${encodeURIComponent(name)}?${new URLSearchParams({ scope })}`;
  if (!$("large").open) $("large").showModal();
  $("large").ariaBusy = "true";
  try {
    const map = await getMap(name, { scope });
    if (address.get("layer") !== layer) return;
    $("large-omega").textContent = omegaWords(map);
    await large.show(map, {
      scale: chooseScale([map], "fixed"),
      phases: run?.phases,
      findings: run?.findings,
      name: layer,
    });
    saveMenu($("large-save"), [
      ["PNG", () => plotFile($("large-map"), "png", name, layer)],
      ["SVG", () => plotFile($("large-map"), "svg", name, layer)],
      ["Data (.npz)", link(`${runPath(name)}/map`, { ...mapQuery({ scope }), format: "npz" })],
    ]);
    const known = layers.find((one) => one.name === layer);
    if (known)
      $("large-notes").textContent = [
        `${known.kind}, depth ${known.depth}`,
        known.settled === null ? "" : `settled from checkpoint ${known.settled}`,
      ]
        .filter(Boolean)
        .join(" · ");
  } catch (error) {
    $("large-notes").textContent = error.message;
  }
  $("large").ariaBusy = "false";
}

async function showGroups(version) {
  groupsAt = performance.now();
  const groups = run.groups.slice(0, MOST_GROUPS);
  const found = [];
  const queue = [...groups];
  const worker = async () => {
    for (let group = queue.shift(); group; group = queue.shift()) {
      const map = await getMap(name, {
        scope: group.name === "network" ? "network" : `group:${group.name}`,
        size: GROUP_SIZE,
        version,
      }).catch(() => null);
      if (map === null) continue;
      const row = settledRow(map.values, map.n);
      found.push({
        group: group.name,
        settled: row === null ? null : map.checkpoint[row],
        mean: map.mean,
        last: map.checkpoint.at(-1) ?? 0,
      });
    }
  };
  await Promise.all(Array.from({ length: GROUPS_AT_ONCE }, worker));
  found.sort((a, b) => (b.settled ?? -1) - (a.settled ?? -1) || a.group.localeCompare(b.group));
  $("settled-words").textContent =
    `First checkpoint from which at most ${100 * STILL_AHEAD} % of a group's change of direction was still ahead; the later, the longer it moved. A measure of trajmon, not of the paper; as of the last checkpoint so far.`;
  fill(
    $("settled"),
    found.map(({ group, settled, last, mean }) => {
      const bar = el("span", { className: "fill" });
      bar.style.width = `${settled === null || !last ? 0 : (100 * settled) / last}%`;
      const scope = group === "network" ? "network" : `group:${group}`;
      return el(
        "li",
        { "data-group": group, "data-settled": settled },
        el(
          "a",
          { href: `/runs/${encodeURIComponent(name)}?${new URLSearchParams({ scope })}`, title: `ω ${fixed(mean)}` },
          group,
        ),
        el("span", { className: "track" }, bar),
        el("span", { className: "number" }, settled === null ? "–" : String(settled)),
      );
    }),
  );
  $("settled").ariaBusy = "false";
}

function saveMenus() {
  const save = (format) => async () => ({
    blob: await sheet(`${name}: ${tiles.length} layers`, tiles, format),
    name: `${fileName(name, "layers")}.${format}`,
  });
  saveMenu($("layers-save"), [
    ["PNG of all shown", save("png")],
    ["SVG of all shown", save("svg")],
    ["Data (JSON)", link(`${runPath(name)}/layers`, { size: SMALL })],
  ]);
}

function restore() {
  for (const id of ["filter", "scale", "order", "size"]) $(id).value = address.get(id);
}

function setFilter(pattern) {
  address.set({ filter: pattern });
  restore();
  show();
}

$("filter").addEventListener(
  "input",
  later(() => setFilter($("filter").value), 120),
);
for (const id of ["scale", "order", "size"]) {
  $(id).addEventListener("input", () => {
    address.set({ [id]: $(id).value });
    show();
  });
}
$("large-close").addEventListener("click", () => $("large").close());
$("large").addEventListener("close", () => {
  address.set({ layer: "" });
  large.clear();
});
$("large").addEventListener("click", (event) => event.target === $("large") && $("large").close());
keys([
  ["/", "pattern", () => $("filter").focus()],
  ["r", "back to the run", () => (location.href = `/runs/${encodeURIComponent(name)}`)],
]);
const openLayer = () => {
  const layer = address.get("layer");
  if (layer) enlarge(layer);
  else if ($("large").open) $("large").close();
};
address.onMove(() => {
  restore();
  show();
  openLayer();
});
restore();
await load();
openLayer();
document.body.dataset.ready = "true";
let seen = 0;
follow(name, async ({ revision, version }) => {
  if (revision !== seen) {
    seen = revision;
    await load(version);
  }
});
onReturn(() => load());
