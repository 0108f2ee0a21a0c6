/** Which node is tried, and in which order. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Endpoints, reachableFrom } from "../client/endpoints.js";
import { World, settle } from "./fakes.mjs";

/** Loses the connection, or the attempt, and lets the next attempt begin. */
async function lose(world) {
  await world.socket.end(1006);
  await world.clock.advance(world.wait);
}

test("the address that was typed is tried first, and the others when it fails", async () => {
  const world = new World();
  world.cluster("b.test", "a.test", "c.test");
  await world.connected();
  assert.equal(world.socket.host, "a.test");
  await lose(world);
  assert.equal(world.socket.host, "b.test");
  await lose(world);
  assert.equal(world.socket.host, "c.test");
});

test("a dead node is not tried first again: whoever failed longest ago is", async () => {
  const world = new World();
  world.random = () => 0;
  world.cluster("a.test", "b.test", "c.test");
  await world.connected();
  const tried = [];
  for (let round = 0; round < 6; round += 1) {
    await lose(world);
    tried.push(world.socket.host);
  }
  assert.deepEqual(tried, ["b.test", "c.test", "a.test", "b.test", "c.test", "a.test"]);
});

test("a node that works again has no fault any more", async () => {
  const world = new World();
  world.random = () => 0;
  world.cluster("a.test", "b.test");
  await world.connected();
  await lose(world);
  await lose(world);
  assert.equal(world.socket.host, "a.test");
  world.cluster("a.test", "b.test", "c.test");
  await world.socket.open();
  // It was the client that read too slowly: nothing speaks against the node, nor for one that has no fault either.
  await world.socket.end(4001);
  await world.clock.advance(world.wait);
  assert.equal(world.socket.host, "a.test");
});

test("a node that asks for time is tried after those that do not", async () => {
  const world = new World();
  world.random = () => 0;
  world.cluster("a.test", "b.test", "c.test");
  await world.connected();
  world.answer("http://b.test/ws", 503, { error: "draining" }, { "retry-after": "60" });
  const tried = [];
  for (let round = 0; round < 4; round += 1) {
    await lose(world);
    tried.push(world.socket.host);
  }
  assert.deepEqual(tried, ["b.test", "c.test", "a.test", "c.test"]);
});

test("the list is kept, and known when the node that gave it dies", async () => {
  const world = new World();
  world.cluster("a.test", "b.test");
  const client = await world.connected();
  assert.deepEqual(client.nodes.map((node) => node.nodeId), ["node-1", "node-2"]);
  world.answers.clear();
  await lose(world);
  assert.equal(world.socket.host, "b.test");
});

test("the list is read again every minute or so, from the node that holds the connection", async () => {
  const world = new World();
  world.cluster("a.test", "b.test");
  await world.connected();
  const lists = () => world.asked.filter((url) => url === "http://a.test/nodes").length;
  assert.equal(lists(), 1);
  world.cluster("a.test", "c.test");
  await world.clock.advance(60_000);
  assert.equal(lists(), 2);
  await lose(world);
  assert.equal(world.socket.host, "c.test", "the newest list counts");
});

test("a list that cannot be read takes nothing away", async () => {
  const world = new World();
  world.cluster("a.test", "b.test");
  await world.connected();
  world.answer("http://a.test/nodes", 503, { error: "no_list" });
  await world.clock.advance(120_000);
  await lose(world);
  assert.equal(world.socket.host, "b.test");
});

test("a node without a list is asked again soon, and then less and less", async () => {
  const world = new World();
  await world.connected();
  const lists = () => world.asked.filter((url) => url === "http://a.test/nodes").length;
  const counts = [];
  for (const seconds of [5, 10, 20, 40, 59]) {
    await world.clock.advance(seconds * 1_000);
    counts.push(lists());
  }
  assert.deepEqual(counts, [2, 3, 4, 5, 5]);
  world.cluster("a.test", "b.test");
  await world.clock.advance(1_000);
  await lose(world);
  assert.equal(world.socket.host, "b.test");
});

test("a list that names no other node is read again soon: one that has just started may not know of them", async () => {
  const world = new World();
  world.cluster("a.test");
  await world.connected();
  world.cluster("a.test", "b.test");
  await world.clock.advance(5_000);
  await lose(world);
  assert.equal(world.socket.host, "b.test");
});

