/** What is read, counted, kept and sent. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { MAX_STREAMS, Numbering, WINDOW } from "../client/numbering.js";
import { decodeBase64, readFrame } from "../client/wire.js";
import { World, broadcast, roomPush, settle } from "./fakes.mjs";

/** Takes these numbers; gives lost and duplicate. */
function counted(...numbers) {
  const numbering = new Numbering();
  for (const seq of numbers) numbering.take("room:r", { seq: String(seq), source: "s" });
  return [numbering.lost, numbering.duplicate];
}

test("gaps are lost, late ones are taken back, numbers seen again are duplicates", () => {
  assert.deepEqual(counted(1, 2, 3), [0, 0]);
  assert.deepEqual(counted(1, 2, 5), [2, 0]);
  assert.deepEqual(counted(1, 2, 5, 4), [1, 0]);
  assert.deepEqual(counted(1, 2, 5, 4, 3), [0, 0]);
  assert.deepEqual(counted(1, 2, 2, 3, 1), [0, 2]);
  assert.deepEqual(counted(1, 4, 2, 2), [1, 1]);
  assert.deepEqual(counted(7, 8), [0, 0], "who comes later has lost nothing");
  assert.deepEqual(counted(7, 8, 6, 6), [0, 1], "what comes out of order before the first was never counted as lost");
});

test("each source and each target is numbered by itself", () => {
  const numbering = new Numbering();
  numbering.take("room:r", { seq: "1", source: "a" });
  numbering.take("room:r", { seq: "9", source: "b" });
  numbering.take("user:u", { seq: "5", source: "a" });
  numbering.take("everyone", { seq: "5", source: "a" });
  numbering.take("room:r", { seq: "2", source: "a" });
  assert.deepEqual([numbering.lost, numbering.duplicate], [0, 0]);
});

test("a source that begins again at 1 is a new one, once its old numbers are forgotten", () => {
  const numbering = new Numbering();
  for (let seq = 1; seq <= WINDOW + 1; seq += 1) numbering.take("everyone", { seq: String(seq) });
  for (const seq of ["1", "2", "3"]) numbering.take("everyone", { seq });
  assert.deepEqual([numbering.lost, numbering.duplicate], [0, 0]);
});

test("what is no number counts for nothing", () => {
  const numbering = new Numbering();
  for (const seq of [undefined, "", "0", "-1", "1.5", "one", "01", "1e3", "99999999999999999999", 7]) {
    assert.equal(numbering.take("everyone", { seq }), "unnumbered");
  }
  assert.equal(numbering.size, 0);
});

test("memory is bounded by streams, and by numbers in each", () => {
  const numbering = new Numbering();
  for (let source = 0; source < 3 * MAX_STREAMS; source += 1) {
    numbering.take("everyone", { seq: "1", source: String(source) });
  }
  assert.equal(numbering.size, MAX_STREAMS);
  // A stream that is in use stays, however many others come.
  for (let seq = 1; seq <= 5_000; seq += 1) {
    numbering.take("everyone", { seq: String(seq), source: "busy" });
    numbering.take("everyone", { seq: "1", source: `other-${seq}` });
  }
  assert.deepEqual([numbering.lost, numbering.duplicate], [0, 0]);
  assert.equal(numbering.take("everyone", { seq: "4500", source: "busy" }), "duplicate");
});

test("the client counts what it got, lost and got twice, over a loss of the connection", async () => {
  const world = new World();
  const client = await world.connected();
  const give = (seq) => world.socket.give(roomPush(`n${seq}`, { seq: String(seq), source: "s" }));
  give(1);
  give(2);
  await world.socket.end(1006);
  await world.clock.advance(world.wait);
  await world.socket.open();
  give(5);
  give(5);
  const { received, lost, duplicate, reconnects } = client.counters;
  assert.deepEqual({ received, lost, duplicate, reconnects }, { received: 4, lost: 2, duplicate: 1, reconnects: 1 });
  assert.deepEqual(world.told("message").map((message) => message.duplicate), [false, false, false, true]);
});

test("what was missed on purpose is not lost", async () => {
  const world = new World();
  const client = await world.connected();
  world.socket.give(roomPush("a", { seq: "1" }));
  world.socket.give(broadcast("a", { seq: "1" }));
  client.join("room-002");
  await world.socket.open();
  world.socket.give(broadcast("b", { seq: "2" }));
  client.join("room-001");
  await world.socket.open();
  world.socket.give(roomPush("z", { seq: "50" }));
  assert.equal(client.counters.lost, 0);
  client.leave();
  client.connect();
  await settle();
  await world.socket.open();
  world.socket.give(broadcast("z", { seq: "50" }));
  assert.equal(client.counters.lost, 0);
  world.socket.give(broadcast("z", { seq: "52" }));
  assert.equal(client.counters.lost, 1);
});

test("a room that was left without a connection is not missed either", async () => {
  for (const leave of ["before", "during"]) {
    const world = new World();
    const client = await world.connected();
    world.socket.give(roomPush("a", { seq: "1" }));
    const former = world.socket;
    if (leave === "during") client.join("room-002");
    await former.end(1006);
    if (leave === "before") client.join("room-002");
    await settle();
    await world.socket.open();
    client.join("room-001");
    await world.socket.open();
    world.socket.give(roomPush("z", { seq: "50" }));
    assert.equal(client.counters.lost, 0, leave);
  }
});

