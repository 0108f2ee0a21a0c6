/**
 * The seed's walk-through in a real Chromium: Alice, Bob and Charlie on three nodes.
 *
 * Shows: pushes reach whom they are for, sound plays, a page comes back by itself when its node dies or its network
 * goes away, and clients that leave the choice to the cluster spread evenly. Everything stands in order: each part
 * begins where the one before ended.
 *
 *     node --test tests/browser/walkthrough.mjs
 *
 * What it needs is told by environment variables; the end-to-end test that starts it all sets them.
 */

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { makeWav, push } from "./pushes.mjs";
import { Stage, surroundings, until } from "./stage.mjs";

const ROOM = "room-001";

/** The node under Alice is killed, and her page is back on another one within this, in milliseconds. */
const BACK_WITHIN_MS = 5_000;

const CLIENTS = 10;

const [first, second, third] = surroundings.nodes;

let stage;
let alice;
let bob;
let charlie;
let killed = null;

before(async () => {
  await mkdir(surroundings.shots, { recursive: true });
  stage = await Stage.open();
});

after(async () => {
  for (const person of [alice, bob, charlie]) await person?.shoot(`end-${person.who}`, { fullPage: true }).catch(() => {});
  await stage?.close();
});

let broken = "";

/** One part of the walk; what follows a part that failed is not tried, for it would begin somewhere else. */
function step(name, walk) {
  test(name, async () => {
    assert.equal(broken, "", "an earlier part failed");
    broken = name;
    await walk();
    broken = "";
  });
}

/** The page's query that joins by itself. */
function query(node, user, name, more = {}) {
  return `?${new URLSearchParams({ url: node.ws, room: ROOM, user, name, autoconnect: "1", ...more })}`;
}

step("three people connect: from a node, from a static server, from a file", async () => {
  alice = await stage.enter("alice", `${first.http}/`);
  await alice.shoot("before-connecting");
  await alice.connect({ url: first.ws, room: ROOM, user: "user-001", name: "Alice" });
  bob = await stage.enter("bob", stage.staticUrl + query(second, "user-002", "Bob"), { colorScheme: "dark" });
  charlie = await stage.enter("charlie", stage.fileUrl + query(third, "user-003", "Charlie"));
  for (const [person, node] of [[alice, first], [bob, second], [charlie, third]]) {
    await person.sees("open");
    assert.equal(await person.node(), node.id, `${person.who} is told the node`);
  }
});

step("the page lists the members of the room", async () => {
  for (const person of [alice, bob, charlie]) {
    const members = person.page.locator("#members li");
    await until(`${person.who} sees three members`, async () => (await members.count()) === 3);
    const text = (await members.allTextContents()).join();
    for (const name of ["Alice", "Bob", "Charlie"]) assert.ok(text.includes(name), `${name} is among ${text}`);
  }
});

step("a push to the room reaches three, one to a user one, a broadcast three", async () => {
  await push("push-to-room", "--room", ROOM, "--message", "Hello Room!");
  await push("push-to-user", "--user", "user-001", "--message", "Hi Alice!");
  await push("broadcast", "--message", "System announcement", "--type", "SYSTEM");
  for (const person of [alice, bob, charlie]) {
    assert.match(await (await person.gets("Hello Room!")).textContent(), /to room room-001/);
    const announced = await person.gets("System announcement");
    assert.equal(await announced.getAttribute("data-type"), "system");
    assert.match(await announced.textContent(), /to everyone/);
  }
  assert.match(await (await alice.gets("Hi Alice!")).textContent(), /to you/);
  // The broadcast was pushed after it and has been seen, so it would have been seen as well.
  for (const person of [bob, charlie]) assert.equal(await person.messages("Hi Alice!").count(), 0);
});

step("Chinese shows, a translation with its languages", async () => {
  await push("push-to-room", "--room", ROOM, "--message", "大家好，欢迎来到房间！");
  await push(
    ...["push-to-room", "--room", ROOM, "--type", "TRANSLATION", "--message", "你好，世界！"],
    ...["--metadata", "source_language=en", "--metadata", "target_language=zh-Hans", "--metadata", "speaker=Dr. Li"],
  );
  for (const person of [alice, bob, charlie]) {
    await person.gets("大家好，欢迎来到房间！");
    const translated = await person.gets("你好，世界！");
    assert.equal(await translated.locator(".languages").textContent(), "English → Simplified Chinese");
    assert.equal(await translated.locator(".body").getAttribute("lang"), "zh-Hans");
  }
});

step("sound plays", async () => {
  const folder = await mkdtemp(join(tmpdir(), "ringcast-walkthrough-"));
  try {
    const file = join(folder, "tone.wav");
    await writeFile(file, makeWav());
    await push("push-to-room", "--room", ROOM, "--type", "AUDIO", "--file", file);
  } finally {
    await rm(folder, { recursive: true });
  }
  for (const person of [alice, bob, charlie]) {
    const audio = person.page.locator("#messages audio");
    await audio.waitFor();
    // A browser lets a page play only after somebody has done something there.
    await person.page.locator("#messages-title").click();
    await audio.evaluate((element) => element.play());
    await until(`${person.who} hears it`, () => audio.evaluate((element) => element.currentTime > 0.3 || element.ended));
    assert.equal(await audio.evaluate((element) => Math.round(element.duration)), 1);
  }
  await alice.shoot("messages-light", { fullPage: true });
  await bob.shoot("messages-dark", { fullPage: true });
});

step("text that says to be sound and is none is shown as text", async () => {
  await push("push-to-room", "--room", ROOM, "--type", "AUDIO", "--message", "audio_data_base64...");
  await alice.gets("audio_data_base64...");
  assert.equal(await alice.page.locator("#messages audio").count(), 1);
});

