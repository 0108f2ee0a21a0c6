// @ts-check
/**
 * The badge: how the connection stands, when the next attempt comes, and which node it is.
 *
 * Owns: the badge, the line beside it, and what is said of a problem.
 */

import { byId, make } from "./dom.js";
import { onLanguage, text } from "./texts.js";

/** @typedef {import("../client/events.js").StateDetail} StateDetail */

/** How often the countdown is written, in milliseconds. */
const TICK_MS = 200;

export class Standing {
  #badge = byId("badge", HTMLSpanElement);
  #words = byId("state", HTMLSpanElement);
  #countdown = byId("countdown", HTMLSpanElement);
  #node = byId("node", HTMLSpanElement);
  #problem = byId("problem", HTMLParagraphElement);
  /** @type {StateDetail | null} */
  #detail = null;
  #nodeId = "";
  #nextAt = 0;
  #timer = 0;
  #terminal = false;
  /** @type {() => string} made anew for each language */
  #trouble = () => "";

  constructor() {
    onLanguage(() => this.#render());
    this.#render();
  }

  /** @param {StateDetail} detail */
  show(detail) {
    this.#detail = detail;
    this.#nodeId = detail.nodeId;
    this.#terminal = false;
    clearInterval(this.#timer);
    if (detail.state === "waiting") {
      this.#nextAt = performance.now() + detail.delayMs;
      this.#timer = setInterval(() => this.#tick(), TICK_MS);
    }
    // Where there is no network, nothing is tried again.
    if (detail.state === "open" || detail.state === "offline") this.#trouble = () => "";
    this.#render();
  }

  /** @param {string} nodeId */
  nameNode(nodeId) {
    this.#nodeId = nodeId;
    this.#render();
  }

  /**
   * Says what went wrong.
   * @param {() => string} trouble
   * @param {{ terminal?: boolean }} [how]
   */
  complain(trouble, { terminal = false } = {}) {
    this.#trouble = trouble;
    this.#terminal = terminal;
    this.#render();
  }

  #render() {
    const { state = "idle", url = "", joining = "", reason = "" } = this.#detail ?? {};
    this.#badge.dataset.state = state;
    this.#badge.toggleAttribute("data-terminal", this.#terminal);
    const words = joining ? text("state_joining", { room: joining })
      : text(state === "idle" && reason === "left" ? "state_left" : `state_${state}`);
    // A status that is written again is read out again.
    if (this.#words.textContent !== words) this.#words.textContent = words;
    this.#node.replaceChildren(...this.#nodeWords(url));
    const trouble = this.#trouble();
    if (this.#problem.textContent !== trouble) this.#problem.textContent = trouble;
    this.#problem.hidden = trouble === "";
    this.#tick();
  }

  /**
   * @param {string} url
   * @returns {(Node | string)[]}
   */
  #nodeWords(url) {
    if (!url) return [];
    const host = text("nodeAt", { host: new URL(url).host });
    return this.#nodeId ? [make("b", "", this.#nodeId), " ", host] : [host];
  }

  #tick() {
    const left = Math.max(0, this.#nextAt - performance.now());
    const waiting = this.#detail?.state === "waiting";
    this.#countdown.textContent = waiting ? text("inSeconds", { seconds: (left / 1000).toFixed(1) }) : "";
  }
}