test("a fault is forgotten when the cluster still names the node half a minute later", () => {
  const endpoints = new Endpoints(["ws://a.test/ws"], { balance: false, secure: false });
  const answer = { nodes: [{ node_id: "1", url: "ws://a.test/ws" }, { node_id: "2", url: "ws://b.test/ws" }] };
  endpoints.setNodes(answer, "ws://a.test/ws", 0);
  endpoints.fail("ws://a.test/ws", 0);
  endpoints.setNodes(answer, "ws://b.test/ws", 30_000);
  assert.equal(endpoints.choose(30_000).url, "ws://b.test/ws", "its lease may not be over yet");
  endpoints.setNodes(answer, "ws://b.test/ws", 30_001);
  assert.equal(endpoints.choose(30_001).url, "ws://a.test/ws");
});

test("balance takes the node that the cluster names first", async () => {
  const world = new World();
  world.cluster("c.test", "a.test", "b.test");
  world.client({ balance: true }).connect();
  await settle();
  assert.deepEqual(world.asked, ["http://a.test/nodes?choose"], "the node counts it as sent there");
  assert.equal(world.socket.host, "c.test");
});

test("balance asks anew at every connect, and a dead node only once", async () => {
  const world = new World();
  world.random = () => 0;
  world.cluster("a.test", "b.test");
  const client = await world.connected({ balance: true });
  client.disconnect();
  world.cluster("b.test", "a.test");
  client.connect();
  await settle();
  assert.equal(world.socket.host, "b.test");

  const dead = new World();
  dead.random = () => 0;
  dead.client({ balance: true }).connect();
  await settle();
  for (let round = 0; round < 5; round += 1) await lose(dead);
  assert.equal(dead.asked.filter((url) => url === "http://a.test/nodes?choose").length, 1);
});

test("balance without a list takes the address that was typed", async () => {
  const world = new World();
  world.client({ balance: true }).connect();
  await settle();
  assert.equal(world.socket.host, "a.test");
});

test("several addresses are tried in their order", async () => {
  const world = new World();
  world.client({ url: undefined, urls: ["ws://x.test/ws", "ws://y.test/ws"] }).connect();
  await settle();
  assert.equal(world.socket.host, "x.test");
  await lose(world);
  assert.equal(world.socket.host, "y.test");
});

test("a function gives the addresses, and one that fails ends nothing", async () => {
  const world = new World();
  let calls = 0;
  const endpoints = async () => {
    calls += 1;
    if (calls === 2) throw new Error("not now");
    return [`ws://n${calls}.test/ws`];
  };
  world.client({ url: undefined, endpoints }).connect();
  await settle();
  assert.equal(world.socket.host, "n1.test");
  await lose(world);
  assert.equal(world.socket.host, "n1.test");
  assert.equal(world.told("error")[0].reason, "no_endpoints");
  await lose(world);
  assert.equal(world.socket.host, "n3.test");
});

test("a function that fails at first is asked again, as long as there is no address", async () => {
  const world = new World();
  let calls = 0;
  const endpoints = async () => {
    calls += 1;
    if (calls === 1) throw new Error("not now");
    return calls === 2 ? [] : ["ws://n.test/ws"];
  };
  const client = world.client({ url: undefined, endpoints });
  const joined = client.connect();
  await settle();
  assert.equal(client.state, "waiting");
  await world.clock.advance(world.wait);
  assert.equal(client.state, "waiting");
  await world.clock.advance(world.wait);
  await world.socket.open();
  await joined;
  assert.equal(world.socket.host, "n.test");
});

test("a function is not taken for this machine: without a network it is not asked", async () => {
  const world = new World();
  world.window.navigator.onLine = false;
  const client = world.client({ url: undefined, endpoints: () => ["ws://n.test/ws"] });
  client.connect();
  await settle();
  assert.equal(client.state, "offline");
  assert.equal(world.sockets.length, 0);
});

test("the network goes while addresses are asked for: nothing is tried until it is back", async () => {
  const world = new World();
  const answers = [];
  const endpoints = () => new Promise((resolve) => answers.push(resolve));
  const client = world.client({ url: undefined, endpoints });
  client.connect();
  await settle();
  await world.network("offline");
  answers[0](["ws://n.test/ws"]);
  await settle();
  assert.equal(client.state, "offline");
  assert.equal(world.sockets.length, 0);
  await world.network("online");
  answers[1](["ws://n.test/ws"]);
  await settle();
  assert.equal(world.sockets.length, 1);
});

test("an answer that comes after a newer one was asked for changes nothing", async () => {
  const world = new World();
  world.random = () => 0;
  const answers = [];
  const endpoints = () => new Promise((resolve, reject) => answers.push({ resolve, reject }));
  const client = world.client({ url: undefined, endpoints });
  client.connect();
  await settle();
  client.join("room-002");
  await settle();
  answers[1].resolve(["ws://new.test/ws"]);
  await settle();
  answers[0].resolve(["ws://old.test/ws"]);
  await settle();
  await world.socket.open();
  await lose(world);
  answers[2].reject(new Error("not now"));
  await settle();
  assert.equal(world.socket.host, "new.test");
  assert.equal(world.told("error").length, 1);
});