step("what looks like markup stays text", async () => {
  const markup = "<img src=x onerror=\"document.title='broken into'\">";
  await push("push-to-room", "--room", ROOM, "--message", markup);
  await alice.gets(markup);
  assert.equal(await alice.page.locator("#messages img").count(), 0);
});

step("clients that leave the choice to the cluster spread evenly", async () => {
  const spread = new Map(surroundings.nodes.map((node) => [node.id, 0]));
  const crowd = [];
  const context = await alice.page.context().browser().newContext({ locale: "en-GB" });
  for (let number = 1; number <= CLIENTS; number += 1) {
    const user = `crowd-${String(number).padStart(2, "0")}`;
    const url = stage.staticUrl + query(first, user, user, { balance: "1", room: "room-crowd" });
    const person = await stage.enterBeside(user, url, context);
    await person.sees("open");
    const node = await person.node();
    spread.set(node, (spread.get(node) ?? 0) + 1);
    crowd.push(person);
  }
  const counts = [...spread.values()];
  assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, `spread: ${JSON.stringify([...spread])}`);
  await context.close();
});

step("another room is joined without missing what comes to the user", async () => {
  await charlie.page.getByLabel("Room ID").fill("room-002");
  await charlie.page.getByRole("button", { name: "Join", exact: true }).click();
  await until("Charlie is in the other room", async () => (await charlie.page.title()).startsWith("room-002"));
  await push("push-to-room", "--room", "room-002", "--message", "Only for room two");
  await charlie.gets("Only for room two");
  assert.equal(await alice.messages("Only for room two").count(), 0);
  await charlie.page.getByLabel("Room ID").fill(ROOM);
  await charlie.page.getByRole("button", { name: "Join", exact: true }).click();
  await until("Charlie is back", async () => (await charlie.page.title()).startsWith(ROOM));
});

step("a dropped connection comes back by itself", async () => {
  const before = await charlie.figure("reconnects");
  await charlie.page.getByRole("button", { name: "Simulate loss" }).click();
  await until("Charlie has reconnected", async () => (await charlie.figure("reconnects")) === before + 1);
  await charlie.sees("open");
});

step("a page without a network says so, and comes back with it", async () => {
  const online = await bob.page.evaluate(() => navigator.onLine);
  assert.ok(online, "a browser that sees only the loopback interface is offline all the time: give it another one");
  const context = bob.page.context();
  await context.setOffline(true);
  await bob.sees("offline");
  await bob.shoot("offline");
  await context.setOffline(false);
  await bob.sees("open");
  await push("push-to-room", "--room", ROOM, "--message", "After the network was away");
  await bob.gets("After the network was away");
});

step("the node under Alice is killed, and her page is back on another one", async () => {
  killed = surroundings.nodes.find((node) => node.id === first.id);
  process.kill(killed.pid, "SIGKILL");
  const since = Date.now();
  await until(
    "Alice is on another node",
    // Read in one call: between two, the connection may be lost that the first still saw.
    () =>
      alice.page.evaluate((dead) => {
        const node = document.querySelector("#node b")?.textContent;
        return document.querySelector("#badge").dataset.state === "open" && Boolean(node) && node !== dead;
      }, killed.id),
    BACK_WITHIN_MS,
  );
  console.log(`back after ${Date.now() - since} ms`);
  assert.notEqual(await alice.node(), killed.id);
  assert.equal(await alice.figure("reconnects"), 1);
  await push("push-to-room", "--room", ROOM, "--message", "After the node was killed");
  for (const person of [alice, bob, charlie]) await person.gets("After the node was killed");
  await alice.shoot("after-the-kill", { fullPage: true });
});

step("in Chinese, on a phone", async () => {
  const options = { locale: "zh-CN", viewport: { width: 390, height: 844 }, deviceScaleFactor: 2 };
  const li = await stage.enter("li", stage.staticUrl + query(second, "user-004", "李雷"), options);
  await li.sees("open");
  assert.equal(await li.page.locator("#state").textContent(), "已连接");
  await li.page.getByLabel("房间 ID").waitFor();
  await push("push-to-room", "--room", ROOM, "--message", "手机上也能看到");
  await li.gets("手机上也能看到");
  const wide = await li.page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
  assert.equal(wide, false, "nothing is wider than the phone");
  await li.shoot("phone-zh", { fullPage: true });
  await li.page.getByRole("button", { name: "English" }).click();
  assert.equal(await li.page.locator("#state").textContent(), "Connected");
});

step("the keyboard reaches everything, and one sees where one is", async () => {
  await bob.page.locator("#url").focus();
  const reached = [];
  for (let press = 0; press < 12; press += 1) {
    reached.push(await bob.page.evaluate(() => document.activeElement.id));
    const outlined = await bob.page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== "none");
    assert.ok(outlined, `the focus on ${reached.at(-1)} shows`);
    await bob.page.keyboard.press("Tab");
  }
  for (const id of ["url", "room", "user", "name", "balance", "leave", "disconnect", "drop"]) {
    assert.ok(reached.includes(id), `${id} is among ${reached}`);
  }
});

test("no console said anything but that the killed node refuses connections", () => {
  const port = killed && new URL(killed.ws).port;
  const unexpected = stage.said.filter(({ type, text, url }) => {
    const refused = type === "error" && text.includes("net::ERR_CONNECTION_REFUSED");
    return !(refused && port && `${text} ${url}`.includes(`:${port}/`));
  });
  assert.deepEqual(unexpected, []);
});
