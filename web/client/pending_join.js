// @ts-check
/**
 * The promise of the next confirmed join. There is one at a time: who asks for another room gives up the former.
 *
 * Owns: that each is settled once. Must not: know what a join is.
 */

import { RingcastError } from "./events.js";

export class PendingJoin {
  /** @type {Promise<void> | null} */
  #promise = null;
  #resolve = () => {};
  /** @type {(error: RingcastError) => void} */
  #reject = () => {};

  /** The promise that there is; `null` where nothing is waited for. */
  get current() {
    return this.#promise;
  }

  /** @returns {Promise<void>} */
  renew() {
    this.settle(new RingcastError("superseded", "another room was asked for"));
    /** @type {Promise<void>} */
    const promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#promise = promise;
    return handled(promise);
  }

  /** @param {RingcastError | null} error why there is no join; `null`: there is */
  settle(error) {
    if (!this.#promise) return;
    this.#promise = null;
    if (error) this.#reject(error);
    else this.#resolve();
  }
}

/**
 * A promise that fails at once.
 * @param {string} reason
 * @param {string} message
 * @returns {Promise<void>}
 */
export function refuse(reason, message) {
  return handled(Promise.reject(new RingcastError(reason, message)));
}

/**
 * A caller who only listens to events has not forgotten to handle anything.
 * @param {Promise<void>} promise
 */
function handled(promise) {
  promise.catch(() => {});
  return promise;
}
