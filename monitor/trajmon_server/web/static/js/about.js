// What is known of a run beside its curves: facts in its head, findings as warnings, how its agents do.
import { $, el, fill } from "./dom.js";
import { ago, count, estimate, moment, short, whole } from "./words.js";

const FINDINGS = {
  identical_checkpoints: "Twice the same checkpoint",
  origin_not_initialization: "Checkpoint 0 may not be the initialization",
  off_neighbours: "A checkpoint far off its neighbours",
  non_finite: "NaN or Inf, or missing",
};
const SHOWN_FINDINGS = 6;

/** The line of facts under the name. */
export function showFacts(run) {
  $("phase").className = `badge phase-${run.phase}`;
  $("phase").textContent = run.phase;
  $("phase").title = run.reason;
  fill(
    $("tags"),
    run.tags.map((tag) => el("a", { className: "chip", href: `/?${new URLSearchParams({ tag })}` }, tag)),
  );
  const facts = [
    ["checkpoints", whole(run.checkpoints)],
    ["MDS ω", estimate(run.mds, run.mds_error, 4)],
    ["last step", whole(run.last_step)],
    ["last heard", ago(run.last_time), moment(run.last_time)],
    ["parameters", count(run.parameters)],
    ["layers", whole(run.layers.length)],
  ];
  if (run.mode === "norm_only") facts.push(["training", "norm-only"]);
  if (run.snapshot_mode && !["exact", "unspecified"].includes(run.snapshot_mode))
    facts.push(["snapshots", run.snapshot_mode]);
  if (run.open) facts.push(["open", whole(run.open), "checkpoints of which some ranks' parts are missing"]);
  if (run.superseded) facts.push(["superseded", whole(run.superseded), "checkpoints that a restart replaced"]);
  if (run.attempt > 1) facts.push(["attempt", whole(run.attempt)]);
  fill(
    $("facts"),
    facts.map(([name, value, title]) => el("div", { title }, el("dt", {}, name), el("dd", {}, value))),
  );
}

/** Warnings: what is wrong with the run itself, then findings at the checkpoints they concern. */
export function showFindings(run) {
  const warnings = [];
  if (run.failure) warnings.push(["The server gave up on this run", run.failure]);
  if (run.reason && run.phase !== "running") warnings.push([`The run is ${run.phase}`, run.reason]);
  if (run.agent.checkpoints_skipped)
    warnings.push([
      "Checkpoints were skipped",
      `${run.agent.checkpoints_skipped} could not be recorded; training went on.`,
    ]);
  for (const { kind, checkpoint, text } of run.findings) warnings.push([FINDINGS[kind] ?? kind, text, checkpoint]);
  for (const { checkpoint, layers } of run.non_finite ?? []) {
    const names = layers.slice(0, 3).join(", ") + (layers.length > 3 ? ` and ${layers.length - 3} more` : "");
    warnings.push(["Layers with NaN or Inf", `Checkpoint ${checkpoint}: ${names}.`, checkpoint]);
  }
  const rows = warnings.map(([title, text, checkpoint]) =>
    el("li", { "data-checkpoint": checkpoint }, el("strong", {}, title), " ", text),
  );
  const rest = rows.splice(SHOWN_FINDINGS);
  const open = $("findings").querySelector("details")?.open ?? false;
  fill(
    $("findings"),
    el("ul", {}, rows),
    rest.length ? el("details", { open }, el("summary", {}, `${rest.length} more`), el("ul", {}, rest)) : null,
  );
  $("findings").hidden = !warnings.length;
}

/** Everything else: learning rates, missing parts, agents. */
export function showAbout(parent, run) {
  const { agent } = run;
  const rows = [
    ["id", run.id],
    ["begun", moment(run.created)],
    ["phase", [run.phase, run.reason].filter(Boolean).join(": ")],
    ["attempt", whole(run.attempt)],
    ["snapshots", run.snapshot_mode],
    ["sketch", run.sketch ? `version ${run.sketch.version}, ${run.sketch.bins} bins, seed ${run.sketch.seed}` : null],
    ["recorded by the agents", whole(agent.checkpoints_recorded)],
    ["on their way", whole(agent.checkpoints_pending)],
    ["not yet computed", whole(agent.checkpoints_uncomputed)],
    ["skipped", whole(agent.checkpoints_skipped)],
    ["agent restarts", whole(agent.agent_restarts)],
    ["agent behind by", agent.lag_seconds === null ? null : `${short(agent.lag_seconds, 2)} s`],
  ];
  const table = (body) => el("table", { className: "plain" }, el("tbody", {}, body));
  const line = ([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value));
  const phases = run.phases.map(({ start, stop, learning_rate }) =>
    line([`checkpoints ${start}–${stop}`, short(learning_rate)]),
  );
  const missing = (run.missing ?? []).map(({ checkpoint, num_parts, missing_parts }) =>
    line([`checkpoint ${checkpoint}`, `waits for parts ${missing_parts.slice(0, 12).join(", ")} of ${num_parts}`]),
  );
  fill(
    parent,
    table(rows.filter(([, value]) => value !== null).map(line)),
    phases.length
      ? [el("h3", {}, "Learning rate"), table(phases)]
      : el("p", { className: "notes" }, `Learning rate: ${run.schedule}.`),
    missing.length ? [el("h3", {}, "Open checkpoints"), table(missing)] : null,
  );
}
