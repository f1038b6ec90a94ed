// Numbers and names as people read them. Undefined is a dash, never 0.

export const UNDEFINED = "–";

const defined = (value) => typeof value === "number" && Number.isFinite(value);

/** A number with so many digits after the point. */
export const fixed = (value, digits = 3) =>
  defined(value) ? value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "") : UNDEFINED;

/** A number with so many significant digits; powers of ten where it needs them. */
export function short(value, digits = 4) {
  if (!defined(value)) return UNDEFINED;
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-4
    ? value.toExponential(digits - 1).replace("e+", "e")
    : String(Number(value.toPrecision(digits)));
}

/** A whole number with thin spaces between thousands. */
export const whole = (value) => (defined(value) ? String(value).replace(/\B(?=(\d{3})+$)/g, "\u2009") : UNDEFINED);

/** A number of parameters: 1.2 M. */
export function count(value) {
  if (!defined(value)) return UNDEFINED;
  for (const [size, unit] of [
    [1e12, "T"],
    [1e9, "B"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))}\u2009${unit}`;
  }
  return String(value);
}

/** A value with its standard error; the error's first two digits decide how many are shown. */
export function estimate(value, error, digits = 3) {
  if (!defined(value)) return UNDEFINED;
  if (!defined(error) || error <= 0) return fixed(value, digits);
  const needed = Math.min(10, Math.max(digits, 1 - Math.floor(Math.log10(error))));
  return `${value.toFixed(needed)} ± ${error.toFixed(needed)}`;
}

/** How long ago, in the largest unit that fits. */
export function ago(unixSeconds, now = Date.now() / 1000) {
  if (!defined(unixSeconds)) return UNDEFINED;
  const seconds = Math.max(0, now - unixSeconds);
  return seconds < 5 ? "now" : `${span(seconds)} ago`;
}

/** A length of time in its largest unit. */
export function span(seconds) {
  if (!defined(seconds)) return UNDEFINED;
  for (const [size, unit] of [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
  ]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

/** Date and time of day in the reader's zone. */
export const moment = (unixSeconds) =>
  defined(unixSeconds) ? new Date(unixSeconds * 1000).toLocaleString() : UNDEFINED;

/** A name in a file's name: what is not a letter, digit, point or dash becomes a dash. */
export const fileName = (...parts) =>
  parts
    .join("-")
    .replace(/[^\p{L}\p{N}._-]+/gu, "-")
    .slice(0, 120);

/** Text for plotly.js, which reads some tags in titles and names: none of them is left. */
export const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** A scope in words. */
export const scopeWords = (scope) =>
  scope.startsWith("group:")
    ? `group ${scope.slice(6)}`
    : scope.startsWith("layer:")
      ? `layer ${scope.slice(6)}`
      : "network";

/** Hallmarks in words, by the names of the API. */
export const HALLMARKS = {
  mds: "MDS ω",
  relative_mds: "relative MDS ω₀",
  windowed_mds: "MDS of the last 10",
  length_weighted_mds: "length-weighted MDS",
  update_angle_degrees: "update angle",
  apex_angle_initialization_degrees: "apex angle at initialization",
  apex_angle_origin_degrees: "apex angle at origin",
  parameter_norm: "‖θₜ‖",
  distance_from_initialization: "‖θₜ−θ₀‖",
  update_norm: "‖θₜ−θₜ₋₁‖",
  path_length: "path length",
  tortuosity: "tortuosity",
  update_cosine_lag1: "update cosine, lag 1",
  update_cosine_lag2: "lag 2",
  update_cosine_lag3: "lag 3",
  update_cosine_lag4: "lag 4",
};
