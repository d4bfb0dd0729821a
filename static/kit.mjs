/* The kit's styles without those that none of our pages uses: five sixths of them, which a browser reads for each page. */

import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { PurgeCSS } from "purgecss";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const bootstrap = createRequire(import.meta.url).resolve("bootstrap/dist/js/bootstrap.js");

/** Wherever the name of a class may stand, in whatever sentence: too much is kept rather than too little. */
const words = (text) => text.match(/[\w-]+/g) ?? [];

export async function usedOf(css) {
  const [{ css: used }] = await new PurgeCSS().purge({
    content: [
      ...["templates/**/*.html", "portal/**/*.{py,html}", "static/js/**/*.js"].map((place) => join(root, place)),
      bootstrap,
    ],
    css: [{ raw: css }],
    defaultExtractor: words,
    // Scripts and browsers set attributes by other names than the styles have them.
    dynamicAttributes: [...new Set([...css.matchAll(/\[([a-z-]+)/g)].map(([, name]) => name))],
  });
  return used;
}
