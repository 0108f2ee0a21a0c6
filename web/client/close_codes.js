// @ts-check
/**
 * What the end of a connection means for the next one.
 *
 * Owns: which close codes and which refused handshakes are final. Must not: know of timers or nodes.
 * The classes are those of the node's own table: 1001, 1006, 1011 to 1013 and 4000 to 4499 mean "come back, with
 * backoff", everything else means "do not".
 */

/**
 * @typedef {"retry" | "terminal"} EndClass
 */

const COME_BACK = new Set([1001, 1006, 1011, 1012, 1013]);

/** Codes after which another node is the better choice, because this one is gone, going or in trouble. */
const LEAVE_NODE = new Set([1001, 1006, 1011, 1012, 1013, 4002]);

/** A retry cannot help: the request itself is wrong, or the caller is not allowed. */
const FINAL_STATUS = new Set([400, 401, 403]);

/**
 * The class of a close code.
 * @param {number} code
 * @returns {EndClass}
 */
export function classifyClose(code) {
  return COME_BACK.has(code) || (code >= 4000 && code <= 4499) ? "retry" : "terminal";
}

/**
 * Whether the node that closed with this code should be tried last.
 * @param {number} code
 */
export function leavesNode(code) {
  return LEAVE_NODE.has(code);
}

/**
 * The class of a refused handshake. 409 is a full room, in which a seat may become free; 426 says that the join
 * would have been granted just now.
 * @param {number} status the HTTP status; 0 where nothing answered
 * @returns {EndClass}
 */
export function classifyRefusal(status) {
  return FINAL_STATUS.has(status) ? "terminal" : "retry";
}
