// The advice as a trainer reads it: what to do, why, what would have to happen for it to change.
import { el, fill } from "./dom.js";
import { UNDEFINED, short, whole } from "./words.js";

/** What each word means, in one line. */
export const ADVICE = {
  explore: { title: "Train everything", meaning: "The parameters are still on their way." },
  candidate: {
    title: "Nearly settled",
    meaning: "The forecast is small for the first time; go on until it is confirmed.",
  },
  switch: {
    title: "Switch to norm-only training",
    meaning: "From here, training only the scalars of the normalisation layers should cost little.",
  },
  resume: { title: "Train everything again", meaning: "Since the switch the direction has begun to move again." },
  unknown: { title: "No advice", meaning: "Nothing can be said from what is there." },
};

const percent = (value) => (Number.isFinite(value) ? `${(100 * value).toPrecision(value < 0.1 ? 2 : 3)} %` : UNDEFINED);

const ofTheWay = (value) => `${percent(value)} of the way so far`;

// By the names that policies give their evidence; another name is shown as it is. What is in the objective's own unit
// has none here.
const EVIDENCE = {
  forecast_remaining_displacement: ["Way still ahead", ofTheWay],
  forecast_low: ["at least, by its standard error", ofTheWay],
  forecast_high: ["at most, by its standard error", ofTheWay],
  threshold: ["A switch is advised under", percent],
  resume_threshold: ["It is taken back over", percent],
  low_forecasts_in_a_row: ["Forecasts under it in a row", whole],
  settled_in_a_row: ["Checkpoints settled in a row", whole],
  forecast_drift: ["of the way ahead, steady drift", percent],
  forecast_noise: ["of the way ahead, noise", percent],
  expected_gain: ["What full training would still gain of the objective", short],
  expected_gain_high: ["at most, by its standard error", short],
  objective_tolerance: ["A switch may cost of the objective", short],
  objective_rise: ["The objective is worse since the switch by", short],
  rate_ahead_ratio: ["Mean learning rate ahead, over the present one", percent],
  last_update_relative: ["Last update, as part of the way so far", percent],
  horizon_steps: ["Steps that the forecast looks ahead", whole],
  mds: ["MDS ω of the network", (v) => v.toFixed(4)],
  relative_mds: ["relative MDS ω₀ of the network", (v) => v.toFixed(4)],
};

const BASELINES = {
  planned_fraction: ["Part of the planned steps that is done", percent],
  look_back_one_minus_cosine: ["One minus the cosine with the checkpoint before", short],
  update_norm_change: ["Change of the updates' size since the last one", percent],
  effective_perturbation: ["Effective perturbation of the last updates", short],
};

function planWords({ steps_ahead: steps, rates_are_known: rates, objective, larger_is_better: larger }) {
  const parts = [];
  if (steps !== null) parts.push(`${whole(steps)} steps ahead, learning rates ${rates ? "known" : "not known"}`);
  if (objective) parts.push(`for ${objective}, ${larger ? "larger" : "smaller"} is better`);
  return `Planned: ${parts.join("; ")}.`;
}

/** Which groups have settled, in which order, and how far the others still have to go. */
function outlookTable(outlooks) {
  if (!outlooks.length) return null;
  const rows = outlooks.map(({ group, remaining, low, high, settled_since: since }) =>
    el(
      "tr",
      { "data-outlook": group },
      el("th", { scope: "row" }, group),
      el("td", {}, `${percent(remaining)} (${percent(low)} to ${percent(high)})`),
      el("td", {}, since === null ? "" : `settled since checkpoint ${whole(since)}`),
    ),
  );
  return [
    el("p", { className: "notes" }, "Groups, by their own forecast: way still ahead, as part of the way so far"),
    el("table", { className: "plain", "aria-label": "Groups, by their own forecast" }, el("tbody", {}, rows)),
  ];
}

/** A badge with the word, coloured by it. */
export const adviceBadge = (state) =>
  el(
    "span",
    {
      className: `badge advice-${state in ADVICE ? state : "unknown"}`,
      title: (ADVICE[state] ?? ADVICE.unknown).meaning,
    },
    state,
  );

/** Fill an element with the advice, its evidence and its history. `last`: newest checkpoint. */
export function showAdvice(parent, run) {
  const { advice, history = [], outlooks = [], plan = null } = run;
  const known = ADVICE[advice.state] ?? ADVICE.unknown;
  const evidence = Object.entries(advice.evidence);
  const order = Object.keys(EVIDENCE);
  evidence.sort(([a], [b]) => (order.indexOf(a) + 1 || 99) - (order.indexOf(b) + 1 || 99));
  const rows = evidence.map(([name, value]) => {
    const [words, format] = EVIDENCE[name] ?? BASELINES[name] ?? [name, (v) => short(v)];
    return el("tr", {}, el("th", { scope: "row" }, words), el("td", { "data-evidence": name }, format(value)));
  });
  const open = parent.querySelector("details")?.open ?? false;
  parent.dataset.state = advice.state;
  fill(
    parent,
    el(
      "div",
      { className: "advice-head" },
      adviceBadge(advice.state),
      el("strong", {}, known.title),
      el("span", { className: "dim" }, `as of checkpoint ${whole(advice.checkpoint)}`),
    ),
    el("p", { className: "advice-words" }, advice.reason || known.meaning),
    timeline(history, run),
    rows.length || outlooks.length || plan
      ? el(
          "details",
          { open },
          el("summary", {}, "Evidence"),
          rows.length ? el("table", { className: "plain" }, el("tbody", {}, rows)) : null,
          plan ? el("p", { className: "notes plan" }, planWords(plan)) : null,
          outlookTable(outlooks),
          el("p", { className: "notes" }, `Policy ${advice.policy}. A forecast, not a measurement.`),
        )
      : null,
  );
}

function timeline(history, run) {
  if (!history.length) return null;
  const end = Math.max(run.advice.checkpoint, history.at(-1).checkpoint) + 1;
  const parts = history.map(({ checkpoint, state }, at) => ({
    state,
    from: checkpoint,
    to: history[at + 1]?.checkpoint ?? end,
  }));
  const bar = el("div", { className: "timeline", "aria-hidden": "true" });
  for (const { state, from, to } of parts) {
    const part = el("span", {
      className: `advice-${state in ADVICE ? state : "unknown"}`,
      title: `${state}: ${from} to ${to - 1}`,
    });
    part.style.flexGrow = Math.max(to - from, 0.001);
    bar.append(part);
  }
  const shown = parts.length > 8 ? parts.slice(-8) : parts;
  const words = shown.map(
    ({ state, from, to }, at) =>
      `${state} ${at === shown.length - 1 ? `from ${from}` : to - 1 > from ? `${from}–${to - 1}` : from}`,
  );
  return el(
    "div",
    { className: "history" },
    bar,
    el("p", { className: "notes" }, `${parts.length > 8 ? "… · " : ""}${words.join(" · ")}`),
  );
}
