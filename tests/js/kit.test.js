import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { usedOf } from "../../static/kit.mjs";

const root = join(import.meta.dirname, "..", "..");
const kit = createRequire(import.meta.url).resolve("@tabler/core/dist/css/tabler.min.css");

const comments = /\/\*.*?\*\//gs;
const classesOf = (css) =>
  new Set([...css.replace(comments, "").matchAll(/\.(-?[a-zA-Z_][\w-]*)/g)].map(([, name]) => name));

async function classesInTemplates() {
  const names = new Set();
  for (const file of await readdir(join(root, "templates"), { recursive: true })) {
    if (file.endsWith(".html")) {
      const text = await readFile(join(root, "templates", file), "utf8");
      for (const [, value] of text.matchAll(/\bclass="([^"]*)"/g)) {
        for (const name of value.match(/[\w-]+/g) ?? []) names.add(name);
      }
    }
  }
  return names;
}

test("what the pages use of the kit is kept, and little else", async () => {
  const css = await readFile(kit, "utf8");
  const used = await usedOf(css);
  const [known, kept] = [classesOf(css), classesOf(used)];
  const lost = [...(await classesInTemplates())].filter((name) => known.has(name) && !kept.has(name));
  assert.deepEqual(lost, []);
  assert.ok(kept.has("btn-primary") && kept.has("show"), "what scripts add is kept as well");
  assert.ok(used.includes("[data-bs-theme=dark]") && used.includes(":root"));
  assert.ok(!kept.has("btn-vimeo"));
  assert.ok(used.length < css.length / 3, `${used.length} of ${css.length}`);
});
