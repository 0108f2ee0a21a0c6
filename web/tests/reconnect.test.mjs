/** When the client comes back, and when it does not. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { backoffMs, retryAfterMs } from "../client/backoff.js";
import { World, settle } from "./fakes.mjs";

const REFUSED = "http://a.test/ws?user_id=user-001&user_name=Alice&room_id=room-001";

test("the wait lies between the floor and a ceiling that doubles up to 20 s", () => {
  const ceilings = [1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000];
  for (const [index, ceiling] of ceilings.entries()) {
    assert.equal(backoffMs(index + 1, () => 0), 500);
    assert.equal(backoffMs(index + 1, () => 1 - Number.EPSILON), ceiling);
    assert.equal(backoffMs(index + 1, () => 0.5), (500 + ceiling) / 2);
  }
  assert.equal(backoffMs(10_000, () => 1 - Number.EPSILON), 20_000);
});

test("Retry-After is read as seconds and as a date, and bounded", () => {
  assert.equal(retryAfterMs("3", 0), 3_000);
  assert.equal(retryAfterMs(2, 0), 2_000);
  assert.equal(retryAfterMs("Thu, 01 Jan 1970 00:00:10 GMT", 4_000), 6_000);
  assert.equal(retryAfterMs("999999", 0), 300_000);
  for (const nothing of [null, undefined, "", "soon", "-5"]) assert.equal(retryAfterMs(nothing, 0), 0);
});

test("a lost connection comes back by itself, in the same room", async () => {
  const world = new World();
  const client = await world.connected();
  await world.socket.end(1006);
  assert.equal(client.state, "waiting");
  assert.equal(world.wait, 750);
  await world.clock.advance(749);
  assert.equal(world.sockets.length, 1, "not before its time");
  await world.clock.advance(1);
  assert.equal(world.sockets.length, 2);
  assert.equal(world.socket.params.get("room_id"), "room-001");
  assert.equal(world.socket.params.get("user_id"), "user-001");
  assert.equal(world.socket.params.get("user_name"), "Alice");
  await world.socket.open();
  assert.equal(client.state, "open");
  assert.equal(client.counters.reconnects, 1);
});

test("waits grow while connections do not stay, and are short again after one that did", async () => {
  const world = new World();
  world.random = () => 1 - Number.EPSILON;
  await world.connected();
  const waits = [];
  for (let round = 0; round < 4; round += 1) {
    await world.socket.end(1006);
    waits.push(world.wait);
    await world.clock.advance(world.wait);
    await world.socket.open();
  }
  assert.deepEqual(waits, [1_000, 2_000, 4_000, 8_000]);
  await world.clock.advance(10_000);
  await world.socket.end(1006);
  assert.equal(world.wait, 1_000);
});

for (const code of [1001, 1006, 1011, 1012, 1013, 4000, 4001, 4002, 4499]) {
  test(`close code ${code}: comes back`, async () => {
    const world = new World();
    const client = await world.connected();
    await world.socket.end(code, "why");
    assert.equal(client.state, "waiting");
    assert.equal(world.told("reconnecting")[0].code, code);
    await world.clock.advance(world.wait);
    assert.equal(world.sockets.length, 2);
  });
}

for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 1010, 4500, 4999]) {
  test(`close code ${code}: stays away`, async () => {
    const world = new World();
    const client = await world.connected();
    await world.socket.end(code, "why");
    assert.equal(client.state, "closed");
    assert.deepEqual(world.told("disconnected"), [{ code, status: 0, reason: "why", terminal: true }]);
    await world.clock.advance(600_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(world.clock.armed, 0, "no timer is left");
  });
}

test("a handshake refused with 400 is final, with the node's own words", async () => {
  const world = new World();
  world.answer("http://a.test/ws", 400, { error: "invalid_user_id", message: "user_id is too long" });
  const client = world.client();
  const joined = client.connect();
  await settle();
  await world.socket.end(1006);
  assert.deepEqual(world.asked, [REFUSED]);
  assert.equal(client.state, "closed");
  await assert.rejects(joined, { name: "RingcastError", reason: "invalid_user_id", status: 400 });
  assert.equal(world.told("disconnected")[0].reason, "user_id is too long");
  await world.clock.advance(600_000);
  assert.equal(world.sockets.length, 1);
});

for (const status of [409, 503, 426, 429, 502]) {
  test(`a handshake refused with ${status} is tried again, and the reason is told`, async () => {
    const world = new World();
    world.answer("http://a.test/ws", status, { error: "word", message: "the reason" });
    const client = world.client();
    client.connect();
    await settle();
    await world.socket.end(1006);
    assert.equal(client.state, "waiting");
    const [told] = world.told("reconnecting");
    assert.equal(told.status, status);
    assert.equal(told.reason, "the reason");
    await world.clock.advance(told.delayMs);
    assert.equal(world.sockets.length, 2);
  });
}

test("Retry-After holds the next attempt back where there is no other node", async () => {
  for (const [headers, body] of [[{ "retry-after": "7" }, {}], [{}, { retry_after: 7 }]]) {
    const world = new World();
    world.answer("http://a.test/ws", 503, { error: "draining", ...body }, headers);
    world.client().connect();
    await settle();
    await world.socket.end(1006);
    assert.equal(world.wait, 7_000);
  }
});

test("a node that does not answer is asked for its reasons once in a while, not at every attempt", async () => {
  const world = new World();
  world.random = () => 0;
  world.client().connect();
  await settle();
  for (let round = 0; round < 5; round += 1) {
    await world.socket.end(1006);
    await world.clock.advance(500);
  }
  assert.deepEqual(world.asked, [REFUSED]);
  await world.clock.advance(30_000);
  await world.socket.end(1006);
  assert.equal(world.asked.filter((url) => url === REFUSED).length, 2);
});

test("a handshake that is never answered is given up after 10 s", async () => {
  const world = new World();
  const client = world.client();
  client.connect();
  await settle();
  await world.clock.advance(9_999);
  assert.equal(client.state, "connecting");
  await world.clock.advance(1);
  assert.equal(client.state, "waiting");
  assert.notEqual(world.sockets[0].closedWith, null);
});

test("leave and disconnect end the attempts; connect begins again", async () => {
  for (const [call, state] of [["leave", "idle"], ["disconnect", "closed"]]) {
    const world = new World();
    const client = await world.connected();
    client[call]();
    assert.equal(client.state, state);
    assert.equal(world.socket.closedWith, 1000);
    await world.socket.end(1000);
    await world.clock.advance(600_000);
    assert.equal(world.sockets.length, 1);
    assert.equal(world.told("disconnected").length, 1);
    client.connect();
    await settle();
    assert.equal(world.sockets.length, 2);
  }
});

test("a client that is stopped while it waits for an answer does nothing with it", async () => {
  const world = new World();
  world.answer("http://a.test/ws", 503, {});
  const client = world.client();
  client.connect();
  await settle();
  // The question goes out; before its answer is read, the caller has had enough.
  const ended = world.socket.end(1006);
  client.disconnect();
  await ended;
  await world.clock.advance(600_000);
  assert.equal(client.state, "closed");
  assert.equal(world.sockets.length, 1);
});

test("an abort signal disconnects, and an aborted one lets nothing begin", async () => {
  const world = new World();
  const abort = new AbortController();
  const client = await world.connected({ signal: abort.signal });
  abort.abort();
  assert.equal(client.state, "closed");
  await assert.rejects(client.connect(), { reason: "aborted" });
  assert.equal(world.sockets.length, 1);
});

test("a signal is listened to only while there is something to disconnect", async () => {
  const world = new World();
  const listeners = new Set();
  const signal = {
    aborted: false,
    addEventListener: (_, listener) => listeners.add(listener),
    removeEventListener: (_, listener) => listeners.delete(listener),
  };
  const client = await world.connected({ signal });
  assert.equal(listeners.size, 1);
  client.disconnect();
  assert.equal(listeners.size, 0);
});

test("whoever disconnects on hearing of an attempt hears of no error, and of no attempt", async () => {
  const world = new World();
  const client = world.client();
  client.addEventListener("state", ({ detail }) => {
    if (detail.state === "connecting" && detail.url) client.disconnect();
  });
  client.connect();
  await settle();
  assert.equal(client.state, "closed");
  assert.equal(world.sockets.length, 0);
  assert.equal(world.told("error").length, 0);
});

test("whoever disconnects on hearing of a wait, or of a frame, hears of nothing after it", async () => {
  const waiting = new World();
  const client = await waiting.connected();
  client.addEventListener("state", ({ detail }) => {
    if (detail.state === "waiting") client.disconnect();
  });
  await waiting.socket.end(1006);
  assert.equal(waiting.events.at(-1).type, "disconnected");

  const sending = new World();
  const other = sending.client();
  other.addEventListener("frame", () => other.disconnect());
  other.connect();
  await settle();
  other.send({ n: 1 });
  await sending.socket.open();
  assert.equal(other.state, "closed");
});

test("whoever goes to another room on hearing of an error gets there", async () => {
  const world = new World();
  world.answer("http://a.test/ws", 400, { error: "invalid_room_id" });
  const client = world.client();
  let other;
  client.addEventListener("error", () => {
    world.answers.clear();
    other = client.join("lobby");
  });
  const first = client.connect();
  await settle();
  await world.socket.end(1006);
  await assert.rejects(first, { reason: "superseded" });
  assert.equal(world.socket.params.get("room_id"), "lobby");
  await world.socket.open();
  await other;
  assert.equal(client.state, "open");
});

test("drop loses the connection as a bad network would, and holds it against no node", async () => {
  const world = new World();
  world.cluster("b.test", "a.test");
  const client = await world.connected();
  client.drop();
  await settle();
  assert.equal(client.state, "waiting");
  await world.clock.advance(world.wait);
  assert.equal(world.socket.host, "a.test", "the address that was typed comes before the list");
});

test("what a constructor throws is final", async () => {
  const world = new World();
  const client = world.client({
    WebSocket: function Refusing() {
      throw new SyntaxError("no");
    },
  });
  await assert.rejects(client.connect(), { reason: "bad_address" });
  assert.equal(client.state, "closed");
});

test("options that can never work are refused at once", () => {
  const world = new World();
  assert.throws(() => world.client({ url: "" }), TypeError);
  assert.throws(() => world.client({ url: "not an address" }), TypeError);
  assert.throws(() => world.client({ url: "ftp://a.test/ws" }), TypeError);
  assert.throws(() => world.client({ user: "" }), TypeError);
});
