// WebSocket members with the Node package `ws`. Commands and events are those of members.py.

import { createInterface } from "node:readline";
import WebSocket from "ws";

const sockets = new Map();

function tell(id, event, more = {}) {
  process.stdout.write(JSON.stringify({ id, event, ...more }) + "\n");
}

function open(id, url) {
  const socket = new WebSocket(url, { maxPayload: 0, handshakeTimeout: 10_000 });
  let refused = false;
  sockets.set(id, socket);
  socket.on("open", () => tell(id, "open"));
  socket.on("message", (data, binary) => {
    if (binary) tell(id, "binary");
    else tell(id, "text", { text: data.toString("utf8") });
  });
  socket.on("unexpected-response", (request, response) => {
    refused = true;
    tell(id, "refused", { status: response.statusCode });
    request.destroy();
  });
  socket.on("error", (error) => {
    if (!refused) tell(id, "failed", { error: String(error) });
  });
  socket.on("close", (code, reason) => {
    if (!refused) tell(id, "closed", { code, reason: reason.toString("utf8") });
  });
}

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    if ("open" in command) open(command.id, command.open);
    else if ("send" in command) sockets.get(command.id).send(command.send);
    else if ("close" in command) sockets.get(command.id).close(command.close);
  })
  .on("close", () => process.exit(0));
