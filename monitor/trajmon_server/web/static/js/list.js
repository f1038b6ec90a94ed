// The list of runs.
import { $, el, fill, later, say, svg } from "./dom.js";
import { Address } from "./address.js";
import { adviceBadge } from "./advice.js";
import { getRuns } from "./api.js";
import { keys } from "./keys.js";
import { repeat } from "./live.js";
import { ago, count, estimate, moment, whole } from "./words.js";

const PAGE = 200;
const REPEAT_SECONDS = 5;
const SPARK = { width: 120, height: 24 };

const address = new Address({ search: "", phase: "", tag: [] });
const picked = new Set();
let asking = null;
let pages = 1;

async function load() {
  asking?.abort();
  const { signal } = (asking = new AbortController());
  const query = { search: address.get("search"), phase: address.get("phase"), tag: address.get("tag"), limit: PAGE };
  try {
    const runs = [];
    let cursor = null;
    for (let page = 0; page < pages; page++) {
      const answer = await getRuns({ ...query, cursor }, signal);
      runs.push(...answer.runs);
      cursor = answer.next_cursor;
      if (cursor === null) break;
    }
    show(runs, cursor !== null);
    say($("problem"), "");
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status !== 0) say($("problem"), error.message);
  }
}

function show(runs, more) {
  const focused = document.activeElement?.closest?.("tr")?.dataset.run;
  fill($("rows"), runs.map(row));
  if (focused !== undefined)
    $("rows")
      .querySelector(`tr[data-run="${CSS.escape(focused)}"] a`)
      ?.focus();
  $("rows").ariaBusy = "false";
  $("count").textContent = `${whole(runs.length)}${more ? "+" : ""}`;
  $("more").hidden = !more;
  const searching = address.get("search") || address.get("phase") || address.get("tag").length;
  say(
    $("empty"),
    runs.length
      ? ""
      : searching
        ? "No run fits."
        : "No runs yet. A training that is watched shows up here with its first checkpoint.",
  );
  showTags(runs);
}

function row(run) {
  const path = `/runs/${encodeURIComponent(run.name)}`;
  const pick = el("input", { type: "checkbox", checked: picked.has(run.name), "aria-label": `Compare ${run.name}` });
  pick.addEventListener("change", () => {
    if (pick.checked) picked.add(run.name);
    else picked.delete(run.name);
    showPicked();
  });
  const why = run.reason ? { title: run.reason } : {};
  const still = [run.open ? `${run.open} open` : "", run.superseded ? `${run.superseded} superseded` : ""]
    .filter(Boolean)
    .join(", ");
  return el(
    "tr",
    { "data-run": run.name },
    el("td", { className: "pick" }, pick),
    el(
      "th",
      { scope: "row" },
      el("a", { href: path }, run.name),
      run.tags.map((tag) => el("span", { className: "tag" }, tag)),
    ),
    el(
      "td",
      {},
      el("span", { className: `badge phase-${run.phase}`, ...why }, run.phase),
      run.mode === "norm_only" ? el("span", { className: "tag" }, "norm-only") : null,
    ),
    el("td", {}, run.checkpoints ? adviceBadge(run.advice.state) : null),
    el("td", { className: "number", "data-value": run.mds }, estimate(run.mds, run.mds_error)),
    el("td", {}, sparkline(run.sparkline)),
    el(
      "td",
      { className: "number", title: still },
      whole(run.checkpoints),
      still ? el("span", { className: "dim" }, " *") : null,
    ),
    el("td", { className: "number" }, whole(run.last_step)),
    el("td", { className: "number", title: moment(run.last_time) }, ago(run.last_time)),
    el("td", { className: "number" }, count(run.parameters)),
  );
}

/** A curve of values, null where undefined, as an SVG of fixed size. */
export function sparkline(values) {
  const known = values.filter((value) => value !== null);
  if (!known.length) return el("span", { className: "dim" }, "–");
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const x = (at) => 2 + ((SPARK.width - 4) * at) / Math.max(1, values.length - 1);
  const y = (value) => (most > least ? 2 + ((SPARK.height - 4) * (most - value)) / (most - least) : SPARK.height / 2);
  let path = "";
  values.forEach((value, at) => {
    if (value === null) return;
    path += `${at && values[at - 1] !== null ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
  });
  const last = values.findLastIndex((value) => value !== null);
  const title = svg("title");
  title.textContent = `${least.toFixed(3)} to ${most.toFixed(3)}`;
  return svg(
    "svg",
    {
      class: "spark",
      viewBox: `0 0 ${SPARK.width} ${SPARK.height}`,
      width: SPARK.width,
      height: SPARK.height,
      role: "img",
    },
    title,
    svg("path", { d: path }),
    svg("circle", { cx: x(last), cy: y(values[last]), r: 2 }),
  );
}

function showTags(runs) {
  const chosen = address.get("tag");
  const all = [...new Set([...chosen, ...runs.flatMap(({ tags }) => tags)])].sort().slice(0, 40);
  fill(
    $("tags"),
    all.map((tag) => {
      const on = chosen.includes(tag);
      const chip = el("button", { type: "button", className: "chip", "aria-pressed": String(on) }, tag);
      chip.addEventListener("click", () => {
        address.set({ tag: on ? chosen.filter((one) => one !== tag) : [...chosen, tag] }, { push: true });
        load();
      });
      return chip;
    }),
  );
}

function showPicked() {
  $("compare").disabled = picked.size < 1;
  $("compare").textContent = picked.size ? `Compare ${picked.size}` : "Compare";
}

function restore() {
  $("search").value = address.get("search");
  $("phase").value = address.get("phase");
}

const typed = later(() => {
  pages = 1;
  address.set({ search: $("search").value });
  load();
}, 150);
$("search").addEventListener("input", typed);
$("phase").addEventListener("change", () => {
  pages = 1;
  address.set({ phase: $("phase").value }, { push: true });
  load();
});
$("more").addEventListener("click", () => {
  pages += 1;
  load();
});
$("compare").addEventListener("click", () => {
  location.href = `/compare?${new URLSearchParams([...picked].map((name) => ["run", name]))}`;
});
const walk = (by) => {
  const links = [...$("rows").querySelectorAll("th a")];
  const at = links.indexOf(document.activeElement);
  links[Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
};
keys([
  ["/", "search", () => $("search").focus()],
  ["j", "next run", () => walk(1)],
  ["k", "run before", () => walk(-1)],
]);
address.onMove(() => {
  restore();
  load();
});
restore();
await load();
repeat(load, REPEAT_SECONDS);
