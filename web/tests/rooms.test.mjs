/** From one room to another, and out of all of them. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World, broadcast, roomPush, settle } from "./fakes.mjs";

/** A client in room-001 whose connection to room-002 is being opened. */
async function changing() {
  const world = new World();
  const client = await world.connected();
  const joined = client.join("room-002");
  const [former, next] = world.sockets;
  return { world, client, joined, former, next };
}

test("connect is settled by the confirmation of the join", async () => {
  const world = new World();
  const client = world.client();
  let joined = false;
  const promise = client.connect().then(() => {
    joined = true;
  });
  await settle();
  assert.equal(joined, false);
  await world.socket.open();
  await promise;
  assert.equal(joined, true);
  assert.equal(client.room, "room-001");
});

test("join without a connection connects", async () => {
  const world = new World();
  const client = world.client({ room: "" });
  await assert.rejects(client.connect(), { reason: "no_room" });
  client.join("room-007");
  await settle();
  assert.equal(world.socket.params.get("room_id"), "room-007");
});

test("the metadata goes into the address, and cannot displace what the client itself says", async () => {
  const world = new World();
  const metadata = { device: "phone & tablet", room_id: "another", user_id: "somebody" };
  world.client({ metadata }).connect();
  await settle();
  assert.equal(world.socket.params.get("device"), "phone & tablet");
  assert.deepEqual(world.socket.params.getAll("room_id"), ["room-001"]);
  assert.deepEqual(world.socket.params.getAll("user_id"), ["user-001"]);
});

test("the former room is left when the next one is confirmed, not before", async () => {
  const { world, client, joined, former, next } = await changing();
  assert.equal(next.params.get("room_id"), "room-002");
  assert.equal(former.closedWith, null);
  assert.equal(client.room, "room-001");
  former.give(roomPush("still in the former room"));
  await next.open();
  await joined;
  assert.equal(former.closedWith, 1000);
  assert.equal(client.room, "room-002");
  assert.equal(client.counters.reconnects, 0, "a change is no loss");
  former.give(roomPush("no longer"));
  await former.end(1000);
  next.give(roomPush("in the next room", {}, "room-002"));
  assert.deepEqual(world.told("message").map((message) => message.content), ["still in the former room", "in the next room"]);
  assert.equal(client.state, "open");
});

test("what comes by both connections is told once, and twice where it was pushed twice", async () => {
  const { world, client, former, next } = await changing();
  former.give(broadcast("once"));
  former.give(broadcast("twice"));
  former.give(broadcast("twice"));
  await next.open();
  next.give(broadcast("once"));
  next.give(broadcast("twice"));
  next.give(broadcast("twice"));
  next.give(broadcast("new"));
  assert.deepEqual(world.told("message").map((message) => message.content), ["once", "twice", "twice", "new"]);
  next.give(broadcast("once"));
  assert.equal(world.told("message").length, 5, "the same again is another push");
  assert.equal(client.counters.duplicate, 0);
});

test("what was remembered of one change does not count in the next", async () => {
  const { world, client, former, next } = await changing();
  former.give(broadcast("tick"));
  await next.open();
  client.join("room-003");
  await world.socket.open();
  world.socket.give(broadcast("tick"));
  assert.equal(world.told("message").length, 2);
});

test("what was remembered of a change is forgotten after it", async () => {
  const { world, former, next } = await changing();
  former.give(broadcast("every minute the same"));
  await next.open();
  await world.clock.advance(5_001);
  next.give(broadcast("every minute the same"));
  assert.equal(world.told("message").length, 2);
});

test("a room that refuses leaves the client where it is", async () => {
  const { world, client, joined, next } = await changing();
  world.answer("http://a.test/ws", 409, { error: "room_full", message: "the room has no seat left" });
  await next.end(1006);
  await assert.rejects(joined, { reason: "room_full", status: 409 });
  assert.equal(client.state, "open");
  assert.equal(client.room, "room-001");
  assert.equal(world.told("error")[0].reason, "room_full");
  world.sockets[0].give(roomPush("still here"));
  assert.equal(world.told("message").length, 1);
});

test("the former connection is lost during a change: the next one is the connection", async () => {
  const { client, joined, former, next } = await changing();
  await former.end(1006);
  assert.equal(client.state, "connecting");
  await next.open();
  await joined;
  assert.equal(client.state, "open");
  assert.equal(client.room, "room-002");
});

