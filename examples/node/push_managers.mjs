// Pushes to Ringcast: by single calls, or by one stream that stays open.
//
// Take this file into your own backend. It holds to one rule: nothing is pushed twice. A push is tried again, at the
// next push manager, only where it surely was not taken: no connection came about, or a push manager said so. What was
// handed over and never answered for is `unknown`; whoever sends it again may deliver it twice.
//
// A result is one of
//   { kind: "answer", success, message, report }   taken; `success`: at least one session was written or queued
//   { kind: "refused", code, reason, message }     nothing was pushed
//   { kind: "unreachable" }                        nothing was pushed: no push manager could be reached
//   { kind: "unknown", why }                       it may have been pushed, and is not sent again

import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { errorDetails } from "./error_details.mjs";

// Answers with one of these reasons were given before anything was pushed.
const TRY_AGAIN = new Set(["ROUTES_NOT_READY", "STOPPING", "TOO_MANY_OPEN_PUSHES"]);

// Codes that say by themselves that a call never began, whoever on the way to the push manager answered them.
const NEVER_BEGAN = new Set([
  grpc.status.INVALID_ARGUMENT,
  grpc.status.UNIMPLEMENTED,
  grpc.status.UNAUTHENTICATED,
  grpc.status.PERMISSION_DENIED,
]);

// Milliseconds: a connection, the waits between attempts, and what a call may take beyond the push's own deadline. A
// call that ends before the report is there leaves its caller without knowing.
const CONNECT_TIMEOUT = 1_000;
const WAITS = [100, 300, 600];
const ANSWER_MARGIN = 5_000;

// Pushes of a stream that wait for their results. A push manager reads on at 4096 only when results are taken.
const IN_FLIGHT = 256;

const OPTIONS = {
  // A connection that a firewall has forgotten is noticed, rather than waited for.
  "grpc.keepalive_time_ms": 10_000,
  "grpc.keepalive_timeout_ms": 20_000,
  // A push manager that is back is found within this time.
  "grpc.max_reconnect_backoff_ms": 2_000,
  // A record in the DNS could switch on retries that nobody here has asked for.
  "grpc.service_config_disable_resolution": 1,
};

const CALLS = { room: "PushToRoom", user: "PushToUser", broadcast: "BroadcastMessage" };

const { pubsub } = grpc.loadPackageDefinition(
  protoLoader.loadSync("pubsub/push_manager.proto", {
    includeDirs: [fileURLToPath(new URL("../../proto", import.meta.url))],
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  }),
);

/** Some push managers, which take turns. */
export class PushManagers {
  #clients;
  #next;

  constructor(addresses) {
    const credentials = grpc.credentials.createInsecure();
    this.#clients = addresses.map((address) => new pubsub.PushManagerService(address, credentials, OPTIONS));
    this.#next = Math.floor(Math.random() * addresses.length);
  }

  /** Pushes; `kind` is room, user or broadcast, `request` the message of that call. */
  push(kind, request) {
    return withRetries(() => this.#ask(kind, request));
  }

  async #ask(kind, request) {
    const client = await this.connected();
    if (!client) return [{ kind: "unreachable" }, 0];
    const deadline = Date.now() + request.deadline_ms + ANSWER_MARGIN;
    return new Promise((settle) => {
      client[CALLS[kind]](request, { deadline }, (error, response) => {
        settle(error ? explain(error) : [answer(response), null]);
      });
    });
  }

