/* Keys: combinations to send, modifiers to hold, keys that must not stay down, and the way out of the canvas. */

import { KEYSYMS } from "./keysyms.js";

const MODIFIERS = ["Control", "Alt", "Shift", "Meta"];

/** Presses the codes in order ("ControlLeft AltLeft F2") and lets them go in the opposite one. */
export function sendCombination(rfb, codes) {
  const list = codes.split(" ").filter((code) => code in KEYSYMS);
  list.forEach((code) => rfb.sendKey(KEYSYMS[code], code, true));
  list.reverse().forEach((code) => rfb.sendKey(KEYSYMS[code], code, false));
}

/** Watches the stage's keys. `leave` is called for Ctrl+Alt+Shift, `typed` after each key that is no modifier.

Gives a function that lets go of every key that is down: the viewer does so when the window loses the focus, but not
when another element takes it, the tab is hidden or the connection is given up. */
export function watchKeys(stage, { leave, typed }) {
  const held = new Map();

  const release = () => {
    const canvas = stage.querySelector("canvas");
    const down = [...held];
    held.clear();
    down.forEach(([code, key]) => canvas?.dispatchEvent(new KeyboardEvent("keyup", { code, key, bubbles: true })));
  };

  stage.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey && event.altKey && event.shiftKey && MODIFIERS.includes(event.key)) {
        event.preventDefault();
        event.stopPropagation();
        leave();
        return;
      }
      held.set(event.code, event.key);
    },
    true,
  );
  stage.addEventListener(
    "keyup",
    (event) => {
      held.delete(event.code);
      if (!MODIFIERS.includes(event.key)) {
        // After the viewer has sent the key's way up.
        queueMicrotask(typed);
      }
    },
    true,
  );
  stage.addEventListener("focusout", release);
  return release;
}

/** Modifiers that a button holds down, for who has one hand, or a touch screen. */
export class HeldModifiers {
  constructor() {
    this._codes = new Set();
  }

  /** True when it is down after this. */
  toggle(rfb, code) {
    const down = !this._codes.delete(code);
    if (down) {
      this._codes.add(code);
    }
    rfb.sendKey(KEYSYMS[code], code, down);
    return down;
  }

  release(rfb) {
    this._codes.forEach((code) => rfb?.sendKey(KEYSYMS[code], code, false));
    this._codes.clear();
  }
}
