// @ts-check
/**
 * The four fields, the switches, and where their values come from: the page's query, then what was remembered, then
 * defaults.
 *
 * Owns: storage and query. Must not: connect.
 */

import { byId } from "./dom.js";

/** @typedef {{ url: string, room: string, user: string, name: string, balance: boolean }} Values */

const STORAGE_KEY = "ringcast";

/** The ports on which nodes listen by default; a page at any other may come from a static server. */
const NODE_PORTS = { first: 8080, last: 8099 };

export class Fields {
  #url = byId("url", HTMLInputElement);
  #room = byId("room", HTMLInputElement);
  #user = byId("user", HTMLInputElement);
  #name = byId("name", HTMLInputElement);
  #balance = byId("balance", HTMLInputElement);
  #query = new URLSearchParams(location.search);
  #remembered = recall();

  constructor() {
    this.#url.value = this.#pick("url", defaultUrl(location));
    this.#room.value = this.#pick("room", "room-001");
    this.#user.value = this.#pick("user", `user-${String(100 + Math.floor(Math.random() * 900))}`);
    this.#name.value = this.#pick("name", "");
    this.#balance.checked = this.#pick("balance", "") === "1";
  }

  /** @returns {Values} */
  get values() {
    return {
      url: this.#url.value.trim(),
      room: this.#room.value.trim(),
      user: this.#user.value.trim(),
      name: this.#name.value.trim(),
      balance: this.#balance.checked,
    };
  }

  /** Whether the fields can be used as they stand; where not, the browser says what is missing. */
  check() {
    for (const input of [this.#url, this.#room, this.#user, this.#name]) input.value = input.value.trim();
    return this.#url.form?.reportValidity() ?? true;
  }

  /** Whether to connect without being asked. */
  get autoconnect() {
    return this.#query.get("autoconnect") === "1";
  }

  /** The language that was asked for, or chosen earlier; empty: neither. */
  get language() {
    return this.#pick("lang", "");
  }

  /** The theme that was chosen earlier. */
  get theme() {
    return this.#remembered.theme ?? "auto";
  }

  /**
   * Calls back whenever a value is changed by hand.
   * @param {() => void} listener
   */
  onChange(listener) {
    for (const input of [this.#url, this.#room, this.#user, this.#name, this.#balance]) {
      input.addEventListener("input", listener);
    }
  }

  /** Keeps what stands in the fields for the next visit. */
  remember() {
    const { balance, ...texts } = this.values;
    this.keep({ ...texts, balance: balance ? "1" : "" });
  }

  /**
   * Keeps these too.
   * @param {Record<string, string>} values
   */
  keep(values) {
    this.#remembered = { ...this.#remembered, ...values };
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(this.#remembered));
    } catch {
      // A page that may store nothing works all the same.
    }
  }

  /**
   * @param {string} key
   * @param {string} fallback
   */
  #pick(key, fallback) {
    return this.#query.get(key) ?? this.#remembered[key] ?? fallback;
  }
}

/** @returns {Record<string, string>} */
function recall() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "{}");
    const entries = Object.entries(stored ?? {}).filter(([, value]) => typeof value === "string");
    return Object.fromEntries(/** @type {[string, string][]} */ (entries));
  } catch {
    return {};
  }
}

/**
 * A node that serves the page is at the page's own address. A static server shows the page as a file on a port of its
 * own; then a node is most likely at the first default port of the same machine.
 * @param {Location} at
 */
export function defaultUrl(at) {
  if (!at.protocol.startsWith("http")) return "ws://localhost:8080/ws";
  const port = Number(at.port);
  const isNode = at.port === "" || at.pathname === "/" || (port >= NODE_PORTS.first && port <= NODE_PORTS.last);
  if (isNode) return `${at.origin.replace(/^http/, "ws")}/ws`;
  return `${at.protocol.replace(/^http/, "ws")}//${at.hostname}:${NODE_PORTS.first}/ws`;
}