test("frames wait for the connection, up to a bound, and go in their order", async () => {
  const world = new World();
  const client = world.client({ queueLimit: 3 });
  assert.equal(client.send({ n: 0 }), false, "there is no connection to wait for");
  client.connect();
  await settle();
  assert.deepEqual([1, 2, 3, 4].map((n) => client.send({ n })), [true, true, true, false]);
  assert.equal(client.counters.dropped, 2);
  await world.socket.open();
  assert.deepEqual(world.socket.sent.slice(0, 3), ['{"n":1}', '{"n":2}', '{"n":3}']);
  assert.equal(client.send('{"n":5}'), true);
  assert.equal(world.socket.sent.at(-1), '{"n":5}');
});

test("as long as nothing else is said, 64 frames wait", async () => {
  const world = new World();
  const client = world.client();
  client.connect();
  await settle();
  const kept = Array.from({ length: 65 }, (_, n) => client.send({ n })).filter(Boolean);
  assert.equal(kept.length, 64);
});

test("a socket that takes no more is not given more, and the rest follows later", async () => {
  const world = new World();
  const client = await world.connected();
  world.socket.bufferedAmount = 2 * 1024 * 1024;
  assert.equal(client.send({ n: 1 }), true);
  assert.equal(client.send({ n: 2 }), true);
  assert.equal(world.socket.sent.includes('{"n":1}'), false);
  world.socket.bufferedAmount = 0;
  assert.equal(client.send({ n: 3 }), true);
  world.socket.give(roomPush("anything"));
  assert.deepEqual(world.socket.sent.slice(-3), ['{"n":1}', '{"n":2}', '{"n":3}'], "in their order");
});

test("what waited is not sent after leaving, and too long a frame is refused", async () => {
  const world = new World();
  const client = world.client();
  client.connect();
  await settle();
  client.send({ n: 1 });
  client.leave();
  client.connect();
  await settle();
  await world.socket.open();
  assert.equal(world.socket.sent.includes('{"n":1}'), false);
  assert.throws(() => client.send("字".repeat(30_000)), RangeError);
});

test("a push says whom it is for", () => {
  const read = (frame) => readFrame(JSON.stringify(frame)).message;
  assert.equal(read(roomPush("x")).target, "room");
  assert.equal(read(broadcast("x")).target, "everyone");
  assert.equal(read({ ...broadcast("x"), user_id: "user-001" }).target, "user");
});

test("base64 is decoded where it was asked for", async () => {
  const frame = { ...roomPush("AAH/"), type: "audio", metadata: { encoding: "base64" } };
  for (const [decode, bytes] of [[true, new Uint8Array([0, 1, 255])], [false, null]]) {
    const world = new World();
    await world.connected({ decode });
    world.socket.give(frame);
    assert.deepEqual(world.told("message")[0].bytes, bytes);
    assert.equal(world.told("message")[0].content, "AAH/");
  }
  for (const bad of ["AAH", "====", "A===", "audio_data_base64...", "AAH/\n"]) assert.equal(decodeBase64(bad), null);
  assert.deepEqual(decodeBase64(""), new Uint8Array());
});

test("members are asked for and told; a node that does not know them disturbs nothing", async () => {
  const world = new World();
  const client = world.client();
  assert.equal(client.requestMembers(), false);
  client.connect();
  await settle();
  await world.socket.open();
  assert.equal(client.requestMembers(), true);
  assert.equal(world.socket.sent.at(-1), '{"type":"members"}');
  const data = { total: 3, more: true, members: [{ user_id: "user-001", user_name: "Alice" }, { user_name: "nobody" }, 7] };
  world.socket.give({ type: "members", room_id: "room-001", timestamp: 1, data });
  world.socket.give({ type: "members", room_id: "room-001", timestamp: 1, data: { error: "unavailable" } });
  const members = [{ userId: "user-001", userName: "Alice" }];
  assert.deepEqual(world.told("members"), [
    { room: "room-001", total: 3, more: true, members, error: "" },
    { room: "room-001", total: 0, more: false, members: [], error: "unavailable" },
  ]);
  assert.equal(client.counters.received, 0);
});

test("what is not understood is no message, and ends nothing", async () => {
  const world = new World();
  const client = await world.connected();
  const strange = ["", "x", "[]", "null", "7", '{"type":7}', '{"type":"hello"}', '{"data":{}}'];
  for (const text of strange) world.socket.give(text);
  world.socket.onmessage({ data: new ArrayBuffer(4) });
  assert.equal(world.told("message").length, 0);
  world.socket.give({ type: "text", data: 7, metadata: { __proto__: null, n: 7, k: "v" } });
  const [message] = world.told("message");
  assert.deepEqual([message.content, message.room, message.timestamp, { ...message.metadata }], ["", "", 0, { k: "v" }]);
  assert.equal(client.state, "open");
});
