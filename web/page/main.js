// @ts-check
/**
 * The demo page: one client, and the parts that show what it tells.
 *
 * Owns: which part gets which event, and the buttons. Must not: know how a connection is kept.
 */

import { RingcastClient } from "../ringcast-client.js";
import { byId } from "./dom.js";
import { Fields } from "./fields.js";
import { FrameLog } from "./frames.js";
import { MemberList } from "./members.js";
import { MessageList } from "./messages.js";
import { Standing } from "./standing.js";
import { currentLanguage, languageOf, onLanguage, reasonText, setLanguage, text } from "./texts.js";

/** @typedef {import("../client/events.js").RingcastEvents} RingcastEvents */
/** @typedef {import("../client/events.js").StateDetail} StateDetail */

const THEMES = /** @type {const} */ (["auto", "light", "dark"]);

const fields = new Fields();
const standing = new Standing();
const messages = new MessageList();
const members = new MemberList();
const frames = new FrameLog();

const connectButton = byId("connect", HTMLButtonElement);
const leaveButton = byId("leave", HTMLButtonElement);
const disconnectButton = byId("disconnect", HTMLButtonElement);
const dropButton = byId("drop", HTMLButtonElement);
const languageButton = byId("language", HTMLButtonElement);
const themeButton = byId("theme", HTMLButtonElement);

/** @type {RingcastClient | null} */
let client = null;

/** What the client was made of, without the room. */
let made = "";

/** @type {import("../client/events.js").State} */
let state = "idle";

/**
 * Calls back with the detail of an event, as long as this is still the client.
 * @template {keyof RingcastEvents} K
 * @param {RingcastClient} of
 * @param {K} type
 * @param {(detail: RingcastEvents[K]) => void} listener
 */
function listen(of, type, listener) {
  of.addEventListener(type, (event) => {
    if (of === client) listener(/** @type {CustomEvent<RingcastEvents[K]>} */ (event).detail);
  });
}

function connect() {
  if (!fields.check()) return;
  const { room, ...rest } = fields.values;
  fields.remember();
  if (client && made === JSON.stringify(rest)) {
    void client.join(room);
    if (state === "waiting") client.retryNow();
    return;
  }
  const former = client;
  try {
    client = new RingcastClient({ ...rest, room });
  } catch {
    standing.complain(() => text("badUrl"));
    return;
  }
  former?.disconnect();
  made = JSON.stringify(rest);
  attach(client, rest.user);
  void client.connect();
}

/**
 * @param {RingcastClient} of
 * @param {string} user
 */
function attach(of, user) {
  listen(of, "state", (detail) => {
    state = detail.state;
    standing.show(detail);
    if (state !== "open") members.end();
    else if (!detail.joining) members.begin(of, user);
    showButtons();
    showCounters();
  });
  listen(of, "message", (message) => {
    messages.add(message);
    showCounters();
  });
  listen(of, "reconnecting", ({ status, reason }) => {
    standing.complain(() => text("retrying", { reason: status === 409 ? text("roomFull") : reasonText(reason) }));
  });
  listen(of, "error", (error) => {
    // Another room may refuse while one is open.
    const key = state === "open" ? "notJoined" : "refused";
    standing.complain(() => text(key, { reason: error.status === 409 ? text("roomFull") : reasonText(error.message) }));
  });
  listen(of, "disconnected", ({ terminal, reason }) => {
    standing.complain(() => (terminal ? text("refused", { reason: reasonText(reason) }) : ""), { terminal });
  });
  listen(of, "nodes", ({ nodeId }) => standing.nameNode(nodeId));
  listen(of, "members", (detail) => members.take(detail));
  listen(of, "frame", (frame) => frames.add(frame));
  listen(of, "roundtrip", ({ ms }) => {
    byId("roundtrip", HTMLElement).textContent = ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
  });
}

function showButtons() {
  const active = ["connecting", "open", "waiting", "offline"].includes(state);
  const { room, ...rest } = fields.values;
  const isSame = client !== null && made === JSON.stringify(rest) && client.room === room;
  connectButton.disabled = isSame && ["open", "connecting", "offline"].includes(state);
  const otherRoom = active && client !== null && made === JSON.stringify(rest);
  const retries = isSame && state === "waiting";
  connectButton.textContent = text(retries ? "retryNow" : otherRoom && !isSame ? "changeRoom" : "connect");
  leaveButton.disabled = !active;
  disconnectButton.disabled = !active;
  dropButton.disabled = state !== "open";
  document.title = state === "open" && client ? `${client.room} · Ringcast` : "Ringcast";
}

function showCounters() {
  const counters = client?.counters;
  if (!counters) return;
  for (const key of /** @type {const} */ (["received", "lost", "duplicate", "reconnects"])) {
    const figure = byId(key, HTMLElement);
    figure.textContent = String(counters[key]);
    figure.toggleAttribute("data-alarm", (key === "lost" || key === "duplicate") && counters[key] > 0);
  }
}

/** @param {string} theme */
function setTheme(theme) {
  const known = THEMES.find((name) => name === theme) ?? "auto";
  document.documentElement.dataset.theme = known;
  themeButton.textContent = text(`theme_${known}`);
}

function nextTheme() {
  const at = THEMES.findIndex((name) => name === document.documentElement.dataset.theme);
  const theme = THEMES[(at + 1) % THEMES.length] ?? "auto";
  fields.keep({ theme });
  setTheme(theme);
}

byId("form", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  connect();
});
leaveButton.addEventListener("click", () => client?.leave());
disconnectButton.addEventListener("click", () => client?.disconnect());
dropButton.addEventListener("click", () => client?.drop());
themeButton.addEventListener("click", nextTheme);
languageButton.addEventListener("click", () => {
  const language = currentLanguage() === "en" ? "zh" : "en";
  fields.keep({ lang: language });
  setLanguage(language);
});
fields.onChange(showButtons);
onLanguage(() => {
  const other = text("otherLanguage");
  languageButton.textContent = other;
  languageButton.lang = currentLanguage() === "en" ? "zh-Hans" : "en";
  setTheme(document.documentElement.dataset.theme ?? "auto");
  showButtons();
});

document.documentElement.dataset.theme = fields.theme;
setLanguage(languageOf(fields.language || navigator.language));
if (fields.autoconnect) connect();
