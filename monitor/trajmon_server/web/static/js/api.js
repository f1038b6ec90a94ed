// The server's API as the page uses it. docs/http-api.md describes it; nothing else here knows its addresses.
import { lost, refused } from "./connection.js";

/** An answer that is an error, in the server's words. */
export class Problem extends Error {
  constructor(status, reason, detail, violations = []) {
    super(violations.length ? violations.map(({ field, text }) => `${field}: ${text}`).join("; ") : detail);
    this.status = status;
    this.reason = reason;
  }
}

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

/** Everything about one run but its maps and curves. */
export const getRun = (run, signal) => getJson(runPath(run), {}, signal);

/** Hallmarks of a scope over the checkpoints: arrays, null where undefined. */
export const getHallmarks = (run, scope, signal) => getJson(`${runPath(run)}/hallmarks`, { scope }, signal);

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
  blocks(await ask(`${runPath(run)}/map`, { ...mapQuery(query), format: "f32" }, signal));

/** The map of a random walk with the run's learning rates, in the same form. */
export const getNull = async (run, scope, signal) =>
  blocks(await ask(`${runPath(run)}/null`, { scope, format: "f32" }, signal));

/** Eigenvalues of map and Gram. */
export const getSpectrum = (run, scope, signal) => getJson(`${runPath(run)}/spectrum`, { scope }, signal);

/** All layers: {n, layers, maps, ...head}; `maps` holds one [n x n] float32 array for each layer. */
export async function getLayers(run, size, signal) {
  const { head, numbers } = await binary(await ask(`${runPath(run)}/layers`, { size, format: "f32" }, signal));
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
