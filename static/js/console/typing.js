/* Types a text as keys of a US keyboard, for guests that have no clipboard: a login prompt, a boot loader.

A display takes a character's own number for a key without Shift, so "A" would come out as "a": each character is the
key it is on, with Shift pressed by us. */

import { KEYSYMS } from "./keysyms.js";

const PAUSE_MS = 12;
const PLAIN = {
  Backquote: "`~",
  Minus: "-_",
  Equal: "=+",
  BracketLeft: "[{",
  BracketRight: "]}",
  Backslash: "\\|",
  Semicolon: ";:",
  Quote: "'\"",
  Comma: ",<",
  Period: ".>",
  Slash: "/?",
  Space: "  ",
};
const DIGITS = ")!@#$%^&*(";

/** `{code, shift}` by character. */
const KEYS = new Map([
  ["\n", { code: "Enter", shift: false }],
  ["\t", { code: "Tab", shift: false }],
]);
for (let letter = 65; letter <= 90; letter += 1) {
  pair(`Key${String.fromCharCode(letter)}`, String.fromCharCode(letter + 32), String.fromCharCode(letter));
}
[...DIGITS].forEach((shifted, digit) => pair(`Digit${digit}`, String(digit), shifted));
Object.entries(PLAIN).forEach(([code, [plain, shifted]]) => pair(code, plain, shifted));

function pair(code, plain, shifted) {
  KEYS.set(shifted, { code, shift: true });
  KEYS.set(plain, { code, shift: false });
}

const lines = (text) => text.replaceAll("\r\n", "\n").replaceAll("\r", "\n");

/** The characters of `text` that are on no key, each once. */
export function untypable(text) {
  return [...new Set(lines(text))].filter((character) => !KEYS.has(character));
}

/** Types all of `text`, which has nothing untypable, unless `signal` is aborted; then it ends with no key down.

`press(keysym, code, down)` sends a key; `typed(count, total)` is told how far it is. Gives true when all was typed. */
export async function typeText(press, text, { signal, typed = () => {}, pause = PAUSE_MS } = {}) {
  const characters = [...lines(text)];
  for (const [index, character] of characters.entries()) {
    if (signal?.aborted) {
      return false;
    }
    stroke(press, character);
    typed(index + 1, characters.length);
    // Firmware and text consoles drop keys that come faster than they poll.
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
  return true;
}

/** All of one character at once, so that nothing can come between Shift's way down and its way up. */
function stroke(press, character) {
  const { code, shift } = KEYS.get(character);
  const keysym = KEYSYMS[code] ?? character.codePointAt(0);
  if (shift) {
    press(KEYSYMS.ShiftLeft, "ShiftLeft", true);
  }
  press(keysym, code, true);
  press(keysym, code, false);
  if (shift) {
    press(KEYSYMS.ShiftLeft, "ShiftLeft", false);
  }
}
