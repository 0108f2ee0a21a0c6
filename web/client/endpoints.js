// @ts-check
/**
 * Which node to try next.
 *
 * Owns: the addresses that were given, the nodes that the cluster names, and what is known against each.
 * Must not: open a connection or keep a timer.
 */

import { asObject, asText } from "./wire.js";

/**
 * @typedef {object} NodeInfo
 * @property {string} nodeId
 * @property {string} url where its WebSocket is
 * @property {number} connections
 * @property {string} state
 */

/**
 * @typedef {object} Endpoint
 * @property {string} url
 * @property {string} nodeId empty where it is not known
 */

/** @typedef {{ failedAt: number, notBefore: number }} Fault */

/** So many nodes of a list are looked at. */
const MAX_NODES = 64;

/** A fault is forgotten when the cluster names the node and the fault is older than this, in milliseconds: a node
 * that died is still named until its lease is over. */
const FAULT_HOLDS_MS = 30_000;

/** A node that did not answer is not asked for its reasons again within this, in milliseconds. */
const ASK_AGAIN_MS = 30_000;

const LOOPBACK = new Set(["localhost", "127.0.0.1", "[::1]"]);

export class Endpoints {
  /** @type {string[]} */
  #given;
  /** @type {NodeInfo[]} */
  #nodes = [];
  /** @type {Map<string, Fault>} */
  #faults = new Map();
  /** @type {Map<string, number>} when each did not answer */
  #silentSince = new Map();
  /** @type {Map<string, string>} */
  #nodeIds = new Map();
  #balance;
  #secure;

  /**
   * @param {string[]} given addresses, the preferred one first
   * @param {{ balance: boolean, secure: boolean }} options `balance`: the cluster's choice before the given one.
   *   `secure`: the page came over https, where a browser refuses ws:// but to this machine
   */
  constructor(given, { balance, secure }) {
    this.#balance = balance;
    this.#secure = secure;
    this.#given = given;
  }

  /** The nodes that the cluster named last. */
  get nodes() {
    return this.#nodes;
  }

  /** Whether no address is known at all. */
  get isEmpty() {
    return this.#given.length === 0 && this.#nodes.length === 0;
  }

  /**
   * Replaces the addresses that were given.
   * @param {string[]} given
   */
  setGiven(given) {
    this.#given = given;
    this.#forgetStrangers();
  }

  /**
   * Takes the answer to `GET /nodes`. Entries that cannot be used from here are left out.
   * @param {unknown} answer
   * @param {string} askedUrl the address of the node that answered
   * @param {number} now
   * @returns {boolean} whether it was a list
   */
  setNodes(answer, askedUrl, now) {
    const listed = asObject(answer)?.nodes;
    if (!Array.isArray(listed)) return false;
    this.#nodes = listed.slice(0, MAX_NODES).flatMap((entry) => readNode(asObject(entry), askedUrl));
    for (const node of this.#nodes) {
      const fault = this.#faults.get(keyOf(node.url));
      if (fault && now - fault.failedAt > FAULT_HOLDS_MS) this.#faults.delete(keyOf(node.url));
      if (node.nodeId) this.#nodeIds.set(keyOf(node.url), node.nodeId);
    }
    this.#forgetStrangers();
    return true;
  }

