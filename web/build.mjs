/**
 * Builds the page: one file that asks for no other, readable as it is.
 *
 *     node build.mjs            writes client.html
 *     node build.mjs --check    exits with 1 where client.html is not what the sources give
 */

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const at = (path) => fileURLToPath(new URL(path, import.meta.url));

async function makePage() {
  const [template, style, bundle] = await Promise.all([
    readFile(at("page/index.html"), "utf8"),
    readFile(at("page/style.css"), "utf8"),
    build({
      entryPoints: [at("page/main.js")],
      absWorkingDir: at("."),
      bundle: true,
      // A script that is no module: module imports are refused to a page from file://.
      format: "iife",
      target: "es2022",
      charset: "utf8",
      legalComments: "none",
      write: false,
      logLevel: "error",
    }),
  ]);
  const script = bundle.outputFiles[0].text;
  for (const [name, text] of [["script", script], ["style", style]]) {
    if (new RegExp(`</${name}|<!--`, "i").test(text)) throw new Error(`the ${name} would end its own element`);
  }
  return fill(fill(template, "style", style), "script", script);
}

/** Puts a text in the place of its marker, of which there is one. */
function fill(template, name, text) {
  const parts = template.split(`<!-- ${name} -->`);
  if (parts.length !== 2) throw new Error(`index.html needs one <!-- ${name} -->`);
  return parts.join(text.trimEnd());
}

const page = await makePage();
const path = at("client.html");
if (process.argv.includes("--check")) {
  const committed = await readFile(path, "utf8").catch(() => "");
  if (committed !== page) {
    console.error("client.html is not what the sources give: run `node build.mjs` in web/");
    process.exit(1);
  }
} else {
  await writeFile(path, page);
}
