/**
 * Where the walk-through happens: the surroundings that the caller made, a browser, its pages, and what their consoles
 * said.
 *
 * Owns: the browser and the static server. Must not: push anything, or judge.
 */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

// The development dependencies lie beside the page.
const { chromium } = createRequire(new URL("../../web/package.json", import.meta.url))("playwright-core");

/** How long anything may take to be seen, in milliseconds, unless a promise says less. */
export const SEEN_WITHIN_MS = 20_000;

function required(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: the test that starts the nodes sets it`);
  return value;
}

/** What the caller started: nodes, and where the page and the pictures lie. */
export const surroundings = {
  nodes: JSON.parse(required("RINGCAST_NODES")),
  page: required("RINGCAST_PAGE"),
  shots: required("RINGCAST_SHOTS"),
  chromium: process.env.CHROMIUM ?? "/usr/bin/chromium",
};

/** Waits until a condition holds; gives back what it gave. */
export async function until(what, condition, within = SEEN_WITHIN_MS) {
  const end = Date.now() + within;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`not within ${within} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

export class Stage {
  #browser;
  #server;
  /** What the consoles said: `{ who, type, text, url }`. */
  said = [];

  static async open() {
    const stage = new Stage();
    stage.#browser = await chromium.launch({
      executablePath: surroundings.chromium,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--mute-audio",
      ],
    });
    stage.#server = await serve(surroundings.page);
    return stage;
  }

  /** The page as a static server of this test shows it. */
  get staticUrl() {
    return `http://127.0.0.1:${this.#server.address().port}/client.html`;
  }

  /** The page as a file. */
  get fileUrl() {
    return pathToFileURL(surroundings.page).href;
  }

  /** A person's own browser window, with a storage of its own. */
  async enter(who, url, options = {}) {
    const context = await this.#browser.newContext({ locale: "en-GB", ...options });
    return this.enterBeside(who, url, context);
  }

  /** One more window in the same storage. */
  async enterBeside(who, url, context) {
    const page = await context.newPage();
    page.setDefaultTimeout(SEEN_WITHIN_MS);
    page.on("console", (message) => {
      if (!["error", "warning"].includes(message.type())) return;
      this.said.push({ who, type: message.type(), text: message.text(), url: message.location().url });
    });
    page.on("pageerror", (error) => this.said.push({ who, type: "exception", text: String(error), url: "" }));
    await page.goto(url);
    return new Person(who, page);
  }

  async close() {
    await this.#browser?.close();
    this.#server?.close();
  }
}

/** Someone before the page. */
export class Person {
  constructor(who, page) {
    this.who = who;
    this.page = page;
  }

  /** Types the seed's four values and presses the button. */
  async connect({ url, room, user, name }) {
    await this.page.getByLabel("WebSocket URL").fill(url);
    await this.page.getByLabel("Room ID").fill(room);
    await this.page.getByLabel("User ID").fill(user);
    await this.page.getByLabel("User name").fill(name);
    await this.page.getByRole("button", { name: "Connect", exact: true }).click();
  }

  /** Waits until the badge says so. */
  async sees(state, within = SEEN_WITHIN_MS) {
    await this.page.locator(`#badge[data-state="${state}"]`).waitFor({ timeout: within });
  }

  /** The id of the node that the page names, when it names one. */
  async node() {
    const name = this.page.locator("#node b");
    await name.waitFor();
    return name.textContent();
  }

  /** Messages that hold this text. */
  messages(text) {
    return this.page.locator("#messages > li").filter({ hasText: text });
  }

  /** Waits for exactly one message with this text, and gives it. */
  async gets(text) {
    const found = this.messages(text);
    await found.first().waitFor();
    const count = await found.count();
    if (count !== 1) throw new Error(`${this.who} got "${text}" ${count} times`);
    return found;
  }

  /** A figure of the page. */
  async figure(id) {
    return Number(await this.page.locator(`#${id}`).textContent());
  }

  async shoot(name, options = {}) {
    await this.page.screenshot({ path: join(surroundings.shots, `${name}.png`), ...options });
  }
}

/** A static server that knows the page and nothing else. */
async function serve(path) {
  const body = await readFile(path);
  const server = createServer((request, response) => {
    const known = request.url.split("?")[0] === "/client.html";
    response.writeHead(known ? 200 : 404, { "Content-Type": "text/html; charset=utf-8", Connection: "close" });
    response.end(known ? body : "");
  });
  await new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  return server;
}
