// @ts-check
/**
 * The JSON objects of the wire: reads what a node sends, writes what a client asks.
 *
 * Owns: the shape of both. Must not: trust what it reads; a frame that is not understood is `unknown`, never an
 * exception.
 */

/** @typedef {"room" | "user" | "everyone"} Target */

/**
 * @typedef {object} RingcastMessage
 * @property {string} type `text`, `audio`, `video`, `translation` or `system`
 * @property {Target} target whom it was pushed to
 * @property {string} room the room of a room push, else empty
 * @property {string} user the user of a user push, else empty
 * @property {number} timestamp milliseconds since the Unix epoch
 * @property {string} content the payload as it came: text, or base64 where `encoding` says so
 * @property {"" | "base64"} encoding
 * @property {Uint8Array | null} bytes the payload's bytes, where decoding was asked for and it is base64
 * @property {Record<string, string>} metadata
 * @property {boolean} duplicate its number was seen before
 */

/**
 * @typedef {object} Member
 * @property {string} userId
 * @property {string} userName
 */

/**
 * @typedef {object} MembersDetail
 * @property {string} room
 * @property {number} total how many are told of
 * @property {boolean} more whether there are more than these
 * @property {Member[]} members
 * @property {string} error why there is no list, else empty
 */

/**
 * @typedef {{ kind: "message", message: RingcastMessage }
 *   | { kind: "pong" }
 *   | { kind: "members", detail: MembersDetail }
 *   | { kind: "unknown" }} Incoming
 */

const MESSAGE_TYPES = new Set(["text", "audio", "video", "translation", "system"]);

/** The request for a pong. */
export const PING = '{"type":"ping"}';

/** The request for the room's members. */
export const MEMBERS = '{"type":"members"}';

/**
 * Reads one frame.
 * @param {string} text
 * @returns {Incoming}
 */
export function readFrame(text) {
  const value = parseObject(text);
  if (!value) return { kind: "unknown" };
  if (value.type === "pong") return { kind: "pong" };
  if (value.type === "members") return { kind: "members", detail: readMembers(value) };
  if (typeof value.type !== "string" || !MESSAGE_TYPES.has(value.type)) return { kind: "unknown" };
  return { kind: "message", message: readMessage(value.type, value) };
}

/**
 * The bytes of base64 text; `null` where it is none.
 * @param {string} text
 * @returns {Uint8Array<ArrayBuffer> | null}
 */
export function decodeBase64(text) {
  if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) return null;
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let at = 0; at < binary.length; at += 1) bytes[at] = binary.charCodeAt(at);
  return bytes;
}

/**
 * Within what a message's number counts, beside its source: one room, one user, or everyone.
 * @param {RingcastMessage} message
 */
export function numberedBy(message) {
  return message.target === "everyone" ? "everyone" : `${message.target}:${message.room || message.user}`;
}

/**
 * @param {string} type
 * @param {Record<string, unknown>} value
 * @returns {RingcastMessage}
 */
function readMessage(type, value) {
  const room = asText(value.room_id);
  const user = asText(value.user_id);
  const metadata = readMetadata(value.metadata);
  return {
    type,
    target: room ? "room" : user ? "user" : "everyone",
    room,
    user,
    timestamp: typeof value.timestamp === "number" ? value.timestamp : 0,
    content: asText(asObject(value.data)?.content),
    encoding: metadata.encoding === "base64" ? "base64" : "",
    bytes: null,
    metadata,
    duplicate: false,
  };
}

/**
 * @param {Record<string, unknown>} value
 * @returns {MembersDetail}
 */
function readMembers(value) {
  const data = asObject(value.data) ?? {};
  const listed = Array.isArray(data.members) ? data.members : [];
  const members = listed.flatMap((entry) => {
    const userId = asText(asObject(entry)?.user_id);
    return userId ? [{ userId, userName: asText(asObject(entry)?.user_name) }] : [];
  });
  return {
    room: asText(value.room_id),
    total: typeof data.total === "number" ? data.total : members.length,
    more: data.more === true,
    members,
    error: asText(data.error),
  };
}

/**
 * @param {unknown} value
 * @returns {Record<string, string>}
 */
function readMetadata(value) {
  /** @type {Record<string, string>} */
  const metadata = Object.create(null);
  for (const [key, text] of Object.entries(asObject(value) ?? {})) {
    if (typeof text === "string") metadata[key] = text;
  }
  return metadata;
}

/**
 * An object of JSON text; `null` where it is none.
 * @param {string} text
 * @returns {Record<string, unknown> | null}
 */
function parseObject(text) {
  try {
    return asObject(JSON.parse(text));
  } catch {
    return null;
  }
}

/**
 * @param {unknown} value
 * @returns {Record<string, unknown> | null}
 */
export function asObject(value) {
  const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
  return isObject ? /** @type {Record<string, unknown>} */ (value) : null;
}

/** @param {unknown} value */
export function asText(value) {
  return typeof value === "string" ? value : "";
}
