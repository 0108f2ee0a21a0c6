// Pushes to a room, to a user and to everyone, then many pushes on one stream; a line for each.
//
//     node push.mjs [ROOM] [USER] [STREAMED]
//
// PUSH_MANAGER_ADDRESS names the push managers, separated by commas (localhost:50053). The exit code is the highest of
// all pushes: 0 delivered, 1 not delivered, 2 the command line is wrong, 3 refused, 4 unreachable or unknown.

import { randomUUID } from "node:crypto";
import { PushManagers, PushStream } from "./push_managers.mjs";

// How long the push manager waits for the sessions before it reports, in milliseconds.
const DEADLINE_MS = 2_000;

const OUTCOMES = ["written", "queued", "dropped_slow", "dropped_closed", "dropped_shed", "offline", "unknown"];

/** What to push; clients get the metadata as it is. */
function content(text, type = "TEXT", metadata = {}) {
  return { type, data: Buffer.from(text), metadata };
}

/** An id of our own names the message in every log, also where no answer comes back. */
function common() {
  return { message_id: randomUUID(), deadline_ms: DEADLINE_MS };
}

/** One line for people. */
function line(what, request, result) {
  switch (result.kind) {
    case "answer": {
      const word = result.success ? "delivered" : `not delivered (${result.message})`;
      const { total, routes_stale_ms } = result.report;
      const counts = [`members ${total.members}`];
      for (const name of OUTCOMES) if (total[name]) counts.push(`${name} ${total[name]}`);
      // Sessions that joined since then may have been missed.
      if (routes_stale_ms) counts.push(`routes ${routes_stale_ms} ms old`);
      return `${what}: ${word}; ${counts.join(", ")}`;
    }
    case "refused":
      return `${what}: ${["refused", result.code, result.reason].filter(Boolean).join(" ")}; ${result.message}`;
    case "unreachable":
      return `${what}: unreachable; nothing was pushed`;
    default:
      return `${what}: unknown; message ${request.message_id} may have arrived: ${result.why}`;
  }
}

/** As the business client's. */
function exitCode(result) {
  if (result.kind === "answer") return result.success ? 0 : 1;
  return result.kind === "refused" ? 3 : 4;
}

/** All pushes; the highest exit code. */
async function pushAll(addresses, room, user, count) {
  const managers = new PushManagers(addresses);
  const stream = new PushStream(managers);
  let highest = 0;
  const tell = async (what, by, kind, request) => {
    const result = await by.push(kind, request);
    console.log(line(what, request, result));
    highest = Math.max(highest, exitCode(result));
  };

  await tell(`room ${room}`, managers, "room", { room_id: room, content: content("Hello everyone!"), ...common() });
  const translation = content("你好！", "TRANSLATION", { source_language: "en", target_language: "zh" });
  await tell(`user ${user}`, managers, "user", { user_id: user, content: translation, ...common() });
  const announcement = content("System announcement", "SYSTEM");
  await tell("everyone", managers, "broadcast", { content: announcement, ...common() });

  // All at once: the stream bounds what is in flight, and keeps the order.
  const ticks = Array.from({ length: count }, (_, index) => {
    const tick = { room_id: room, content: content(`tick ${index + 1}`), ...common() };
    return tell(`stream ${index + 1}`, stream, "room", tick);
  });
  await Promise.all(ticks);
  await stream.close();
  managers.close();
  return highest;
}

const [room = "room-001", user = "user-001", count = "100", ...more] = process.argv.slice(2);
const addresses = (process.env.PUSH_MANAGER_ADDRESS || "localhost:50053")
  .split(",")
  .map((address) => address.trim())
  .filter(Boolean);
if (addresses.length === 0 || !/^[0-9]+$/.test(count) || more.length > 0) {
  console.error("usage: node push.mjs [ROOM] [USER] [STREAMED]; PUSH_MANAGER_ADDRESS=host:port,...");
  process.exitCode = 2;
} else {
  process.exitCode = await pushAll(addresses, room, user, Number(count));
}
