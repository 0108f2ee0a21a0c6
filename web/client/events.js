// @ts-check
/**
 * What the client tells: the events, what each carries, and the error.
 *
 * Owns: the shape of what a caller sees. Must not: hold state.
 */

/** @typedef {import("./wire.js").RingcastMessage} RingcastMessage */
/** @typedef {import("./wire.js").MembersDetail} MembersDetail */
/** @typedef {import("./endpoints.js").NodeInfo} NodeInfo */

/**
 * `idle`: never connected, or left. `waiting`: for the next attempt. `offline`: the browser has no network; nothing is
 * tried. `closed`: for good, until `connect` is called again.
 * @typedef {"idle" | "connecting" | "open" | "waiting" | "offline" | "closed"} State
 */

/**
 * @typedef {object} StateDetail
 * @property {State} state
 * @property {State} previous
 * @property {string} room
 * @property {string} joining the room that is being joined while this one is still open, else empty
 * @property {string} url the node's address, empty while there is none
 * @property {string} nodeId the node's id, empty while it is not known
 * @property {number} attempt how many attempts have followed one another
 * @property {number} delayMs in `waiting`: until the next attempt
 * @property {string} reason why, where there is something to tell
 */

/**
 * @typedef {object} ReconnectingDetail
 * @property {number} attempt
 * @property {number} delayMs
 * @property {number} code the close code; 1006 where there was none
 * @property {number} status the HTTP status of a refused handshake, else 0
 * @property {string} reason
 */

/**
 * @typedef {object} DisconnectedDetail
 * @property {number} code
 * @property {number} status
 * @property {string} reason
 * @property {boolean} terminal true where the other end said that coming back is of no use
 */

/**
 * @typedef {object} Counters
 * @property {number} received messages
 * @property {number} lost numbers that did not come
 * @property {number} duplicate numbers that came twice
 * @property {number} reconnects
 * @property {number} dropped frames that were not sent, because too many waited
 */

/**
 * The `detail` of each event.
 * @typedef {object} RingcastEvents
 * @property {StateDetail} state
 * @property {RingcastMessage} message
 * @property {ReconnectingDetail} reconnecting
 * @property {DisconnectedDetail} disconnected
 * @property {RingcastError} error
 * @property {MembersDetail} members
 * @property {{ nodes: NodeInfo[], nodeId: string }} nodes
 * @property {{ ms: number }} roundtrip
 * @property {{ direction: "in" | "out", text: string }} frame
 */

/** Why something did not come to be. */
export class RingcastError extends Error {
  /**
   * @param {string} reason a word for programs
   * @param {string} message for people
   * @param {{ status?: number, code?: number }} [of]
   */
  constructor(reason, message, { status = 0, code = 0 } = {}) {
    super(message);
    this.name = "RingcastError";
    this.reason = reason;
    this.status = status;
    this.code = code;
  }
}

/** CustomEvent, which Node 18 does not have.
 * @template T */
export class DetailEvent extends Event {
  /**
   * @param {string} type
   * @param {T} detail
   */
  constructor(type, detail) {
    super(type);
    this.detail = detail;
  }
}