  /**
   * The best address to try; `null` where there is none that may be tried from here.
   * @param {number} now
   * @returns {(Endpoint & { notBefore: number }) | null}
   */
  choose(now) {
    const ranked = this.#candidates()
      .map((url) => ({ url, fault: this.#faults.get(keyOf(url)) }))
      // Array.prototype.sort is stable: without faults the order of the candidates holds.
      .sort((a, b) => rank(a.fault, now) - rank(b.fault, now));
    const best = ranked[0];
    if (!best) return null;
    return { url: best.url, nodeId: this.nodeIdOf(best.url), notBefore: best.fault?.notBefore ?? 0 };
  }

  /**
   * Ranks an address behind those that have no fault.
   * @param {string} url
   * @param {number} now
   * @param {number} [waitMs] the server asked not to come back before that
   */
  fail(url, now, waitMs = 0) {
    this.#faults.set(keyOf(url), { failedAt: now, notBefore: now + waitMs });
  }

  /**
   * The address works.
   * @param {string} url
   */
  succeed(url) {
    this.#faults.delete(keyOf(url));
    this.#silentSince.delete(keyOf(url));
  }

  /**
   * Nothing at all answered there.
   * @param {string} url
   * @param {number} now
   */
  silent(url, now) {
    this.#silentSince.set(keyOf(url), now);
  }

  /**
   * Whether that was only just so.
   * @param {string} url
   * @param {number} now
   */
  isSilent(url, now) {
    const since = this.#silentSince.get(keyOf(url));
    return since !== undefined && now - since < ASK_AGAIN_MS;
  }

  /**
   * The id of the node at an address; empty where it is not known.
   * @param {string} url
   */
  nodeIdOf(url) {
    return this.#nodeIds.get(keyOf(url)) ?? "";
  }

  /**
   * @param {string} url
   * @param {string} nodeId
   */
  setNodeId(url, nodeId) {
    this.#nodeIds.set(keyOf(url), nodeId);
  }

  /** @returns {string[]} each place once, in the order of preference */
  #candidates() {
    const named = this.#nodes.map((node) => node.url);
    const ordered = this.#balance ? [...named, ...this.#given] : [...this.#given, ...named];
    const seen = new Set();
    return ordered.filter((url) => {
      const key = keyOf(url);
      if (seen.has(key) || !mayConnect(url, this.#secure)) return false;
      seen.add(key);
      return true;
    });
  }

  /** Keeps what is remembered within the addresses that there are. */
  #forgetStrangers() {
    const known = new Set([...this.#given, ...this.#nodes.map((node) => node.url)].map(keyOf));
    for (const map of [this.#faults, this.#silentSince, this.#nodeIds]) {
      for (const key of map.keys()) {
        if (!known.has(key)) map.delete(key);
      }
    }
  }
}

/**
 * No fault comes first; then the fault that lies furthest back; last, whoever asked for more time.
 * @param {Fault | undefined} fault
 * @param {number} now
 */
function rank(fault, now) {
  if (!fault) return -1;
  return fault.notBefore > now ? Number.MAX_SAFE_INTEGER / 2 + fault.notBefore : fault.failedAt;
}

/**
 * @param {Record<string, unknown> | null} entry
 * @param {string} askedUrl
 * @returns {NodeInfo[]} one, or none where it has no usable address
 */
function readNode(entry, askedUrl) {
  const url = reachableFrom(asText(entry?.url), askedUrl);
  if (!url) return [];
  return [{
    nodeId: asText(entry?.node_id),
    url,
    connections: typeof entry?.connections === "number" ? entry.connections : 0,
    state: asText(entry?.state),
  }];
}

/**
 * An announced address as it can be reached by someone who reached `askedUrl`. A node that announces its own machine
 * (the embedded system says ws://localhost:8081/ws) is, for everyone else, on the machine that was asked.
 * @param {string} announced
 * @param {string} askedUrl
 * @returns {string} empty where it is no WebSocket address
 */
export function reachableFrom(announced, askedUrl) {
  let url;
  let asked;
  try {
    url = new URL(announced);
    asked = new URL(askedUrl);
  } catch {
    return "";
  }
  if (url.protocol !== "ws:" && url.protocol !== "wss:") return "";
  if (isLoopback(url.hostname) && !isLoopback(asked.hostname)) url.hostname = asked.hostname;
  // The WebSocket's constructor throws for a fragment.
  url.hash = "";
  return url.href;
}

/**
 * Whether a host name is this machine.
 * @param {string} hostname
 */
export function isLoopback(hostname) {
  return LOOPBACK.has(hostname);
}

/**
 * Browsers refuse ws:// to a page that came over https, except to this machine.
 * @param {string} url
 * @param {boolean} secure
 */
export function mayConnect(url, secure) {
  const { protocol, hostname } = new URL(url);
  return protocol === "wss:" || !secure || isLoopback(hostname);
}

/**
 * The http(s) origin that belongs to a WebSocket address.
 * @param {string} url
 */
export function httpOrigin(url) {
  return new URL(url.replace(/^ws/i, "http")).origin;
}

/**
 * What makes two addresses the same place: this machine has three names, and a query makes no other node.
 * @param {string} url
 */
function keyOf(url) {
  const { protocol, hostname, port, pathname } = new URL(url);
  return `${protocol}//${isLoopback(hostname) ? "localhost" : hostname}:${port}${pathname}`;
}
