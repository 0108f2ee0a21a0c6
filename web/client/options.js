// @ts-check
/**
 * The client's options: their types, their defaults, and what is refused at once.
 *
 * Owns: where the surroundings (browser or Node) are looked up. Must not: keep a reference to a page.
 */

/**
 * @typedef {object} Clock
 * @property {() => number} now milliseconds of a clock that does not jump
 * @property {(callback: () => void, ms: number) => unknown} setTimeout
 * @property {(timer: any) => void} clearTimeout
 */

/**
 * Where `online`, `offline` and `visibilitychange` come from.
 * @typedef {object} Surroundings
 * @property {EventTarget | null} window gives `online` and `offline`
 * @property {(EventTarget & { visibilityState?: string }) | null} document gives `visibilitychange`
 */

/**
 * @typedef {object} RingcastOptions
 * @property {string} [url] a node's WebSocket address, such as `ws://localhost:8080/ws`; it is tried first
 * @property {string[]} [urls] several of them
 * @property {() => (string[] | Promise<string[]>)} [endpoints] gives them, asked at every `connect()` and, while the
 *   connection is lost, before every attempt
 * @property {string} user the user's id
 * @property {string} [name] the user's name
 * @property {string} [room] the room to join; may be left to `join`
 * @property {Record<string, string>} [metadata] told to the controller as the user's metadata
 * @property {boolean} [balance] take the node that the cluster names first, instead of the address that was given
 * @property {boolean} [decode] decode base64 payloads into `message.bytes`
 * @property {number} [queueLimit] so many frames wait for a connection at most; 64
 * @property {AbortSignal} [signal] disconnects for good
 * @property {typeof WebSocket} [WebSocket] for Node before 22, or a test
 * @property {typeof fetch} [fetch]
 * @property {Clock} [clock]
 * @property {() => number} [random] in [0, 1)
 * @property {Surroundings} [surroundings]
 * @property {boolean} [secure] the page came over https; found out where it is not given
 */

const DEFAULT_QUEUE_LIMIT = 64;

/**
 * The options with every default filled in. Throws a TypeError for what can never work.
 * @param {RingcastOptions} options
 */
export function readOptions(options) {
  const given = (options.urls ?? (options.url ? [options.url] : [])).map(readUrl);
  if (given.length === 0 && !options.endpoints) throw new TypeError("url, urls or endpoints is needed");
  if (!options.user) throw new TypeError("user is needed");
  const Socket = options.WebSocket ?? globalThis.WebSocket;
  if (!Socket) throw new TypeError("there is no WebSocket here: give one by the option WebSocket");
  return {
    given,
    endpoints: options.endpoints ?? null,
    user: options.user,
    name: options.name ?? "",
    room: options.room ?? "",
    metadata: options.metadata ?? {},
    balance: options.balance ?? false,
    decode: options.decode ?? false,
    queueLimit: options.queueLimit ?? DEFAULT_QUEUE_LIMIT,
    signal: options.signal ?? null,
    WebSocket: Socket,
    // Called without its object, a browser's own fetch throws.
    fetch: options.fetch ?? globalThis.fetch.bind(globalThis),
    clock: options.clock ?? systemClock(),
    random: options.random ?? Math.random,
    surroundings: options.surroundings ?? pageSurroundings(),
    secure: options.secure ?? globalThis.location?.protocol === "https:",
  };
}

/**
 * A WebSocket address, in the URL standard's spelling. http and https are read as ws and wss, and an address without
 * a host is one of the page's own.
 * @param {string} text
 */
export function readUrl(text) {
  const base = globalThis.location?.protocol?.startsWith("http") ? globalThis.location.href : undefined;
  let url;
  try {
    url = new URL(text.trim(), base);
  } catch {
    throw new TypeError(`not a WebSocket address: ${text}`);
  }
  const spelled = url.href.replace(/^http/, "ws");
  if (!/^wss?:/.test(spelled)) throw new TypeError(`not a WebSocket address: ${text}`);
  url = new URL(spelled);
  // The WebSocket's constructor throws for a fragment.
  url.hash = "";
  return url.href;
}

/**
 * The address of a join.
 * @param {string} url
 * @param {{ user: string, name: string, metadata: Record<string, string> }} who
 * @param {string} room
 */
export function joinUrl(url, who, room) {
  const target = new URL(url);
  for (const [key, value] of Object.entries(who.metadata)) target.searchParams.set(key, value);
  target.searchParams.set("user_id", who.user);
  if (who.name) target.searchParams.set("user_name", who.name);
  target.searchParams.set("room_id", room);
  return target.href;
}

/** @returns {Clock} */
function systemClock() {
  return {
    now: () => performance.now(),
    setTimeout: (callback, ms) => setTimeout(callback, ms),
    clearTimeout: (timer) => clearTimeout(timer),
  };
}

/** @returns {Surroundings} */
function pageSurroundings() {
  const isPage = typeof window !== "undefined" && typeof document !== "undefined";
  return isPage ? { window, document } : { window: null, document: null };
}
