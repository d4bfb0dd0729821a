/* Keys: combinations to send, text to type, keys that must not stay down, and the way out of the canvas. */

const KEYSYMS = {
  ControlLeft: 0xffe3,
  AltLeft: 0xffe9,
  ShiftLeft: 0xffe1,
  MetaLeft: 0xffeb,
  Delete: 0xffff,
  Escape: 0xff1b,
  Tab: 0xff09,
  Enter: 0xff0d,
  F1: 0xffbe,
  F2: 0xffbf,
  F7: 0xffc4,
  PrintScreen: 0xff61,
};

/** Presses the codes in order ("ControlLeft AltLeft F2") and lets them go in the opposite one. */
export function sendCombination(rfb, codes) {
  const list = codes.split(" ").filter((code) => code in KEYSYMS);
  list.forEach((code) => rfb.sendKey(KEYSYMS[code], code, true));
  list.reverse().forEach((code) => rfb.sendKey(KEYSYMS[code], code, false));
}

/** Types a text key by key, for guests that have no clipboard: a login prompt, a boot loader. */
export async function typeText(rfb, text, pause = 12) {
  for (const character of text.replaceAll("\r\n", "\n")) {
    rfb.sendKey(keysymOf(character), "");
    // Firmware and text consoles drop keys that come faster than they poll.
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

function keysymOf(character) {
  const named = { "\n": KEYSYMS.Enter, "\t": KEYSYMS.Tab }[character];
  const point = character.codePointAt(0);
  // X11: Latin-1 characters are their own keysyms, all others are their code point with this bit set.
  return named ?? (point <= 0xff ? point : 0x01000000 | point);
}

/** Watches the stage's keys. `leave` is called for Ctrl+Alt+Shift; held keys are let go when the focus leaves. */
export function watchKeys(stage, leave) {
  const held = new Map();

  stage.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey && event.altKey && event.shiftKey && ["Control", "Alt", "Shift", "Meta"].includes(event.key)) {
        event.preventDefault();
        event.stopPropagation();
        leave();
        return;
      }
      held.set(event.code, event.key);
    },
    true,
  );
  stage.addEventListener("keyup", (event) => held.delete(event.code), true);
  // The viewer lets go of keys when the window loses the focus, but not when another element takes it.
  stage.addEventListener("focusout", (event) => {
    const down = [...held];
    held.clear();
    down.forEach(([code, key]) => event.target.dispatchEvent(new KeyboardEvent("keyup", { code, key, bubbles: true })));
  });
}
