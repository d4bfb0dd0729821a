/* Bundles static/js/*.js and static/css/*.css into static/dist, with the icons that are used and our own pictures. */

import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { usedOf } from "./kit.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const dist = join(here, "dist");
const out = join(root, "node_modules", ".casement-dist");
const icons = join(dirname(createRequire(import.meta.url).resolve("@tabler/icons/package.json")), "icons");

const entries = async (folder, extension) =>
  (await readdir(join(here, folder)))
    .filter((name) => name.endsWith(extension))
    .map((name) => join(here, folder, name));

const common = {
  bundle: true,
  minify: true,
  target: ["es2022", "chrome109", "firefox115", "safari16.4"],
  logLevel: "warning",
};

const kit = {
  name: "kit",
  setup({ onLoad }) {
    onLoad({ filter: /[/\\]tabler\.min\.css$/ }, async ({ path }) => ({
      contents: await usedOf(await readFile(path, "utf8")),
      loader: "css",
    }));
  },
};

// Runs before the page has been read, so it is one file and no module.
const AT_ONCE = join(here, "js", "door.js");

async function bundle() {
  await build({ ...common, entryPoints: [AT_ONCE], outdir: join(out, "js"), format: "iife" });
  const { metafile } = await build({
    ...common,
    absWorkingDir: out,
    metafile: true,
    entryPoints: (await entries("js", ".js")).filter((path) => path !== AT_ONCE),
    outdir: join(out, "js"),
    format: "esm",
    splitting: true,
    chunkNames: "chunks/[name]-[hash]",
    // noVNC awaits at its top level, which these browsers know and esbuild's oldest targets do not.
    supported: { "top-level-await": true },
  });
  await parts(metafile);
  await build({
    ...common,
    entryPoints: await entries("css", ".css"),
    outdir: join(out, "css"),
    plugins: [kit],
    loader: { ".woff2": "file", ".svg": "dataurl", ".png": "file" },
    assetNames: "../fonts/[name]-[hash]",
  });
}

/** What each script loads: `parts` before it runs, `later` when it comes to it. A page can ask for them at once. */
async function parts({ outputs }) {
  const imported = (name, kind) => outputs[name].imports.filter((one) => one.kind === kind).map((one) => one.path);
  const reached = (name, found) => {
    for (const path of imported(name, "import-statement").filter((one) => !found.has(one))) {
      reached(path, found.add(path));
    }
    return found;
  };
  const known = {};
  for (const [name, { entryPoint }] of Object.entries(outputs)) {
    if (!entryPoint || name.includes("/chunks/")) continue;
    const before = reached(name, new Set());
    const later = new Set([name, ...before].flatMap((one) => imported(one, "dynamic-import")));
    const plain = (paths) => [...paths].map((path) => path.replace(/^js\//, "")).sort();
    known[basename(name, ".js")] = { parts: plain(before), later: plain(later) };
  }
  await writeFile(join(out, "js", "parts.json"), JSON.stringify(known));
}

async function files(folder, pattern) {
  const found = await readdir(join(root, folder), { recursive: true }).catch(() => []);
  return found.filter((name) => pattern.test(name)).map((name) => join(root, folder, name));
}

/** Names in `{% icon "server" %}` of templates, `icon="server"` of Python, and `icon("server")` of scripts. */
async function usedIcons() {
  const sources = [
    ...(await files("templates", /\.html$/)),
    ...(await files("portal", /\.(html|py)$/)),
    ...(await files("static/js", /\.js$/)),
  ];
  const names = new Map();
  for (const source of sources) {
    const text = await readFile(source, "utf8");
    for (const match of text.matchAll(/(?:\{%\s*icon\s+|\bicon\s*[=(]\s*)["']([a-z0-9-]+)["']/g)) {
      names.set(match[1], relative(root, source));
    }
  }
  return names;
}

async function symbol(name, source) {
  const filled = name.endsWith("-filled");
  const file = filled ? join(icons, "filled", `${name.slice(0, -7)}.svg`) : join(icons, "outline", `${name}.svg`);
  const svg = await readFile(file, "utf8").catch(() => {
    throw new Error(`${source}: there is no icon named "${name}" in @tabler/icons`);
  });
  const inner = svg
    .slice(svg.indexOf(">") + 1, svg.lastIndexOf("</svg>"))
    .replace(/<path stroke="none" d="M0 0h24v24H0z" fill="none" \/>/, "")
    .replace(/\s+/g, " ");
  const paint = filled
    ? 'fill="currentColor"'
    : 'fill="none" stroke="currentColor" stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round"';
  return `<symbol id="${name}" viewBox="0 0 24 24" ${paint}>${inner.trim()}</symbol>`;
}

async function sprite() {
  const symbols = [];
  for (const [name, source] of [...(await usedIcons())].sort()) {
    symbols.push(await symbol(name, source));
  }
  await writeFile(join(out, "icons.svg"), `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join("")}</svg>\n`);
  return symbols.length;
}

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await bundle();
await cp(join(here, "img"), join(out, "img"), { recursive: true });
const count = await sprite();
// Only a whole build takes the place of the last one.
await rm(dist, { recursive: true, force: true });
await rename(out, dist);
process.stdout.write(`${basename(here)}/dist: scripts, styles and ${count} icons built\n`);
