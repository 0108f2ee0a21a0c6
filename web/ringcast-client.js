// @ts-check
/**
 * Ringcast's client: joins a room over a WebSocket, and is there again by itself after whatever happened.
 *
 * Owns: the connection's course, from `connect` to `disconnect`: what is tried when, and what is told of it.
 * Must not: touch a page, or know how a frame or an address is written. Talks to: `link` (one WebSocket), `endpoints`
 * (which node), `asking` (plain HTTP), `numbering` and `echoes` (what came twice, or not at all).
 *
 * A connection knows one room: connecting joins, and the handshake's answer is the confirmation. So a client is in one
 * room at a time.
 */

import { Asking } from "./client/asking.js";
import { backoffMs } from "./client/backoff.js";
import { classifyClose, classifyRefusal, leavesNode } from "./client/close_codes.js";
import { Echoes } from "./client/echoes.js";
import { Endpoints, isLoopback } from "./client/endpoints.js";
import { DetailEvent, RingcastError } from "./client/events.js";
import { Link } from "./client/link.js";
import { NodeList } from "./client/node_list.js";
import { Numbering } from "./client/numbering.js";
import { joinUrl, readOptions, readUrl } from "./client/options.js";
import { PendingJoin, refuse } from "./client/pending_join.js";
import { Surroundings } from "./client/surroundings.js";
import { MEMBERS, decodeBase64, numberedBy, readFrame } from "./client/wire.js";

export { RingcastError, decodeBase64 };

/** @typedef {import("./client/options.js").RingcastOptions} RingcastOptions */
/** @typedef {import("./client/wire.js").RingcastMessage} RingcastMessage */
/** @import { Counters, DisconnectedDetail, RingcastEvents, State } from "./client/events.js" */
/** @import { Endpoint } from "./client/endpoints.js" */
/** @import { LinkEnd } from "./client/link.js" */
/** @typedef {{ place: Endpoint, room: string, url: string, link: Link | null }} Connection */

/** A connection that was open for so long, in milliseconds, makes the next wait a short one again. */
export const STABLE_MS = 10_000;

/** The node closes a connection that sends more than this in one message, in bytes, and means it. */
const MAX_FRAME_BYTES = 64 * 1024;

export class RingcastClient extends EventTarget {
  #options;
  #clock;
  #endpoints;
  #asking;
  #nodeList;
  #surroundings;
  #numbering = new Numbering();
  #echoes = new Echoes();
  /** @type {State} */
  #state = "idle";
  #room;
  /** Whether to be connected is what the caller wants. */
  #wanted = false;
  #offline = false;
  /** Whether there was a connection since `connect`. */
  #wasOpen = false;
  /** Attempts since the last connection that stayed. */
  #attempt = 0;
  /** Raised whenever the course changes, so that an answer which was awaited meanwhile is known to be stale. */
  #turn = 0;
  /** @type {Connection | null} the connection that there is, or that is being opened */
  #connection = null;
  /** @type {Connection | null} the one to the next room, while the former is still open */
  #next = null;
  /** @type {unknown} */
  #retryTimer = null;
  /** @type {string[]} */
  #queue = [];
  #pending = new PendingJoin();
  #received = 0;
  #reconnects = 0;
  #dropped = 0;

