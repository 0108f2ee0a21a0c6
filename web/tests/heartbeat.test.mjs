/** How the client finds out that a connection is dead, and what it does about networks and hidden pages. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World, roomPush, settle } from "./fakes.mjs";

const PING = '{"type":"ping"}';

const pings = (socket) => socket.sent.filter((text) => text === PING).length;

test("a ping goes out every 15 s, and its pong tells the round trip", async () => {
  const world = new World();
  world.pongs = false;
  await world.connected();
  assert.equal(pings(world.socket), 1);
  await world.clock.advance(40);
  world.socket.give({ type: "pong", timestamp: 1, data: { status: "ok" } });
  assert.deepEqual(world.told("roundtrip"), [{ ms: 40 }]);
  world.pongs = true;
  await world.clock.advance(14_959);
  assert.equal(pings(world.socket), 1);
  await world.clock.advance(1);
  assert.equal(pings(world.socket), 2);
  await world.clock.advance(60_000);
  assert.equal(pings(world.socket), 6);
});

test("silence for 10 s after a ping ends the connection", async () => {
  const world = new World();
  world.pongs = false;
  world.cluster("a.test", "b.test");
  const client = await world.connected();
  await world.clock.advance(9_999);
  assert.equal(client.state, "open");
  await world.clock.advance(1);
  assert.equal(client.state, "waiting");
  assert.equal(world.sockets[0].closedWith, 4000);
  await world.clock.advance(world.wait);
  assert.equal(world.socket.host, "b.test", "another node is the better choice");
});

test("anything that comes is a sign of life", async () => {
  const world = new World();
  world.pongs = false;
  const client = await world.connected();
  for (let round = 0; round < 4; round += 1) {
    await world.clock.advance(9_000);
    world.socket.give(roomPush("still here"));
    await world.clock.advance(6_000);
  }
  assert.equal(client.state, "open");
});

test("a late word of a connection that was given up is not heard", async () => {
  const world = new World();
  world.pongs = false;
  await world.connected();
  const dead = world.socket;
  await world.clock.advance(10_000);
  dead.give(roomPush("too late"));
  await dead.end(1006);
  assert.equal(world.told("message").length, 0);
  assert.equal(world.told("reconnecting").length, 1);
});

test("a timer that was held with the machine asks once more before it judges", async () => {
  const world = new World();
  world.pongs = false;
  const client = await world.connected();
  await world.clock.jump(3_600_000);
  assert.equal(client.state, "open");
  assert.ok(pings(world.socket) >= 2);
  await world.clock.advance(10_000);
  assert.equal(client.state, "waiting");
});

test("a page that is looked at again checks its connection at once", async () => {
  const world = new World();
  const client = await world.connected();
  await world.clock.advance(1_000);
  await world.visibility("hidden");
  assert.equal(pings(world.socket), 1);
  world.pongs = false;
  await world.visibility("visible");
  assert.equal(pings(world.socket), 2);
  await world.clock.advance(10_000);
  assert.equal(client.state, "waiting");
});

test("a page that is looked at again does not wait for its next attempt", async () => {
  const world = new World();
  await world.connected();
  await world.socket.end(1006);
  await world.visibility("hidden");
  assert.equal(world.sockets.length, 1);
  await world.visibility("visible");
  assert.equal(world.sockets.length, 2);
  await world.clock.advance(5_000);
  assert.equal(world.sockets.length, 2, "the timer of the attempt is gone");
});

test("without a network nothing is tried; with it, at once", async () => {
  const world = new World();
  world.cluster("a.test", "b.test");
  const client = await world.connected();
  await world.network("offline");
  assert.equal(client.state, "offline");
  await world.socket.end(1006);
  await world.clock.advance(600_000);
  assert.equal(client.state, "offline");
  assert.equal(world.sockets.length, 1);
  await world.network("online");
  assert.equal(world.sockets.length, 2);
  assert.equal(world.socket.host, "a.test", "the node is not to blame");
  await world.socket.open();
  assert.equal(client.state, "open");
});

test("the network goes while an attempt is waited for: the attempt is not made", async () => {
  const world = new World();
  await world.connected();
  await world.socket.end(1006);
  await world.network("offline");
  assert.equal(world.clock.armed, 0, "the timer of the attempt is gone");
  await world.clock.advance(60_000);
  assert.equal(world.sockets.length, 1);
  await world.network("online");
  assert.equal(world.sockets.length, 2);
});

test("a page that was put aside while the network came back finds it when it is looked at again", async () => {
  const world = new World();
  await world.connected();
  world.window.navigator.onLine = false;
  await world.network("offline");
  await world.socket.end(1006);
  await world.visibility("visible");
  assert.equal(world.sockets.length, 1, "still without a network");
  world.window.navigator.onLine = true;
  await world.visibility("visible");
  assert.equal(world.sockets.length, 2);
});

test("a connection that lived through an outage of the network is checked, and kept", async () => {
  const world = new World();
  const client = await world.connected();
  await world.clock.advance(1_000);
  await world.network("offline");
  world.socket.give(roomPush("it still came"));
  assert.equal(world.told("message").length, 1);
  await world.network("online");
  assert.equal(client.state, "open");
  assert.equal(pings(world.socket), 2);
  await world.clock.advance(20_000);
  assert.equal(world.sockets.length, 1);
});

test("a browser that begins without a network waits for it, but reaches its own machine", async () => {
  const world = new World();
  world.window.navigator.onLine = false;
  const client = world.client();
  client.connect();
  await settle();
  assert.equal(client.state, "offline");
  assert.equal(world.sockets.length, 0);
  world.client({ url: "ws://localhost:8080/ws" }).connect();
  await settle();
  assert.equal(world.sockets.length, 1);
});

test("a client that has been stopped listens to nothing", async () => {
  const world = new World();
  const client = await world.connected();
  client.disconnect();
  await world.network("offline");
  await world.network("online");
  await world.visibility("visible");
  assert.equal(client.state, "closed");
  assert.equal(world.sockets.length, 1);
  assert.equal(world.clock.armed, 0, "no timer is left");
});
