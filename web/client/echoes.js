// @ts-check
/**
 * Frames that come twice because, for a moment, two connections of the same user are open: the former room's and the
 * next one's.
 *
 * Owns: what the former connection delivered while the next one was being opened. Must not: grow with traffic.
 */

/** For so long after the change, in milliseconds, the same frame may still come by the next connection. */
export const ECHO_MS = 5_000;

/** So many characters of frames are remembered at most; what is older is forgotten first. */
const MAX_CHARACTERS = 4 * 1024 * 1024;

export class Echoes {
  /** @type {Map<string, number>} how often each frame came */
  #frames = new Map();
  #characters = 0;
  #until = 0;

  /** Nothing that came until now counts any more: another change begins, or there is none. */
  forget() {
    this.#frames.clear();
    this.#characters = 0;
    this.#until = Number.POSITIVE_INFINITY;
  }

  /**
   * The next connection is open.
   * @param {number} now
   */
  changed(now) {
    this.#until = now + ECHO_MS;
  }

  /**
   * The former connection delivered this frame.
   * @param {string} text
   */
  remember(text) {
    this.#frames.set(text, (this.#frames.get(text) ?? 0) + 1);
    this.#characters += text.length;
    for (const [oldest, count] of this.#frames) {
      if (this.#characters <= MAX_CHARACTERS) break;
      this.#frames.delete(oldest);
      this.#characters -= oldest.length * count;
    }
  }

  /**
   * Whether a frame of the next connection was delivered by the former one; each counts once.
   * @param {string} text
   * @param {number} now
   */
  take(text, now) {
    if (this.#frames.size === 0) return false;
    if (now > this.#until) {
      this.forget();
      return false;
    }
    const count = this.#frames.get(text) ?? 0;
    if (count > 1) this.#frames.set(text, count - 1);
    else this.#frames.delete(text);
    if (count > 0) this.#characters -= text.length;
    return count > 0;
  }
}
