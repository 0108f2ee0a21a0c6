// @ts-check
/**
 * Keeps the list of nodes up to date while there is a connection.
 *
 * Owns: when a node is asked for the list, and for its id. Must not: choose a node.
 * Talks to: `asking` (the requests), `endpoints` (what is known of nodes).
 */

/** @typedef {import("./options.js").Clock} Clock */
/** @typedef {import("./asking.js").Asking} Asking */
/** @typedef {import("./endpoints.js").Endpoints} Endpoints */

/** How often the list is read, in milliseconds; a quarter sooner or later. */
const EVERY_MS = 60_000;

/** Half of how soon it is read again where it was of no use, in milliseconds; it doubles each time. */
const SOON_MS = 2_500;

export class NodeList {
  #asking;
  #endpoints;
  #clock;
  #random;
  #told;
  /** @type {{ url: string } | null} the node that holds the connection */
  #asked = null;
  /** How often in a row there was no list that names another node. */
  #listless = 0;
  /** @type {unknown} */
  #timer = null;

  /**
   * @param {{ asking: Asking, endpoints: Endpoints, clock: Clock, random: () => number,
   *   told: (nodeId: string) => void }} options `told`: the list was read, or the node's id
   */
  constructor({ asking, endpoints, clock, random, told }) {
    this.#asking = asking;
    this.#endpoints = endpoints;
    this.#clock = clock;
    this.#random = random;
    this.#told = told;
  }

  /**
   * Asks this node, now and from then on.
   * @param {string} url
   */
  follow(url) {
    this.stop();
    this.#asked = { url };
    void this.#refresh(this.#asked);
  }

  stop() {
    this.#clock.clearTimeout(this.#timer);
    this.#asked = null;
  }

  /**
   * Reads the list once.
   * @param {string} url
   * @param {boolean} [choosing]
   * @returns {Promise<boolean>} whether there was one
   */
  async read(url, choosing = false) {
    return this.#endpoints.setNodes(await this.#asking.nodes(url, choosing), url, this.#clock.now());
  }

  /** @param {{ url: string }} asked */
  async #refresh(asked) {
    const { url } = asked;
    const isListed = await this.read(url);
    if (asked !== this.#asked) return;
    // A node that has just started has no list yet, or names only itself; one that stays so is asked less and less.
    const isUseful = isListed && this.#endpoints.nodes.length > 1;
    this.#listless = isUseful ? 0 : this.#listless + 1;
    const every = isUseful ? EVERY_MS : Math.min(EVERY_MS, SOON_MS * 2 ** this.#listless);
    this.#timer = this.#clock.setTimeout(() => void this.#refresh(asked), every * (0.75 + this.#random() / 2));
    if (!this.#endpoints.nodeIdOf(url)) this.#endpoints.setNodeId(url, await this.#asking.nodeId(url));
    if (asked === this.#asked) this.#told(this.#endpoints.nodeIdOf(url));
  }
}
