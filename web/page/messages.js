// @ts-check
/**
 * The list of messages, the newest first.
 *
 * Owns: what is shown of each type, the filter, and how many are kept. Must not: count anything but these.
 */

import { decodeBase64 } from "../ringcast-client.js";
import { byId, make } from "./dom.js";
import { sizeText, sniff } from "./media.js";
import { languageName, onLanguage, text } from "./texts.js";

/** @typedef {import("../ringcast-client.js").RingcastMessage} RingcastMessage */

const TYPES = /** @type {const} */ (["text", "audio", "video", "translation", "system"]);

/** So many messages are kept; the oldest go first. */
const MAX_SHOWN = 200;

/** So many bytes of sound and pictures are kept. */
const MAX_MEDIA_BYTES = 64 * 1024 * 1024;

/** More characters of a text than this are not laid out. */
const MAX_TEXT = 20_000;

/** What the page says in another place. */
const SPOKEN_METADATA = new Set(["source_language", "target_language", "encoding"]);

/**
 * `words`: what is said of a payload that does not play.
 * @typedef {{ message: RingcastMessage, item: HTMLLIElement, url: string, bytes: number, name: string,
 *   words: () => string }} Shown
 */

export class MessageList {
  #list = byId("messages", HTMLOListElement);
  #note = byId("messages-note", HTMLParagraphElement);
  /** @type {Shown[]} the oldest first */
  #shown = [];
  #mediaBytes = 0;
  /** @type {Set<string>} */
  #hidden = new Set();

  constructor() {
    this.#makeFilters();
    byId("clear", HTMLButtonElement).addEventListener("click", () => this.clear());
    onLanguage(() => this.#renderAgain());
    this.#say();
  }

  /** @param {RingcastMessage} message */
  add(message) {
    const shown = { message, item: make("li", "message"), url: "", bytes: 0, name: "", words: () => "" };
    this.#fill(shown);
    this.#shown.push(shown);
    this.#mediaBytes += shown.bytes;
    this.#list.prepend(shown.item);
    while (this.#shown.length > MAX_SHOWN || (this.#mediaBytes > MAX_MEDIA_BYTES && this.#shown.length > 1)) {
      this.#remove(/** @type {Shown} */ (this.#shown.shift()));
    }
    this.#say();
  }

  clear() {
    for (const shown of this.#shown.splice(0)) this.#remove(shown);
    this.#say();
  }

  /** @param {Shown} shown */
  #remove(shown) {
    shown.item.remove();
    if (shown.url) URL.revokeObjectURL(shown.url);
    this.#mediaBytes -= shown.bytes;
  }

  #makeFilters() {
    const group = byId("filters", HTMLDivElement);
    for (const type of TYPES) {
      const button = make("button", "quiet", text(`type_${type}`));
      button.type = "button";
      button.setAttribute("aria-pressed", "true");
      button.setAttribute("data-text", `type_${type}`);
      button.addEventListener("click", () => {
        const hide = !this.#hidden.has(type);
        if (hide) this.#hidden.add(type);
        else this.#hidden.delete(type);
        button.setAttribute("aria-pressed", String(!hide));
        for (const { message, item } of this.#shown) item.hidden = this.#hidden.has(message.type);
        this.#say();
      });
      group.append(button);
    }
  }

  #say() {
    const visible = this.#shown.some(({ item }) => !item.hidden);
    this.#note.textContent = visible ? "" : text(this.#shown.length > 0 ? "messagesFiltered" : "messagesNone");
  }

