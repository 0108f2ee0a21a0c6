// @ts-check
/**
 * What a browser tells of its network and of whether anybody looks at the page.
 *
 * Owns: the three listeners. Must not: decide what follows. Where there is no page, it never says anything.
 */

/** @typedef {import("./options.js").Surroundings} Source */

/** @typedef {{ online: () => void, offline: () => void, visible: () => void }} Callbacks */

export class Surroundings {
  #source;
  #on;

  /**
   * @param {Source} source
   * @param {Callbacks} on
   */
  constructor(source, on) {
    this.#source = source;
    this.#on = on;
  }

  /** Whether the browser says that it has no network. */
  get saysOffline() {
    return /** @type {any} */ (this.#source.window)?.navigator?.onLine === false;
  }

  watch() {
    const { window: page, document: sheet } = this.#source;
    page?.addEventListener("online", this.#on.online);
    page?.addEventListener("offline", this.#on.offline);
    sheet?.addEventListener("visibilitychange", this.#onVisibility);
  }

  ignore() {
    const { window: page, document: sheet } = this.#source;
    page?.removeEventListener("online", this.#on.online);
    page?.removeEventListener("offline", this.#on.offline);
    sheet?.removeEventListener("visibilitychange", this.#onVisibility);
  }

  #onVisibility = () => {
    if (this.#source.document?.visibilityState !== "hidden") this.#on.visible();
  };
}
