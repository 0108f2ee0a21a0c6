// @ts-check
/**
 * The raw frames, the newest first.
 *
 * Owns: how many are kept and shown, and their way to the clipboard. Must not: understand them.
 */

import { byId, make } from "./dom.js";
import { onLanguage, text } from "./texts.js";

/** So many frames are kept; the oldest go first. */
const MAX_FRAMES = 200;

/** So many characters of each. */
const MAX_CHARACTERS = 2_000;

export class FrameLog {
  #list = byId("frames", HTMLOListElement);
  #total = byId("frames-total", HTMLSpanElement);
  #said = byId("frames-said", HTMLSpanElement);
  #pause = byId("frames-pause", HTMLButtonElement);
  #paused = false;
  #count = 0;
  /** @type {string[]} the newest first */
  #lines = [];

  constructor() {
    this.#pause.addEventListener("click", () => this.#setPaused(!this.#paused));
    byId("frames-clear", HTMLButtonElement).addEventListener("click", () => this.#clear());
    byId("frames-copy", HTMLButtonElement).addEventListener("click", () => void this.#copy());
    onLanguage(() => this.#setPaused(this.#paused));
  }

  /** @param {{ direction: "in" | "out", text: string }} frame */
  add(frame) {
    this.#count += 1;
    this.#total.textContent = String(this.#count);
    if (this.#paused) return;
    const at = new Date().toISOString().slice(11, 23);
    const isLong = frame.text.length > MAX_CHARACTERS;
    const content = isLong ? `${frame.text.slice(0, MAX_CHARACTERS)}… (${frame.text.length})` : frame.text;
    const arrow = frame.direction === "in" ? "↓" : "↑";
    this.#lines.unshift(`${at} ${arrow} ${content}`);
    this.#list.prepend(
      make("li", "", make("span", frame.direction, arrow), make("span", "at", at), make("span", "", content)),
    );
    if (this.#lines.length > MAX_FRAMES) {
      this.#lines.pop();
      this.#list.lastElementChild?.remove();
    }
  }

  /** @param {boolean} paused */
  #setPaused(paused) {
    this.#paused = paused;
    this.#pause.textContent = text(paused ? "resume" : "pause");
    this.#pause.setAttribute("aria-pressed", String(paused));
  }

  #clear() {
    this.#lines.length = 0;
    this.#list.replaceChildren();
    this.#said.textContent = "";
  }

  async #copy() {
    const copied = await copy(this.#lines.join("\n"));
    this.#said.textContent = text(copied ? "copied" : "notCopied");
  }
}

/**
 * @param {string} content
 * @returns {Promise<boolean>}
 */
async function copy(content) {
  try {
    await navigator.clipboard.writeText(content);
    return true;
  } catch {
    // A page that came by plain http from another machine has no clipboard of the new kind.
    const area = document.createElement("textarea");
    area.value = content;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