  /** The words of every message, in the language that is shown now; what plays goes on. */
  #renderAgain() {
    for (const shown of this.#shown) {
      shown.item.querySelector(".head")?.replaceWith(head(shown.message));
      shown.item.querySelector(".languages")?.replaceWith(...languages(shown.message));
      const summary = shown.item.querySelector("summary");
      if (summary) summary.textContent = text("metadata");
      shown.item.querySelector(".download")?.replaceWith(download(shown));
    }
    this.#say();
  }

  /** @param {Shown} shown */
  #fill(shown) {
    const { message, item } = shown;
    item.dataset.type = message.type;
    item.hidden = this.#hidden.has(message.type);
    item.append(head(message), ...languages(message), this.#body(shown), ...otherMetadata(message));
  }

  /**
   * @param {Shown} shown
   * @returns {HTMLElement}
   */
  #body(shown) {
    const { message } = shown;
    const kind = message.type === "video" ? "video" : "audio";
    const isMedia = message.type === "audio" || message.type === "video";
    // Some backends push base64 as text; it is taken for sound only where it turns out to be some.
    const bytes = message.encoding === "base64" || isMedia ? decodeBase64(message.content) : null;
    const media = bytes && isMedia ? sniff(bytes, kind) : null;
    if (!bytes || (message.encoding !== "base64" && !media)) return textBody(message);
    shown.bytes = bytes.length;
    shown.url = URL.createObjectURL(new Blob([bytes], { type: media?.mime ?? "application/octet-stream" }));
    const body = make("div", "body");
    shown.name = `${message.type}-${message.timestamp}.${media?.suffix ?? "bin"}`;
    const size = sizeText(bytes.length);
    shown.words = () => text("bytes", { size, kind: text(media ? "unplayable" : "unknownKind") });
    if (!media) {
      body.append(download(shown));
      return body;
    }
    const playing = player(kind, shown.url);
    // What begins like sound may still be none that this browser can play.
    playing.addEventListener("error", () => body.replaceChildren(download(shown)));
    body.append(playing);
    return body;
  }
}

/** @param {RingcastMessage} message */
function head(message) {
  const known = /** @type {readonly string[]} */ (TYPES).includes(message.type);
  const type = known ? text(`type_${/** @type {typeof TYPES[number]} */ (message.type)}`) : message.type;
  const target = { room: "toRoom", user: "toYou", everyone: "toEveryone" };
  const key = /** @type {"toRoom" | "toYou" | "toEveryone"} */ (target[message.target]);
  const element = make("div", "head", make("span", "type", type), make("span", "target", text(key, { room: message.room })));
  if (message.duplicate) element.append(make("span", "again", text("again")));
  const at = new Date(message.timestamp);
  if (message.timestamp > 0 && !Number.isNaN(at.getTime())) {
    const time = make("time", "", at.toLocaleTimeString(document.documentElement.lang, { hourCycle: "h23" }));
    time.dateTime = at.toISOString();
    time.title = at.toLocaleString(document.documentElement.lang, { hourCycle: "h23" });
    element.append(time);
  }
  return element;
}

/** @param {RingcastMessage} message */
function languages(message) {
  const source = message.metadata.source_language;
  const target = message.metadata.target_language;
  if (!source && !target) return [];
  const names = [source ?? "", target ?? ""].filter(Boolean).map(languageName);
  return [make("div", "languages", names.join(" → "))];
}

/** @param {RingcastMessage} message */
function textBody(message) {
  const isLong = message.content.length > MAX_TEXT;
  const body = make("div", "body", isLong ? `${message.content.slice(0, MAX_TEXT)}…` : message.content);
  // The right glyphs for Chinese and Japanese depend on it.
  const language = message.metadata.target_language;
  if (language) body.lang = language;
  return body;
}

/**
 * @param {"audio" | "video"} kind
 * @param {string} url
 */
function player(kind, url) {
  const element = make(kind, "");
  element.controls = true;
  element.preload = "metadata";
  element.src = url;
  return element;
}

/** @param {Shown} shown */
function download(shown) {
  const link = make("a", "", text("download"));
  link.href = shown.url;
  link.download = shown.name;
  return make("span", "download", shown.words(), " · ", link);
}

/** @param {RingcastMessage} message */
function otherMetadata(message) {
  const entries = Object.entries(message.metadata).filter(([key]) => !SPOKEN_METADATA.has(key));
  if (entries.length === 0) return [];
  const list = make("dl", "");
  for (const [key, value] of entries) list.append(make("dt", "", key), make("dd", "", value));
  return [make("details", "", make("summary", "", text("metadata")), list)];
}
