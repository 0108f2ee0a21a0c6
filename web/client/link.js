// @ts-check
/**
 * One WebSocket: from the attempt to its end, with the heartbeat that finds out whether it still lives.
 *
 * Owns: the socket, its timers. Must not: decide what follows its end, or read what comes beyond a pong.
 * Talks to: the client, by the callbacks. `ended` is called exactly once, unless the link was let go by `close`.
 */

import { PING } from "./wire.js";

/** @typedef {import("./options.js").Clock} Clock */

/**
 * @typedef {object} LinkEnd
 * @property {number} code the close code; 1006 where there was none
 * @property {string} reason in the server's words, or in ours
 * @property {boolean} opened whether it had ever been open
 * @property {"closed" | "silent" | "timeout" | "dropped"} cause `silent`: the heartbeat was not answered.
 *   `timeout`: the handshake was not. `dropped`: by hand
 * @property {number} openMs for how long it was open
 */

/**
 * @typedef {object} LinkCallbacks
 * @property {() => void} opened
 * @property {(text: string) => void} received a text frame, pongs too
 * @property {(text: string) => void} sent a text frame
 * @property {(ms: number) => void} roundTrip
 * @property {(end: LinkEnd) => void} ended
 */

/** Between two pings, in milliseconds. */
export const PING_EVERY_MS = 15_000;

/** How long anything at all may take to come after a ping, in milliseconds. */
export const PONG_WITHIN_MS = 10_000;

/** How long the handshake may take, in milliseconds: the node holds the answer for up to 5 s while it joins. */
export const OPEN_WITHIN_MS = 10_000;

/** A timer that is so late, in milliseconds, was held with the whole page, and what came meanwhile may be unread. */
const HELD_MS = 2_000;

/** More than this waits in the socket, in bytes: nothing is added. */
const MAX_BUFFERED_BYTES = 1024 * 1024;

/** WebSocket's own numbers; an injected one may not have them as constants. */
const CONNECTING = 0;
const OPEN = 1;

export class Link {
  #socket;
  #clock;
  #on;
  #over = false;
  #openedAt = -1;
  /** When the ping was sent that nothing has come after; -1: none is out. */
  #pingAt = -1;
  /** When the last ping was sent, for its pong. */
  #askedAt = -1;
  /** @type {unknown} */
  #openTimer = null;
  /** @type {unknown} */
  #pingTimer = null;
  /** @type {unknown} */
  #pongTimer = null;

  /**
   * Begins the attempt. Throws what the WebSocket's constructor throws.
   * @param {string} url
   * @param {{ Socket: typeof WebSocket, clock: Clock, on: LinkCallbacks }} options
   */
  constructor(url, { Socket, clock, on }) {
    this.#clock = clock;
    this.#on = on;
    this.#socket = new Socket(url);
    this.#socket.onopen = () => this.#opened();
    this.#socket.onmessage = (event) => this.#received(event.data);
    this.#socket.onclose = (event) => this.#end(event.code || 1006, event.reason || "", "closed");
    // Its end follows as a close; the error itself says nothing that a page may read.
    this.#socket.onerror = () => {};
    this.#openTimer = clock.setTimeout(() => this.#giveUp("timeout", "no answer to the handshake"), OPEN_WITHIN_MS);
  }

  get isOpen() {
    return !this.#over && this.#socket.readyState === OPEN;
  }

  /**
   * Sends a text frame.
   * @param {string} text
   * @returns {boolean} false where it was not taken
   */
  send(text) {
    if (!this.isOpen || this.#socket.bufferedAmount > MAX_BUFFERED_BYTES) return false;
    this.#socket.send(text);
    this.#on.sent(text);
    return true;
  }

  /** Finds out now whether the connection still lives. */
  check() {
    if (this.isOpen && this.#pingAt < 0) this.#ping();
  }

  /**
   * Closes in order, and says nothing more. A browser writes an error for a socket that is closed before it is open,
   * so such a one is awaited first.
   */
  close() {
    this.#quiet();
    if (this.#socket.readyState !== CONNECTING) {
      this.#socket.close(1000, "bye");
      return;
    }
    const late = this.#clock.setTimeout(() => this.#socket.close(), OPEN_WITHIN_MS);
    this.#socket.onclose = () => this.#clock.clearTimeout(late);
    this.#socket.onopen = () => this.#socket.close(1000, "bye");
  }

  /** Ends as if the connection had been lost. */
  drop() {
    this.#giveUp("dropped", "dropped by hand");
  }

  #opened() {
    if (this.#over) return;
    this.#clock.clearTimeout(this.#openTimer);
    this.#openedAt = this.#clock.now();
    this.#on.opened();
    if (!this.#over) this.#ping();
  }

  /** @param {unknown} data */
  #received(data) {
    if (this.#over) return;
    // Whatever comes shows that the connection lives, not only a pong.
    this.#pingAt = -1;
    this.#clock.clearTimeout(this.#pongTimer);
    if (typeof data !== "string") return;
    if (this.#askedAt >= 0 && data.startsWith('{"type":"pong"')) {
      this.#on.roundTrip(this.#clock.now() - this.#askedAt);
      this.#askedAt = -1;
    }
    this.#on.received(data);
  }

  #ping() {
    const now = this.#clock.now();
    this.#clock.clearTimeout(this.#pingTimer);
    this.#clock.clearTimeout(this.#pongTimer);
    this.#pingTimer = this.#clock.setTimeout(() => this.#ping(), PING_EVERY_MS);
    this.#pongTimer = this.#clock.setTimeout(() => this.#judge(now + PONG_WITHIN_MS), PONG_WITHIN_MS);
    this.#pingAt = now;
    this.#askedAt = now;
    // What a full buffer does not take is judged like what is not answered.
    this.send(PING);
  }

  /** @param {number} due */
  #judge(due) {
    if (this.#over || this.#pingAt < 0) return;
    if (this.#clock.now() - due > HELD_MS) this.#ping();
    else this.#giveUp("silent", "nothing came after a ping");
  }

  /**
   * @param {"silent" | "timeout" | "dropped"} cause
   * @param {string} reason
   */
  #giveUp(cause, reason) {
    if (this.#over) return;
    // A standard code of ours would be a lie: the other end gets the one for a ping without its pong.
    this.#socket.close(4000, "given up");
    this.#end(1006, reason, cause);
  }

  /**
   * @param {number} code
   * @param {string} reason
   * @param {LinkEnd["cause"]} cause
   */
  #end(code, reason, cause) {
    if (this.#over) return;
    this.#quiet();
    const opened = this.#openedAt >= 0;
    const openMs = opened ? this.#clock.now() - this.#openedAt : 0;
    this.#on.ended({ code, reason, opened, cause, openMs });
  }

  #quiet() {
    this.#over = true;
    for (const timer of [this.#openTimer, this.#pingTimer, this.#pongTimer]) this.#clock.clearTimeout(timer);
  }
}
