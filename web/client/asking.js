// @ts-check
/**
 * What is asked of a node over plain HTTP: the list of nodes, its id, and why a handshake was refused.
 *
 * Owns: the requests and their time limit. Must not: decide when to ask. Nothing here throws: no answer is an answer.
 */

import { retryAfterMs } from "./backoff.js";
import { httpOrigin } from "./endpoints.js";
import { asObject, asText } from "./wire.js";

/** @typedef {import("./options.js").Clock} Clock */

/**
 * @typedef {object} Refusal
 * @property {number} status the HTTP status; 0 where nothing answered
 * @property {string} reason a word for programs, such as `room_full`
 * @property {string} message for people
 * @property {number} retryAfterMs 0 where the server asked for no wait
 */

/** How long an answer may take, in milliseconds. */
const ANSWER_WITHIN_MS = 5_000;

export class Asking {
  #fetch;
  #clock;

  /**
   * @param {typeof globalThis.fetch} request
   * @param {Clock} clock
   */
  constructor(request, clock) {
    this.#fetch = request;
    this.#clock = clock;
  }

  /**
   * The body of `GET /nodes`; `null` where there is none.
   * @param {string} url the WebSocket address of the node that is asked
   * @param {boolean} choosing whoever asks goes to the first of them
   * @returns {Promise<unknown>}
   */
  async nodes(url, choosing) {
    const answer = await this.#get(`${httpOrigin(url)}/nodes${choosing ? "?choose" : ""}`);
    return answer?.status === 200 ? answer.body : null;
  }

  /**
   * The node's id by `GET /stats`; empty where it is not told.
   * @param {string} url
   */
  async nodeId(url) {
    const answer = await this.#get(`${httpOrigin(url)}/stats`);
    return asText(asObject(answer?.body)?.node_id);
  }

  /**
   * Why a handshake with this address was refused: the node says so to a plain GET.
   * @param {string} url the whole address, with its query
   * @returns {Promise<Refusal>}
   */
  async refusal(url) {
    const answer = await this.#get(url.replace(/^ws/i, "http"));
    if (!answer) return { status: 0, reason: "unreachable", message: "the node does not answer", retryAfterMs: 0 };
    const body = asObject(answer.body);
    const reason = asText(body?.reason) || asText(body?.error) || `http_${answer.status}`;
    return {
      status: answer.status,
      reason,
      message: asText(body?.message) || reason,
      retryAfterMs: retryAfterMs(answer.retryAfter ?? body?.retry_after, Date.now()),
    };
  }

  /**
   * @param {string} url
   * @returns {Promise<{ status: number, body: unknown, retryAfter: string | null } | null>}
   */
  async #get(url) {
    const abort = new AbortController();
    const timer = this.#clock.setTimeout(() => abort.abort(), ANSWER_WITHIN_MS);
    try {
      const response = await this.#fetch(url, { signal: abort.signal, cache: "no-store", credentials: "omit" });
      // A body that is no JSON says no more than its status.
      const body = await response.json().catch(() => null);
      return { status: response.status, body, retryAfter: response.headers.get("retry-after") };
    } catch {
      return null;
    } finally {
      this.#clock.clearTimeout(timer);
    }
  }
}