test("what is known against an address is forgotten with the address", () => {
  const endpoints = new Endpoints(["ws://a.test/ws"], { balance: false, secure: false });
  endpoints.fail("ws://a.test/ws", 0);
  endpoints.silent("ws://a.test/ws", 0);
  endpoints.setGiven(["ws://b.test/ws"]);
  endpoints.setGiven(["ws://a.test/ws", "ws://b.test/ws"]);
  assert.equal(endpoints.choose(1).url, "ws://a.test/ws");
  assert.equal(endpoints.isSilent("ws://a.test/ws", 1), false);
});

test("a node that announces its own machine is on the machine that was asked", () => {
  const asked = "ws://push.example.org:8080/ws";
  assert.equal(reachableFrom("ws://localhost:8081/ws", asked), "ws://push.example.org:8081/ws");
  assert.equal(reachableFrom("ws://127.0.0.1:8081/ws", asked), "ws://push.example.org:8081/ws");
  assert.equal(reachableFrom("ws://[::1]:8081/ws", asked), "ws://push.example.org:8081/ws");
  assert.equal(reachableFrom("ws://n2.example.org/ws", asked), "ws://n2.example.org/ws");
  assert.equal(reachableFrom("ws://n2.example.org/ws#top", asked), "ws://n2.example.org/ws", "a browser may refuse it");
  assert.equal(reachableFrom("ws://localhost:8081/ws", "ws://127.0.0.1:8080/ws"), "ws://localhost:8081/ws");
  for (const bad of ["", "n2", "http://n2.example.org/ws", "javascript:alert(1)"]) {
    assert.equal(reachableFrom(bad, asked), "");
  }
});

test("the three names of this machine are one place", async () => {
  const world = new World();
  world.cluster("localhost:8080", "localhost:8081");
  world.answer("http://127.0.0.1:8080/nodes", 200, world.answers.get("http://localhost:8080/nodes").body);
  await world.connected({ url: "ws://127.0.0.1:8080/ws" });
  await lose(world);
  assert.equal(world.socket.host, "localhost:8081");
});

test("the node's id comes from the list, else from the node itself, once", async () => {
  const listed = new World();
  listed.cluster("b.test", "a.test");
  const client = listed.client();
  const ids = [];
  client.addEventListener("nodes", ({ detail }) => ids.push(detail.nodeId));
  client.connect();
  await settle();
  await listed.socket.open();
  assert.deepEqual(ids, ["node-2"]);

  const alone = new World();
  alone.answer("http://a.test/stats", 200, { node_id: "connect-node-1" });
  const other = alone.client();
  other.addEventListener("nodes", ({ detail }) => ids.push(detail.nodeId));
  other.connect();
  await settle();
  await alone.socket.open();
  await alone.clock.advance(180_000);
  assert.equal(ids.at(-1), "connect-node-1");
  assert.equal(alone.asked.filter((url) => url.endsWith("/stats")).length, 1);
});

test("a page that came over https uses no ws:// but to its own machine", async () => {
  const world = new World();
  world.answer("https://a.test/nodes", 200, {
    nodes: [{ node_id: "1", url: "ws://b.test/ws" }, { node_id: "2", url: "wss://c.test/ws" }],
  });
  await world.connected({ url: "wss://a.test/ws", secure: true });
  await lose(world);
  assert.equal(world.socket.url.split("?")[0], "wss://c.test/ws");

  const none = new World();
  const client = none.client({ secure: true });
  await assert.rejects(client.connect(), { reason: "no_address" });
  assert.equal(client.state, "closed");

  const local = new World();
  local.client({ url: "ws://localhost:8080/ws", secure: true }).connect();
  await settle();
  assert.equal(local.sockets.length, 1);
});

test("hostile lists cost nothing", async () => {
  const world = new World();
  const many = Array.from({ length: 5_000 }, (_, at) => ({ node_id: `n${at}`, url: `ws://n${at}.test/ws` }));
  world.answer("http://a.test/nodes", 200, { nodes: [null, 1, {}, { url: 7 }, ...many] });
  const client = await world.connected();
  assert.ok(client.nodes.length <= 64);
  for (const body of [null, [], { nodes: "x" }, "text"]) {
    world.answer("http://a.test/nodes", 200, body);
    await world.clock.advance(120_000);
  }
  assert.equal(client.state, "open");
});