  /** The next in turn that has a connection. Without one nothing can have been handed over. */
  async connected() {
    const count = this.#clients.length;
    for (let ahead = 0; ahead < count; ahead += 1) {
      const place = (this.#next + ahead) % count;
      if (await isReady(this.#clients[place])) {
        this.#next = (place + 1) % count;
        return this.#clients[place];
      }
    }
    return null;
  }

  /** Ends the connections. */
  close() {
    for (const client of this.#clients) client.close();
  }
}

/**
 * One PushStream, opened at the first push and held open; push() may be called many times before it answers.
 *
 * Pushes are accepted in the order of the calls. Results come in the order in which they become known.
 */
export class PushStream {
  #managers;
  #call = null;
  // The last write; the next one comes behind it.
  #writing = Promise.resolve();
  #nextId = 1;
  // Handed over and not answered for: what settles a push, by its push_id.
  #open = new Map();
  // Pushes that wait until fewer are in flight.
  #waiting = [];
  #inFlight = 0;

  constructor(managers) {
    this.#managers = managers;
  }

  /** Pushes, and waits for the result. A push that has to be sent again comes after those sent meanwhile. */
  push(kind, request) {
    return withRetries(() => this.#send(kind, request));
  }

  async #send(kind, request) {
    if (this.#inFlight < IN_FLIGHT) this.#inFlight += 1;
    else await new Promise((go) => this.#waiting.push(go));
    try {
      let result;
      this.#writing = this.#writing.then(async () => {
        result = this.#write(await this.#stream(), kind, request);
      });
      await this.#writing;
      return await result;
    } finally {
      // Who waits takes over the place.
      const go = this.#waiting.shift();
      if (go) go();
      else this.#inFlight -= 1;
    }
  }

  #write(call, kind, request) {
    if (!call) return Promise.resolve([{ kind: "unreachable" }, 0]);
    return new Promise((settle) => {
      const push_id = this.#nextId++;
      this.#open.set(push_id, settle);
      // What is in flight bounds what the library holds back.
      call.write({ pushes: [{ push_id, [kind]: request }] });
    });
  }

  /** The stream that is open, or a new one; nothing where no push manager could be reached. */
  async #stream() {
    if (this.#call) return this.#call;
    const client = await this.#managers.connected();
    if (!client) return null;
    const call = client.PushStream();
    this.#call = call;
    call.on("data", ({ results }) => {
      for (const result of results) {
        this.#open.get(result.push_id)?.(streamedResult(result));
        this.#open.delete(result.push_id);
      }
    });
    let end = [{ kind: "unknown", why: "the stream ended before the result" }, null];
    call.on("status", (status) => {
      // A push manager that ends a stream itself has answered all that it took, and says so by its reason.
      if (status.code !== grpc.status.OK) end = explain(status);
    });
    // The status says the same.
    call.on("error", () => {});
    // Behind the last result.
    call.on("end", () => this.#ended(end));
    return call;
  }

  #ended(end) {
    this.#call = null;
    for (const settle of this.#open.values()) settle(end);
    this.#open.clear();
  }

  /** Ends the stream once every push is answered. */
  async close() {
    const call = this.#call;
    if (!call) return;
    const ended = new Promise((settle) => call.once("end", settle));
    call.end();
    await ended;
  }
}

/** Repeats an attempt, which gives a result and, where the push surely was not taken, the milliseconds to wait. */
async function withRetries(attempt) {
  for (const least of WAITS) {
    const [result, wait] = await attempt();
    if (wait === null) return result;
    await sleep(Math.max(wait, least));
  }
  return (await attempt())[0];
}

/** Whether there is a connection, or comes to be one in time. */
async function isReady(client) {
  const { READY, TRANSIENT_FAILURE } = grpc.connectivityState;
  const channel = client.getChannel();
  const deadline = Date.now() + CONNECT_TIMEOUT;
  for (;;) {
    const state = channel.getConnectivityState(true);
    // One that failed goes on trying by itself; others are asked meanwhile.
    if (state === READY || state === TRANSIENT_FAILURE) return state === READY;
    const late = await new Promise((settle) => channel.watchConnectivityState(state, deadline, settle));
    if (late) return false;
  }
}

/** What an error says of a push, and after how many milliseconds it may be tried again; null: never. */
function explain(error) {
  const { reason, waitMs } = errorDetails(error);
  const code = grpc.status[error.code];
  if (!reason && !NEVER_BEGAN.has(error.code)) {
    return [{ kind: "unknown", why: `${code}: ${error.details}` }, null];
  }
  const refused = { kind: "refused", code, reason, message: error.details };
  return [refused, TRY_AGAIN.has(reason) ? waitMs : null];
}

function answer({ success, message, report }) {
  return { kind: "answer", success, message, report };
}

/** A result of a stream, and after how many milliseconds the push may be tried again; null: never. */
function streamedResult({ result, [result]: told }) {
  if (result !== "error") return [answer(told), null];
  const refused = { kind: "refused", code: grpc.status[told.code], reason: told.reason, message: told.message };
  return [refused, TRY_AGAIN.has(told.reason) ? 250 : null];
}
