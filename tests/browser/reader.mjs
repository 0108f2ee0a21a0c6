/**
 * What a reader of the README does in the browser: opens the page that the README names, joins, and sees the message that
 * the other command pushes.
 *
 * Prints `joined` when the room is joined; whoever runs it pushes then. Environment: READER_URL (what to open), READER_TEXT
 * (what has to be seen), READER_PATIENCE_MS (how long that may take: the other command may have to be built first),
 * RINGCAST_SHOTS (where the screenshot goes), CHROMIUM.
 */

import { createRequire } from "node:module";
import { join } from "node:path";

// The development dependencies lie beside the page.
const { chromium } = createRequire(new URL("../../web/package.json", import.meta.url))("playwright-core");

const WITHIN = { timeout: 30_000 };

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"],
});
try {
  const page = await browser.newPage({ locale: "en-GB" });
  const complaints = [];
  page.on("console", (line) => ["error", "warning"].includes(line.type()) && complaints.push(line.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(process.env.READER_URL);
  await page.getByRole("button", { name: "Connect", exact: true }).click();
  await page.locator(`#badge[data-state="open"]`).waitFor(WITHIN);
  console.log("joined");
  await page.getByText(process.env.READER_TEXT).first().waitFor({ timeout: Number(process.env.READER_PATIENCE_MS) });
  await page.screenshot({ path: join(process.env.RINGCAST_SHOTS, "reader.png"), fullPage: true });
  if (complaints.length > 0) throw new Error(`the console says: ${complaints.join("; ")}`);
} finally {
  await browser.close();
}