test("of two changes the later one counts", async () => {
  const { world, client, joined, next } = await changing();
  const later = client.join("room-003");
  await assert.rejects(joined, { reason: "superseded" });
  // A browser writes an error for a socket that is closed before it is open: it is closed as soon as it is.
  assert.equal(next.closedWith, null);
  await next.open();
  assert.equal(next.closedWith, 1000);
  assert.equal(client.room, "room-001");
  await world.socket.open();
  await later;
  assert.equal(client.room, "room-003");
});

test("back to the room that is still open: the change is given up", async () => {
  const { world, client, joined } = await changing();
  await client.join("room-001");
  await assert.rejects(joined, { reason: "superseded" });
  assert.equal(client.state, "open");
  assert.equal(world.sockets.length, 2);
  assert.equal(world.told("state").at(-1).joining, "");
});

test("a room that is asked for while nothing is open is the one that is joined", async () => {
  const world = new World();
  const client = await world.connected();
  await world.socket.end(1006);
  client.join("room-002");
  await settle();
  assert.equal(world.sockets.length, 2);
  assert.equal(world.socket.params.get("room_id"), "room-002");
  await world.socket.open();
  assert.equal(client.room, "room-002");
  await world.clock.advance(5_000);
  assert.equal(world.sockets.length, 2, "no attempt of the former room is left");
});

test("leave during a change ends both connections", async () => {
  const { world, client, former, next } = await changing();
  client.leave();
  assert.equal(former.closedWith, 1000);
  await next.open();
  assert.equal(next.closedWith, 1000);
  assert.equal(client.state, "idle");
  await world.clock.advance(60_000);
  assert.equal(world.sockets.length, 2);
});

test("what was remembered of a change that was refused, or given up, counts no more", async () => {
  for (const end of [({ next }) => next.end(1006), ({ client }) => client.join("room-001")]) {
    const scene = await changing();
    scene.former.give(broadcast("the same"));
    await end(scene);
    scene.former.give(broadcast("the same"));
    assert.equal(scene.world.told("message").length, 2);
  }
});

test("what a connection delivered that was lost during a change is forgotten after it", async () => {
  const { world, former, next } = await changing();
  former.give(broadcast("once"));
  former.give(broadcast("every minute the same"));
  await former.end(1006);
  await next.open();
  next.give(broadcast("once"));
  assert.equal(world.told("message").length, 2);
  await world.clock.advance(5_001);
  next.give(broadcast("every minute the same"));
  assert.equal(world.told("message").length, 3);
});

test("why a room refused is the last thing that is told, so that it stays to be seen", async () => {
  const { world, next } = await changing();
  await next.end(1006);
  assert.deepEqual(world.events.slice(-2).map((event) => event.type), ["state", "error"]);
  assert.equal(world.told("state").at(-1).joining, "");
});

test("back to the room that is still open, while the other one is asked why it refused", async () => {
  const { world, client, joined, next } = await changing();
  const asked = next.end(1006);
  const back = client.join("room-001");
  await asked;
  await back;
  await assert.rejects(joined, { reason: "superseded" });
  assert.equal(world.told("error").length, 0);
  assert.equal(client.room, "room-001");
});

test("who asks for the room that was lost waits until it is joined again", async () => {
  for (const ask of [(client) => client.connect(), (client) => client.join("room-001")]) {
    const world = new World();
    const client = await world.connected();
    await world.socket.end(1006);
    let joined = false;
    const promise = ask(client).then(() => {
      joined = true;
    });
    await settle();
    assert.equal(joined, false);
    await world.clock.advance(world.wait);
    await world.socket.open();
    await promise;
    await ask(client);
  }
});

test("a change in a browser without a network does not make it one with a network", async () => {
  const world = new World();
  const client = await world.connected();
  await world.network("offline");
  client.join("room-002");
  assert.equal(client.state, "offline");
  await world.socket.end(1006);
  assert.equal(client.state, "offline");
  assert.equal(world.told("state").at(-1).joining, "", "the change is over");
});

test("the room that one is in, asked for again, changes nothing", async () => {
  const { world, client, former, next } = await changing();
  former.give(broadcast("once"));
  await next.open();
  const told = world.told("state").length;
  await client.join("room-002");
  assert.equal(world.told("state").length, told);
  next.give(broadcast("once"));
  assert.equal(world.told("message").length, 1);
});
