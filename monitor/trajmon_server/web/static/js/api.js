// The server's API as the page uses it. docs/http-api.md describes it; nothing else here knows its addresses.
import { lost, refused } from "./connection.js";

/** An answer that is an error, in the server's words. */
export class Problem extends Error {
  constructor(status, reason, detail, violations = []) {
    super(violations.length ? violations.map(({ field, text }) => `${field}: ${text}`).join("; ") : detail);
    this.status = status;
    this.reason = reason;
    this.fields = violations.map(({ field }) => field);
  }
}

const CROSS = "/api/v1/cross";

/** Path of a run in the API. */
export const runPath = (run) => `/api/v1/runs/${encodeURIComponent(run)}`;

/** An address with a query; empty values are left out, lists stand once for each entry. */
export function address(path, query = {}) {
  const all = Object.entries(query).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map((one) => [name, one]),
  );
  const text = new URLSearchParams(
    all.filter(([, value]) => value !== null && value !== undefined && value !== ""),
  ).toString();
  return text ? `${path}?${text}` : path;
}

/** Answer of the server, or Problem. An abort passes through; a server that is away is noted for the whole page. */
async function ask(path, query, signal) {
  let answer;
  try {
    answer = await fetch(address(path, query), { cache: "no-store", signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    lost();
    throw new Problem(0, "UNREACHABLE", "The server does not answer.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  if (answer.status === 401) refused();
  if (told.reason === "NOT_READY" && answer.status === 503 && /starting/.test(told.detail))
    lost("The server is starting.");
  throw new Problem(
    answer.status,
    told.reason ?? "",
    told.detail ?? `The server answered ${answer.status}.`,
    told.violations,
  );
}

/** A JSON answer. */
export const getJson = async (path, query = {}, signal = undefined) => (await ask(path, query, signal)).json();

/** Runs, newest first: {runs, next_cursor}. */
export const getRuns = (query, signal) => getJson("/api/v1/runs", query, signal);

/**
 * Everything about one run but its maps and curves. `version`, here and below: of the event that is the reason to ask; the
 * server then makes one answer for all pages that heard it.
 */
export const getRun = (run, { version = null } = {}, signal = undefined) => getJson(runPath(run), { version }, signal);

/** Checkpoints of the longest curve that is asked for. */
export const CURVE_POINTS = 1024;

/**
 * Hallmarks of a scope over the checkpoints, or over evenly spaced ones of a long run: arrays, null where undefined.
 * `path`: all checkpoints.
 */
export async function getHallmarks(run, { scope, version = null }, signal) {
  const told = await getJson(`${runPath(run)}/hallmarks`, { scope, max_points: CURVE_POINTS, version }, signal);
  return { ...told, path: told.reduced === null ? told.checkpoint : told.reduced.path.flatMap(range) };
}

const range = ([first, last]) => Array.from({ length: last - first + 1 }, (_, at) => first + at);

/** Query of a map, as addresses of pictures and data need it too. */
export const mapQuery = ({ scope, tau = null, kernel = "linear", superseded = false, size = null }) => ({
  scope,
  relative_to: tau,
  kernel: kernel === "linear" ? null : kernel,
  superseded: superseded ? "true" : null,
  size,
});

/** A map: {n, values, error, ...head}; `values` and `error` are [n x n] float32, `error` null where all is exact. */
export const getMap = async (run, query, signal) =>
  blocks(
    await ask(`${runPath(run)}/map`, { ...mapQuery(query), format: "f32", version: query.version ?? null }, signal),
  );

/** The map of a random walk with the run's learning rates, in the same form. */
export const getNull = async (run, { scope, version = null }, signal) =>
  blocks(await ask(`${runPath(run)}/null`, { scope, format: "f32", version }, signal));

/** Eigenvalues of map and Gram. */
export const getSpectrum = (run, { scope, version = null }, signal) =>
  getJson(`${runPath(run)}/spectrum`, { scope, version }, signal);

/** Address of the map across two runs, as data. */
export const crossAddress = (query) => address(CROSS, query);

/** Cosines and distances between the checkpoints of two runs. */
export const getCross = (query, signal) => getJson(CROSS, query, signal);

/** All layers: {n, layers, maps, ...head}; `maps` holds one [n x n] float32 array for each layer. */
export async function getLayers(run, { size, version = null }, signal) {
  const answer = await ask(`${runPath(run)}/layers`, { size, format: "f32", version }, signal);
  const { head, numbers } = await binary(answer);
  const n = head.shape[1];
  return { ...head, n, maps: head.layers.map((_, index) => numbers.subarray(index * n * n, (index + 1) * n * n)) };
}

async function blocks(answer) {
  const { head, numbers } = await binary(answer);
  const n = head.shape[0];
  return {
    ...head,
    n,
    values: numbers.subarray(0, n * n),
    error: head.has_error ? numbers.subarray(n * n, 2 * n * n) : null,
  };
}

/** Length of the head (uint32, little-endian), the head as JSON, then float32 numbers. */
async function binary(answer) {
  const buffer = await answer.arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = 4 + length;
  return { head, numbers: new Float32Array(buffer, start, Math.floor((buffer.byteLength - start) / 4)) };
}
