/** The page in a real Chromium, with a node that says what the test says. Needs a Chromium; the cluster's walk-through
 * is in tests/browser. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

const skip = existsSync(CHROMIUM) ? false : `there is no Chromium at ${CHROMIUM}`;

const PAGE = new URL("../client.html", import.meta.url).href;

/** How long anything may take to be seen, in milliseconds. */
const SEEN_WITHIN_MS = 20_000;

let browser;

before(async () => {
  if (skip) return;
  const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--mute-audio"];
  browser = await chromium.launch({ executablePath: CHROMIUM, args });
});

after(() => browser?.close());

/** In the page: sockets that do nothing by themselves, and a node that answers every request with `window.answer`. */
function install() {
  window.sockets = [];
  window.answer = { status: 404, body: {} };
  window.revoked = 0;
  const revoke = URL.revokeObjectURL;
  URL.revokeObjectURL = (url) => {
    window.revoked += 1;
    revoke.call(URL, url);
  };
  window.fetch = async () => new Response(JSON.stringify(window.answer.body), { status: window.answer.status });
  window.WebSocket = class {
    readyState = 0;
    bufferedAmount = 0;
    constructor(url) {
      this.url = url;
      window.sockets.push(this);
    }
    send() {}
    close() {
      this.readyState = 3;
    }
    open() {
      this.readyState = 1;
      this.onopen({});
    }
    end() {
      this.readyState = 3;
      this.onclose({ code: 1006, reason: "" });
    }
  };
}

/** A page that is in room-001, unless it is to stay out. */
async function enter(query = "", { joined = true, ...options } = {}) {
  const context = await browser.newContext({ locale: "en-GB", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(SEEN_WITHIN_MS);
  await page.addInitScript(install);
  await page.goto(`${PAGE}?url=ws://localhost:8080/ws&room=room-001&user=u${joined ? "&autoconnect=1" : ""}${query}`);
  if (joined) {
    await page.waitForFunction(() => window.sockets.length === 1);
    await page.evaluate(() => window.sockets[0].open());
    await page.locator('#badge[data-state="open"]').waitFor();
  }
  return page;
}

/** The node sends a frame by the connection that was opened last. */
function give(page, frame) {
  const text = JSON.stringify({ room_id: "room-001", user_id: "", timestamp: 1, metadata: {}, ...frame });
  return page.evaluate((data) => window.sockets.at(-1).onmessage({ data }), text);
}

/** Asks for another room. */
async function ask(page, room) {
  await page.locator("#room").fill(room);
  await page.locator("#connect").click();
}

test("why a room refused stays to be seen", { skip }, async () => {
  const page = await enter();
  await page.evaluate(() => {
    window.answer = { status: 409, body: { error: "room_full", message: "the room has no seat left" } };
  });
  await ask(page, "room-002");
  await page.evaluate(() => window.sockets[1].end());
  await page.locator("#problem").getByText("Not joined: The room is full.").waitFor();
  assert.equal(await page.locator("#state").textContent(), "Connected");
  await page.close();
});

test("the members of a large room are said to be some of them, and those of another room are not shown", { skip }, async () => {
  const page = await enter();
  const members = [{ user_id: "u", user_name: "Alice" }, { user_id: "v", user_name: "" }];
  await give(page, { type: "members", data: { total: 2, more: true, members } });
  assert.equal(await page.locator("#members li").count(), 2);
  assert.equal(await page.locator("#members-total").textContent(), "2+");
  assert.equal(await page.locator("#members-note").textContent(), "There are more than these 2.");
  await ask(page, "room-002");
  await page.evaluate(() => window.sockets[1].open());
  assert.equal(await page.title(), "room-002 · Ringcast");
  assert.equal(await page.locator("#members li").count(), 0);
  await page.close();
});

test("a field that holds nothing but blanks is asked for", { skip }, async () => {
  for (const [field, value] of [["room", "  "], ["user", " "]]) {
    const page = await enter("", { joined: false });
    await page.locator(`#${field}`).fill(value);
    await page.locator("#connect").click();
    assert.equal(await page.evaluate(() => document.querySelector("input:invalid")?.id), field);
    assert.equal(await page.evaluate(() => document.activeElement?.id), field);
    assert.equal(await page.locator("#problem").isVisible(), false);
    await page.close();
  }
});

test("another language is shown in everything that the page says", { skip }, async () => {
  const page = await enter();
  await give(page, { type: "audio", data: { content: "AAH/" }, metadata: { encoding: "base64" } });
  const words = page.locator("#messages .body");
  assert.equal(await words.textContent(), "3 B, of a kind that is not known · Download");
  await page.evaluate(() => window.sockets[0].end());
  await page.locator("#problem").getByText("Trying again: the connection was lost").waitFor();
  await page.locator("#language").click();
  assert.equal(await words.textContent(), "3 B，未知格式 · 下载");
  assert.equal(await page.locator("#problem").textContent(), "正在重试：连接已断开");
  await page.close();
});

test("a page without a network does not say that it tries", { skip }, async () => {
  const page = await enter();
  await page.evaluate(() => window.sockets[0].end());
  await page.locator("#problem").getByText("Trying again").waitFor();
  await page.evaluate(() => window.dispatchEvent(new Event("offline")));
  assert.equal(await page.locator("#state").textContent(), "Offline");
  assert.equal(await page.locator("#problem").isVisible(), false);
  await page.close();
});

test("what is no longer shown is no longer held", { skip }, async () => {
  const page = await enter();
  for (let number = 0; number < 3; number += 1) {
    await give(page, { type: "audio", data: { content: "AAH/" }, metadata: { encoding: "base64" } });
  }
  await page.locator("#clear").click();
  assert.equal(await page.evaluate(() => window.revoked), 3);
  await page.close();
});

test("the link to the messages leads there, even where there are none", { skip }, async () => {
  const page = await enter("", { viewport: { width: 390, height: 400 } });
  await page.locator(".skip").focus();
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "messages-title");
  const free = await page.evaluate(() => {
    const [title, header] = ["#messages-title", ".top"].map((of) => document.querySelector(of).getBoundingClientRect());
    return title.top - header.bottom;
  });
  assert.ok(free >= 0, `the title is not under the header: ${free}`);
  await page.close();
});

test("nothing is cut off on a phone, however long its words are", { skip }, async () => {
  const page = await enter("", { viewport: { width: 390, height: 844 } });
  const members = [{ user_id: "u".repeat(64), user_name: "n".repeat(128) }];
  await give(page, { type: "members", data: { total: 1, more: false, members } });
  await give(page, { type: "text", data: { content: "x".repeat(500) }, metadata: { ["k".repeat(120)]: "v".repeat(120) } });
  await page.locator("#messages summary").click();
  const cut = await page.evaluate(() => {
    const all = [document.documentElement, ...document.querySelectorAll("#messages, .who")];
    return all.filter((element) => element.scrollWidth > element.clientWidth).map((element) => element.outerHTML.slice(0, 40));
  });
  assert.deepEqual(cut, []);
  assert.ok(await page.locator("#messages dd").evaluate((element) => element.clientWidth > 100), "the value has its room");
  await page.close();
});
