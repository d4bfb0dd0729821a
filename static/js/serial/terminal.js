/* The terminal: xterm.js with everything off by which a guest could reach beyond its letters. */

import { Terminal } from "@xterm/xterm";
import { withoutStyleAttributes, withoutStyleElements } from "./styles.js";

const FONT = 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
const SMALLEST = 8;
const LARGEST = 20;
const LINES_KEPT = 5000;
const SCROLL_BAR = 14;

// Title (0, 1, 2), links (8), the terminal's own colours (4, 10 to 19, 104, 110 to 119), clipboard (52).
const NOT_HEARD = [0, 1, 2, 4, 8, 10, 11, 12, 13, 14, 17, 19, 52, 104, 110, 111, 112, 117, 119];

const COLOURS = {
  dark: { background: "#0b0e13", foreground: "#e8ecf3", cursor: "#e8ecf3", selectionBackground: "#2f4a7a" },
  light: {
    background: "#fbfbfc",
    foreground: "#161b26",
    cursor: "#161b26",
    cursorAccent: "#fbfbfc",
    selectionBackground: "#bcd2fb",
  },
};

const coloursNow = () => COLOURS[document.documentElement.dataset.bsTheme === "dark" ? "dark" : "light"];

export function makeTerminal(stage, label) {
  withoutStyleAttributes();
  const terminal = new Terminal({
    cols: 80,
    rows: 24,
    fontFamily: FONT,
    fontSize: 14,
    scrollback: LINES_KEPT,
    theme: coloursNow(),
    // What a guest chose for a dark ground stays legible on a light one.
    minimumContrastRatio: 4.5,
    screenReaderMode: true,
    linkHandler: { activate: () => {} },
    windowOptions: {},
    logLevel: "off",
  });
  for (const code of NOT_HEARD) {
    terminal.parser.registerOscHandler(code, () => true);
  }
  withoutStyleElements(() => terminal.open(stage));
  terminal.textarea.setAttribute("aria-label", label);
  new MutationObserver(() => {
    terminal.options.theme = coloursNow();
  }).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
  return terminal;
}

/** Letters as large as the place allows for all columns and rows; where they would be too small, it scrolls. */
export function fit(terminal, stage) {
  const { clientWidth: wide, clientHeight: high } = stage.querySelector(".xterm-screen");
  if (!wide || !high) {
    return;
  }
  const padding = 2 * Number.parseFloat(getComputedStyle(stage).paddingLeft);
  const grow = Math.min((stage.clientWidth - padding - SCROLL_BAR) / wide, (stage.clientHeight - padding) / high);
  const size = Math.floor(terminal.options.fontSize * grow * 2) / 2;
  terminal.options.fontSize = Math.min(LARGEST, Math.max(SMALLEST, size));
}
