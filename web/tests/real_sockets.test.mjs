/** The client in Node, with the WebSocket of the package ws and real connections on this machine. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { WebSocket, WebSocketServer } from "ws";

import { RingcastClient } from "../ringcast-client.js";

/** A node as far as a client sees one. */
async function startNode(nodeId, list) {
  const sockets = new Set();
  const server = createServer((request, response) => {
    response.setHeader("Connection", "close");
    response.end(request.url === "/nodes" ? JSON.stringify({ nodes: list }) : "{}");
  });
  const upgrades = new WebSocketServer({ server });
  upgrades.on("connection", (socket, request) => {
    socket.on("message", () => socket.send('{"type":"pong","timestamp":1,"data":{"status":"ok"}}'));
    const content = `${nodeId} ${new URL(request.url, "http://n").searchParams.get("room_id")}`;
    socket.send(JSON.stringify({ type: "text", room_id: "", user_id: "", timestamp: 1, data: { content }, metadata: {} }));
  });
  server.on("connection", (socket) => sockets.add(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const url = `ws://127.0.0.1:${server.address().port}/ws`;
  list.push({ node_id: nodeId, url, connections: 0, capacity: 9, state: "ready" });
  const kill = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return { url, kill };
}

/** The detail of the next event of a type. */
async function next(client, type) {
  const [event] = await once(client, type);
  return event.detail;
}

test("a node dies, and the client is on another one, in the same room", { timeout: 30_000 }, async () => {
  const list = [];
  const first = await startNode("node-1", list);
  const second = await startNode("node-2", list);
  const client = new RingcastClient({ url: first.url, user: "u", room: "r", WebSocket, random: () => 0 });
  try {
    const nodes = next(client, "nodes");
    const roundtrip = next(client, "roundtrip");
    const message = next(client, "message");
    await client.connect();
    assert.equal((await message).content, "node-1 r");
    assert.equal((await nodes).nodeId, "node-1");
    assert.ok((await roundtrip).ms >= 0);
    const again = next(client, "message");
    first.kill();
    assert.equal((await again).content, "node-2 r");
    assert.equal(client.counters.reconnects, 1);
    const other = next(client, "message");
    await client.join("r2");
    assert.equal((await other).content, "node-2 r2");
  } finally {
    client.disconnect();
    first.kill();
    second.kill();
  }
});
