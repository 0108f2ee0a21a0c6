/**
 * A clock, a WebSocket, a page and an HTTP server that do what a test says, and nothing by themselves.
 */

import { RingcastClient } from "../ringcast-client.js";

/** A clock that stands until it is moved. */
export class FakeClock {
  #now = 1_000;
  #next = 1;
  #timers = new Map();

  now = () => this.#now;

  setTimeout = (callback, ms) => {
    const id = this.#next;
    this.#next += 1;
    this.#timers.set(id, { at: this.#now + ms, callback });
    return id;
  };

  clearTimeout = (id) => {
    this.#timers.delete(id);
  };

  /** How many timers are armed. */
  get armed() {
    return this.#timers.size;
  }

  /** Moves on, calling what is due in its order, and lets promises settle after each. */
  async advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.#now = Math.max(this.#now, due[1].at);
      due[1].callback();
      await settle();
    }
    this.#now = end;
    await settle();
  }

  /** Jumps, as after a sleep of the machine: what is due is called late, all at the same moment. */
  async jump(ms) {
    this.#now += ms;
    await this.advance(0);
  }
}

/** Lets every promise that is ready settle. */
export async function settle() {
  for (let round = 0; round < 20; round += 1) await Promise.resolve();
}

/** A WebSocket whose other end is the test. */
export class FakeSocket {
  readyState = 0;
  bufferedAmount = 0;
  sent = [];
  closedWith = null;
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;

  constructor(url, world) {
    this.url = url;
    this.world = world;
  }

  get host() {
    return new URL(this.url).host;
  }

  get params() {
    return new URL(this.url).searchParams;
  }

  send(text) {
    if (this.readyState !== 1) throw new Error("sent before it was open");
    this.sent.push(text);
    if (this.world.pongs && text === '{"type":"ping"}') this.give({ type: "pong", timestamp: 1, data: { status: "ok" } });
  }

  close(code = 1005) {
    if (this.readyState > 1) return;
    this.closedWith = code;
    this.readyState = 2;
  }

  /** The node confirms the join. */
  open() {
    this.readyState = 1;
    this.onopen?.({});
    return settle();
  }

  /** The node sends. */
  give(frame) {
    this.onmessage?.({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
  }

  /** The connection ends, or the handshake fails. */
  end(code = 1006, reason = "") {
    this.readyState = 3;
    this.onerror?.({});
    this.onclose?.({ code, reason });
    return settle();
  }
}

/** A client and all that it knows of the world. */
export class World {
  clock = new FakeClock();
  sockets = [];
  asked = [];
  answers = new Map();
  events = [];
  pongs = true;
  window = Object.assign(new EventTarget(), { navigator: { onLine: true } });
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  random = () => 0.5;

  /** Makes the client; options replace what it has by default. */
  client(options = {}) {
    const world = this;
    function Socket(url) {
      const socket = new FakeSocket(url, world);
      world.sockets.push(socket);
      return socket;
    }
    const client = new RingcastClient({
      url: "ws://a.test/ws",
      user: "user-001",
      name: "Alice",
      room: "room-001",
      WebSocket: Socket,
      fetch: (url) => this.#answer(url),
      clock: this.clock,
      random: () => this.random(),
      surroundings: { window: this.window, document: this.document },
      secure: false,
      ...options,
    });
    for (const type of ["state", "message", "reconnecting", "disconnected", "error", "members", "roundtrip"]) {
      client.addEventListener(type, ({ detail }) => this.events.push({ type, detail }));
    }
    return client;
  }

  /** What `GET url` answers: a status, a body, headers. Without one, nothing answers. */
  answer(url, status, body, headers = {}) {
    this.answers.set(url, { status, body, headers });
  }

  /** `GET /nodes` at each of these hosts names all of them, in this order. */
  cluster(...hosts) {
    const nodes = hosts.map((host, index) => ({
      node_id: `node-${index + 1}`,
      url: `ws://${host}/ws`,
      connections: 0,
      capacity: 10,
      state: "ready",
    }));
    for (const host of hosts) this.answer(`http://${host}/nodes`, 200, { nodes });
  }

  async #answer(url) {
    this.asked.push(url);
    const { pathname, origin } = new URL(url);
    const answer = this.answers.get(url) ?? this.answers.get(origin + pathname);
    if (!answer) throw new TypeError("Failed to fetch");
    return {
      status: answer.status,
      headers: new Headers(answer.headers),
      json: async () => answer.body,
    };
  }

  /** The socket that was made last. */
  get socket() {
    return this.sockets[this.sockets.length - 1];
  }

  /** The details of all events of a type. */
  told(type) {
    return this.events.filter((event) => event.type === type).map((event) => event.detail);
  }

  /** The last wait before an attempt, in milliseconds. */
  get wait() {
    return this.told("reconnecting").at(-1)?.delayMs;
  }

  /** Connects, and lets the node confirm. */
  async connected(options) {
    const client = this.client(options);
    client.connect();
    await settle();
    await this.socket.open();
    return client;
  }

  /** The network comes or goes. */
  async network(type) {
    this.window.dispatchEvent(new Event(type));
    await settle();
  }

  /** The page is shown or hidden. */
  async visibility(state) {
    this.document.visibilityState = state;
    this.document.dispatchEvent(new Event("visibilitychange"));
    await settle();
  }
}

/** A room push. */
export function roomPush(content, metadata = {}, room = "room-001") {
  return { type: "text", room_id: room, user_id: "", timestamp: 1, data: { content }, metadata };
}

/** A broadcast. */
export function broadcast(content, metadata = {}) {
  return { type: "text", room_id: "", user_id: "", timestamp: 1, data: { content }, metadata };
}