  /** @param {RingcastOptions} options */
  constructor(options) {
    super();
    this.#options = readOptions(options);
    this.#clock = this.#options.clock;
    this.#room = this.#options.room;
    this.#endpoints = new Endpoints(this.#options.given, this.#options);
    this.#asking = new Asking(this.#options.fetch, this.#clock);
    this.#nodeList = new NodeList({
      asking: this.#asking,
      endpoints: this.#endpoints,
      clock: this.#clock,
      random: this.#options.random,
      told: (nodeId) => this.#emit("nodes", { nodes: this.#endpoints.nodes, nodeId }),
    });
    this.#surroundings = new Surroundings(this.#options.surroundings, {
      online: () => this.#cameOnline(),
      offline: () => this.#wentOffline(),
      visible: () => this.#cameBack(),
    });
  }

  get state() {
    return this.#state;
  }

  get room() {
    return this.#room;
  }

  /** The nodes that the cluster named last. */
  get nodes() {
    return this.#endpoints.nodes;
  }

  /** @returns {Counters} */
  get counters() {
    return {
      received: this.#received,
      lost: this.#numbering.lost,
      duplicate: this.#numbering.duplicate,
      reconnects: this.#reconnects,
      dropped: this.#dropped,
    };
  }

  /**
   * Connects, and from then on stays connected.
   * @returns {Promise<void>} settled by the first join that is confirmed, or by what ends the attempts
   */
  connect() {
    if (this.#options.signal?.aborted) return refuse("aborted", "the signal was aborted");
    if (!this.#room) return refuse("no_room", "join needs a room");
    if (this.#wanted) return this.#joined();
    this.#wanted = true;
    this.#options.signal?.addEventListener("abort", this.#aborted);
    this.#wasOpen = false;
    this.#attempt = 0;
    this.#offline = this.#startsOffline();
    this.#surroundings.watch();
    const promise = this.#pending.renew();
    void this.#try();
    return promise;
  }

  /**
   * Goes to a room. Where another one is open, it is left when the new one is confirmed; where the new one refuses,
   * the client stays where it is.
   * @param {string} room
   * @returns {Promise<void>}
   */
  join(room) {
    if (!room) return refuse("no_room", "join needs a room");
    if (!this.#wanted) {
      this.#room = room;
      return this.connect();
    }
    if (room === this.#next?.room) return this.#joined();
    if (this.#connection?.link?.isOpen) return this.#change(this.#connection, room);
    if (room === this.#room) return this.#joined();
    this.#enter(room);
    this.#attempt = 0;
    this.#letGo();
    const promise = this.#pending.renew();
    void this.#try();
    return promise;
  }

  /** Leaves the room and stays out of it. */
  leave() {
    this.#stop("idle", { code: 1000, status: 0, reason: "left", terminal: false });
  }

  /** Ends the connection and all attempts. */
  disconnect() {
    this.#stop("closed", { code: 1000, status: 0, reason: "disconnected", terminal: false });
  }

  /** Loses the connection, as a bad network would; what follows is what would follow then. */
  drop() {
    this.#connection?.link?.drop();
  }

  /** Does not wait any longer for the next attempt. */
  retryNow() {
    if (this.#state === "waiting") void this.#try();
  }

  /**
   * Sends a frame, or keeps it for when there is a connection.
   * @param {string | object} frame JSON text, or what becomes JSON
   * @returns {boolean} false where it was dropped: too many wait already, or there will be no connection
   */
  send(frame) {
    const text = typeof frame === "string" ? frame : JSON.stringify(frame);
    if (new TextEncoder().encode(text).length > MAX_FRAME_BYTES) {
      throw new RangeError(`a frame may have ${MAX_FRAME_BYTES} bytes`);
    }
    if (this.#queue.length === 0 && this.#connection?.link?.send(text)) return true;
    if (this.#wanted && this.#queue.length < this.#options.queueLimit) {
      this.#queue.push(text);
      // Behind an open connection that could not take more, the queue goes with the next frame that comes.
      return true;
    }
    this.#dropped += 1;
    return false;
  }

  /**
   * Asks who is in the room; the answer is the event `members`. Not kept where there is no connection.
   * @returns {boolean} whether it was asked
   */
  requestMembers() {
    return this.#connection?.link?.send(MEMBERS) ?? false;
  }

  // The course of a connection.

  /** The promise of the join that there is, or that is being tried. */
  #joined() {
    if (!this.#pending.current && this.#connection?.link?.isOpen) return Promise.resolve();
    return this.#pending.current ?? this.#pending.renew();
  }

  /** Tries now. */
  async #try() {
    this.#clock.clearTimeout(this.#retryTimer);
    this.#turn += 1;
    const turn = this.#turn;
    if (this.#offline) {
      this.#tell("offline");
      return;
    }
    this.#tell("connecting");
    await this.#findEndpoints(turn);
    if (turn !== this.#turn || this.#offline) return;
    const place = this.#endpoints.choose(this.#clock.now());
    if (!place && this.#endpoints.isEmpty) {
      this.#retryLater({ code: 1006, status: 0, reason: "no address is known yet" });
      return;
    }
    if (!place) {
      const reason = "this page came over https, and no address begins with wss://";
      this.#finish(new RingcastError("no_address", reason));
      return;
    }
    this.#connection = { place, room: this.#room, url: joinUrl(place.url, this.#options, this.#room), link: null };
    this.#tell("connecting");
    // Whoever was told may have had enough, or gone elsewhere.
    if (turn === this.#turn) this.#begin(this.#connection);
  }

  /**
   * Asks the caller's function, and the cluster where it is to choose. Neither is waited for where neither is wanted.
   * @param {number} turn
   */
  async #findEndpoints(turn) {
    const { endpoints, balance } = this.#options;
    if (endpoints) {
      try {
        const given = (await endpoints()).map(readUrl);
        if (turn === this.#turn && given.length > 0) this.#endpoints.setGiven(given);
      } catch (error) {
        if (turn === this.#turn) this.#emit("error", new RingcastError("no_endpoints", String(error)));
      }
    }
    const place = balance && turn === this.#turn && this.#endpoints.choose(this.#clock.now());
    if (!place) return;
    // Later the list is read anyway; before the first connection it is read once, or until there is one.
    const isFirst = this.#attempt === 0 && !this.#wasOpen;
    const isMissing = this.#endpoints.nodes.length === 0 && !this.#endpoints.isSilent(place.url, this.#clock.now());
    if (isFirst || isMissing) await this.#nodeList.read(place.url, true);
  }

  /** @param {Connection} connection */
  #begin(connection) {
    try {
      connection.link = new Link(connection.url, {
        Socket: this.#options.WebSocket,
        clock: this.#clock,
        on: {
          opened: () => this.#opened(connection),
          received: (text) => this.#take(text),
          sent: (text) => this.#emit("frame", { direction: "out", text }),
          roundTrip: (ms) => this.#emit("roundtrip", { ms }),
          ended: (end) => this.#ended(connection, end),
        },
      });
    } catch (error) {
      // The constructor refuses an address for good: no second attempt would change its mind.
      this.#finish(new RingcastError("bad_address", String(error)));
    }
  }

  /** @param {Connection} connection */
  #opened(connection) {
    if (connection === this.#next) {
      this.#connection?.link?.close();
      this.#connection = connection;
      this.#next = null;
      this.#enter(connection.room);
    } else if (this.#wasOpen) {
      this.#reconnects += 1;
    }
    this.#wasOpen = true;
    this.#echoes.changed(this.#clock.now());
    this.#endpoints.succeed(connection.place.url);
    this.#pending.settle(null);
    // Told before anything is sent: whoever hears of a frame may end the connection.
    this.#tellOpen();
    this.#flush();
    if (connection === this.#connection && !this.#offline) this.#nodeList.follow(connection.place.url);
  }

  /**
   * @param {Connection} connection
   * @param {LinkEnd} end
   */
  #ended(connection, end) {
    if (connection === this.#next) {
      this.#next = null;
      this.#echoes.forget();
      void this.#refuseChange(connection, end);
      return;
    }
    if (connection !== this.#connection) return;
    this.#connection = null;
    this.#nodeList.stop();
    if (this.#next) {
      // The room that is being joined is where the caller wants to be.
      this.#connection = this.#next;
      this.#next = null;
      this.#enter(this.#connection.room);
      this.#tell(this.#offline ? "offline" : "connecting", { reason: end.reason });
      return;
    }
    this.#echoes.forget();
    if (end.opened) this.#lost(connection, end);
    else void this.#refused(connection, end);
  }

  /**
   * @param {Connection} connection
   * @param {LinkEnd} end
   */
  #lost(connection, end) {
    if (classifyClose(end.code) === "terminal") {
      this.#finish(new RingcastError("closed", end.reason || `closed with ${end.code}`, { code: end.code }));
      return;
    }
    if (end.openMs >= STABLE_MS) this.#attempt = 0;
    // Whoever is offline himself knows nothing against the node.
    if (leavesNode(end.code) && end.cause !== "dropped" && !this.#offline) {
      this.#endpoints.fail(connection.place.url, this.#clock.now());
    }
    this.#retryLater({ code: end.code, status: 0, reason: end.reason || "the connection was lost" });
  }

  /**
   * @param {Connection} connection
   * @param {LinkEnd} end
   */
  async #refused(connection, end) {
    const turn = this.#turn;
    const why = await this.#why(connection, end);
    if (turn !== this.#turn) return;
    if (classifyRefusal(why.status) === "terminal") {
      this.#finish(new RingcastError(why.reason, why.message, { status: why.status }));
      return;
    }
    if (!this.#offline) this.#endpoints.fail(connection.place.url, this.#clock.now(), why.retryAfterMs);
    this.#retryLater({ code: 1006, status: why.status, reason: why.message });
  }

  /**
   * Why a handshake failed. A node that is known not to answer is not asked: a page cannot keep its browser from
   * writing an error for every request that fails.
   * @param {Connection} connection
   * @param {LinkEnd} end
   */
  async #why(connection, end) {
    const { url } = connection.place;
    if (this.#endpoints.isSilent(url, this.#clock.now()) || this.#offline || end.cause !== "closed") {
      return { status: 0, reason: "unreachable", message: "the node does not answer", retryAfterMs: 0 };
    }
    const why = await this.#asking.refusal(connection.url);
    if (why.status === 0) this.#endpoints.silent(url, this.#clock.now());
    return why;
  }

  /** @param {{ code: number, status: number, reason: string }} why */
  #retryLater(why) {
    if (this.#offline) {
      this.#tell("offline", { reason: why.reason });
      return;
    }
    this.#attempt += 1;
    const now = this.#clock.now();
    const asked = (this.#endpoints.choose(now)?.notBefore ?? 0) - now;
    const delayMs = Math.max(backoffMs(this.#attempt, this.#options.random), Math.ceil(asked));
    this.#retryTimer = this.#clock.setTimeout(() => void this.#try(), delayMs);
    const attempt = this.#attempt;
    const turn = this.#turn;
    this.#tell("waiting", { delayMs, reason: why.reason });
    if (turn === this.#turn) this.#emit("reconnecting", { attempt, delayMs, ...why });
  }

  // Another room.

  /**
   * What comes to the former room meanwhile is not waited for.
   * @param {string} room
   */
  #enter(room) {
    if (room !== this.#room) this.#numbering.forgetTarget(`room:${this.#room}`);
    this.#room = room;
  }

  /**
   * @param {Connection} former
   * @param {string} room
   * @returns {Promise<void>}
   */
  #change(former, room) {
    const isBack = room === former.room;
    if (isBack && !this.#pending.current) return Promise.resolve();
    this.#next?.link?.close();
    this.#next = null;
    this.#echoes.forget();
    if (isBack) {
      this.#pending.settle(new RingcastError("superseded", "another room was asked for"));
      this.#tellOpen();
      return Promise.resolve();
    }
    const promise = this.#pending.renew();
    const url = joinUrl(former.place.url, this.#options, room);
    this.#next = { place: former.place, room, url, link: null };
    const next = this.#next;
    this.#tellOpen();
    if (next === this.#next) this.#begin(next);
    return promise;
  }

  /**
   * @param {Connection} connection
   * @param {LinkEnd} end
   */
  async #refuseChange(connection, end) {
    const promise = this.#pending.current;
    const why = await this.#why(connection, end);
    if (promise !== this.#pending.current || this.#next) return;
    const error = new RingcastError(why.reason, why.message, { status: why.status });
    this.#pending.settle(error);
    if (this.#connection?.link?.isOpen) this.#tellOpen();
    this.#emit("error", error);
  }

  // What is sent and what comes.

  #flush() {
    while (this.#queue.length > 0) {
      if (!this.#connection?.link?.send(/** @type {string} */ (this.#queue[0]))) return;
      this.#queue.shift();
    }
  }

  /**
   * A frame of the connection: one that is being opened has none yet, and a link that was let go says nothing.
   * @param {string} text
   */
  #take(text) {
    this.#emit("frame", { direction: "in", text });
    this.#flush();
    const incoming = readFrame(text);
    if (incoming.kind === "members") this.#emit("members", incoming.detail);
    if (incoming.kind !== "message") return;
    if (this.#next) this.#echoes.remember(text);
    else if (this.#echoes.take(text, this.#clock.now())) return;
    const { message } = incoming;
    this.#received += 1;
    message.duplicate = this.#numbering.take(numberedBy(message), message.metadata) === "duplicate";
    if (this.#options.decode && message.encoding === "base64") message.bytes = decodeBase64(message.content);
    this.#emit("message", message);
  }

  // The surroundings.

  /** A machine without a network still reaches itself. */
  #startsOffline() {
    const { endpoints, given } = this.#options;
    const isLocal = !endpoints && given.every((url) => isLoopback(new URL(url).hostname));
    return this.#surroundings.saysOffline && !isLocal;
  }

  #wentOffline() {
    this.#offline = true;
    this.#clock.clearTimeout(this.#retryTimer);
    this.#nodeList.stop();
    this.#tell("offline");
  }

  #cameOnline() {
    if (!this.#offline) return;
    this.#offline = false;
    const { link, place } = this.#connection ?? {};
    if (link?.isOpen && place) {
      this.#tellOpen();
      link.check();
      this.#nodeList.follow(place.url);
    } else if (link) {
      this.#tell("connecting");
    } else {
      void this.#try();
    }
  }

  #cameBack() {
    // A page that was put aside heard no event, and the timers of a hidden one are held back: it finds out now.
    if (!this.#surroundings.saysOffline) this.#cameOnline();
    this.#connection?.link?.check();
    this.retryNow();
  }

  // The end.

  #aborted = () => this.disconnect();

  /** @param {RingcastError} error */
  #finish(error) {
    const turn = this.#turn;
    this.#emit("error", error);
    // Whoever was told may have gone elsewhere.
    if (turn !== this.#turn) return;
    this.#pending.settle(error);
    const { code, status, message } = error;
    this.#stop("closed", { code: code || 1006, status, reason: message, terminal: true });
  }

  /**
   * @param {State} state
   * @param {DisconnectedDetail} detail
   */
  #stop(state, detail) {
    const was = this.#wanted;
    this.#wanted = false;
    this.#offline = false;
    this.#queue.length = 0;
    this.#numbering.forget();
    this.#surroundings.ignore();
    this.#options.signal?.removeEventListener("abort", this.#aborted);
    this.#letGo();
    this.#pending.settle(new RingcastError(detail.reason, detail.reason));
    if (!was) return;
    this.#tell(state, { reason: detail.reason });
    this.#emit("disconnected", detail);
  }

  #letGo() {
    this.#turn += 1;
    this.#clock.clearTimeout(this.#retryTimer);
    this.#nodeList.stop();
    this.#echoes.forget();
    this.#next?.link?.close();
    this.#next = null;
    this.#connection?.link?.close();
    this.#connection = null;
  }

  // What is told.

  /** There is a connection; a browser without a network says so all the same. */
  #tellOpen() {
    this.#tell(this.#offline ? "offline" : "open");
  }

  /**
   * @param {State} state
   * @param {{ delayMs?: number, reason?: string }} [more]
   */
  #tell(state, { delayMs = 0, reason = "" } = {}) {
    const previous = this.#state;
    this.#state = state;
    const { url = "" } = this.#connection?.place ?? {};
    this.#emit("state", {
      state,
      previous,
      room: this.#room,
      joining: this.#next?.room ?? "",
      url,
      nodeId: url && this.#endpoints.nodeIdOf(url),
      attempt: this.#attempt,
      delayMs,
      reason,
    });
  }

  /**
   * @template {keyof RingcastEvents} K
   * @param {K} type
   * @param {RingcastEvents[K]} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new DetailEvent(type, detail));
  }
}
