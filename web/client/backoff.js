// @ts-check
/**
 * How long to wait before the next attempt: full jitter over a range that doubles.
 *
 * Owns: the figures. Must not: keep a timer.
 */

/** No attempt follows another sooner than this, in milliseconds. */
export const BACKOFF_FLOOR_MS = 500;

/** No attempt waits longer than this by itself, in milliseconds. */
export const BACKOFF_CAP_MS = 20_000;

/** The longest wait that a server can ask for, in milliseconds: a typing error there must not lock a page out. */
export const RETRY_AFTER_CAP_MS = 300_000;

/**
 * A random wait between the floor and min(cap, floor * 2^attempt).
 * @param {number} attempt 1 for the first attempt after a loss
 * @param {() => number} random in [0, 1)
 * @returns {number} milliseconds
 */
export function backoffMs(attempt, random) {
  // Past 2^16 the cap has long been reached, and a larger power would only lose precision.
  const ceiling = Math.min(BACKOFF_CAP_MS, BACKOFF_FLOOR_MS * 2 ** Math.min(attempt, 16));
  return Math.round(BACKOFF_FLOOR_MS + random() * (ceiling - BACKOFF_FLOOR_MS));
}

/**
 * Reads a Retry-After value: seconds, or an HTTP date.
 * @param {unknown} value
 * @param {number} unixMs the present, for a date
 * @returns {number} milliseconds; 0 where there is none
 */
export function retryAfterMs(value, unixMs) {
  if (value === null || value === undefined || value === "") return 0;
  const seconds = Number(value);
  const ms = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(String(value)) - unixMs;
  return Number.isFinite(ms) ? Math.min(Math.max(0, ms), RETRY_AFTER_CAP_MS) : 0;
}
