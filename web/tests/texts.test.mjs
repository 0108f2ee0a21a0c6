/** The page's words. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { CHINESE_REASONS } from "../page/texts.js";

test("every reason that has its Chinese words is one that the client gives", async () => {
  const sources = ["../ringcast-client.js", "../client/link.js", "../client/asking.js"];
  const texts = await Promise.all(sources.map((path) => readFile(new URL(path, import.meta.url), "utf8")));
  for (const reason of CHINESE_REASONS.keys()) assert.ok(texts.join().includes(`"${reason}"`), reason);
});
