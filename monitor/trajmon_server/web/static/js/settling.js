// When a layer or group has come to rest, read off its map. It is not in the paper.

/** Part of the whole change of direction that may still lie ahead. */
export const STILL_AHEAD = 0.05;

/**
 * Row from which on the direction stays within STILL_AHEAD of the last one: with d(i) = 1 − cos(θᵢ, θ_last), the first row
 * behind which no d is over STILL_AHEAD · max d. null if the last checkpoint has no direction, nothing changed, or there are
 * fewer than three rows.
 */
export function settledRow(values, n) {
  if (n < 3) return null;
  const away = Array.from({ length: n }, (_, i) => 1 - values[i * n + n - 1]);
  if (!Number.isFinite(away[n - 1])) return null;
  const known = away.filter(Number.isFinite);
  const most = Math.max(...known);
  // Below this a float32 cosine tells nothing.
  if (!(most > 1e-6)) return null;
  for (let i = n - 1; i >= 0; i--) if (away[i] > STILL_AHEAD * most) return i + 1;
  return null;
}
