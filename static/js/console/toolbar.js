/* The bar behind the handle: each control is a labelled button; a toggle says its state with aria-pressed. */

import { sendCombination } from "./keys.js";
import { Overlay } from "./overlay.js";
import { PictureQuality } from "./picturequality.js";
import { canCopy, copy, download } from "./screenshot.js";
import { remember, remembered } from "./size.js";
import {
  cannotType,
  keysGoThere,
  keysStayHere,
  levelWords,
  nothingToType,
  picked,
  typedAll,
  typedSoFar,
  typingStopped,
} from "./texts.js";
import { typeText, untypable } from "./typing.js";

const pressed = (button) => button.getAttribute("aria-pressed") === "true";
const press = (button, on) => button?.setAttribute("aria-pressed", String(on));

/** Wires the bar of `root` to `session` and its `view`. Nothing is sent while there is no connection. */
export function wireToolbar(root, session, view) {
  const bar = new Toolbar(root, session, view);
  bar.wire();
  return bar;
}

class Toolbar {
  constructor(root, session, view) {
    this._root = root;
    this._session = session;
    this._view = view;
    this._quality = new PictureQuality();
    this._overlay = new Overlay(root);
    this._typing = null;
  }

  wire() {
    wireHandle(this._root);
    const actions = {
      keys: (button) => sendCombination(this._session.rfb, button.dataset.keys),
      hold: (button) => press(button, this._view.modifiers.toggle(this._session.rfb, button.dataset.keys)),
      "type-text": () => this._typeText(),
      "stop-typing": () => this._typing?.abort(),
      paste: () => this._session.rfb.clipboardPasteFrom(this._field.value),
      screenshot: () => download(this._session.rfb, this._view.machineName),
      "copy-picture": async () => this._view.hint(picked(await copy(this._session.rfb))),
      fullscreen: () => toggleFullscreen(this._root, (text) => this._view.hint(text)),
      fit: (button) => this._toggleFit(button),
      figures: (button) => this._toggleFigures(button),
      watch: (button) => this._toggleWatch(button),
      reconnect: () => this._session.start(),
    };
    this._root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-console-action]");
      // A screen that is just going away has nothing to send to.
      if (button && (this._session.rfb || !("consoleLive" in button.dataset))) {
        actions[button.dataset.consoleAction]?.(button);
      }
    });
    this._root.addEventListener("change", ({ target }) => this._chosen(target));
    this._root.addEventListener("casement:prepared", ({ detail }) => offerInput(this._root, detail.mode));
    this._root.addEventListener("casement:input", ({ detail }) => this._inputChanged(detail.mayType));
    this._root.addEventListener("casement:connected", () => this._connected());
    this._root.addEventListener("casement:released", () => this._released());
    document.addEventListener("fullscreenchange", () => showFullscreen(this._root));
    this._showChoices();
  }

  get _field() {
    return this._root.querySelector("[data-console-clipboard]");
  }

  _connected() {
    this._quality.connected(this._session);
    if (pressed(this._root.querySelector("[data-console-action=figures]"))) {
      this._showFigures();
    }
  }

  /** What could only be sent in vain cannot be pressed; the way back from "watch without touching" can. */
  _inputChanged(mayType) {
    for (const button of this._root.querySelectorAll("[data-console-needs-input]")) {
      button.disabled = !mayType;
    }
    if (!mayType) {
      this._typing?.abort();
    }
  }

  _released() {
    this._typing?.abort();
    this._quality.released();
    this._overlay.hide();
  }

  _showChoices() {
    const size = remembered(localStorage);
    const check = (name, value) => {
      const radio = this._root.querySelector(`[data-console-choice=${name}][value=${value}]`);
      if (radio) {
        radio.checked = true;
      }
    };
    check("quality", this._quality.choice);
    check("scale", size.actual ? "actual" : "fit");
    check("pixels", size.css ? "css" : "device");
    this._root.querySelector("[data-console-action=copy-picture]").hidden = !canCopy();
  }

  _chosen({ dataset, value }) {
    const chosen = {
      quality: () => this._quality.choose(value),
      scale: () => this._resize({ actual: value === "actual" }),
      pixels: () => this._resize({ css: value === "css" }),
    };
    chosen[dataset.consoleChoice]?.();
  }

  _resize(change) {
    const size = { ...remembered(localStorage), ...change };
    remember(localStorage, size);
    const { rfb } = this._session;
    if (rfb) {
      rfb.scaleViewport = !size.actual;
      rfb.resizeSession = this._view.fit;
    }
  }

  _toggleFit(button) {
    const on = !pressed(button);
    press(button, on);
    this._root.dataset.fit = on ? "guest" : "";
    this._session.rfb.resizeSession = on;
  }

  _toggleWatch(button) {
    press(button, !pressed(button));
    this._view.handsOff = pressed(button);
  }

  _toggleFigures(button) {
    press(button, !pressed(button));
    if (pressed(button)) {
      this._showFigures();
    } else {
      this._overlay.hide();
      if (this._session.keeper) {
        this._session.keeper.eager = false;
      }
    }
  }

  _showFigures() {
    const canvas = this._root.querySelector("[data-console-stage] canvas");
    if (!this._session.keeper || !canvas) {
      return;
    }
    this._session.keeper.eager = true;
    this._overlay.show(this._session.line, {
      level: () => levelWords(this._quality.level.name, this._quality.automatic),
      size: () => canvas,
    });
  }

  async _typeText() {
    const text = this._field.value;
    const foreign = untypable(text);
    if (foreign.length || !text) {
      this._typed(foreign.length ? cannotType(foreign) : nothingToType());
      return;
    }
    this._typing?.abort();
    this._typing = new AbortController();
    const { signal } = this._typing;
    const { rfb } = this._session;
    const stop = this._root.querySelector("[data-console-action=stop-typing]");
    stop.hidden = false;
    const all = await typeText((...key) => rfb.sendKey(...key), text, {
      signal,
      typed: (count, total) => count % 25 === 0 && this._typed(typedSoFar(count, total)),
    });
    stop.hidden = true;
    this._typed(all ? typedAll() : typingStopped());
  }

  _typed(text) {
    this._root.querySelector("[data-console-typed]").textContent = text;
  }
}

/** Escape closes what is open, from the inside out: a section of the bar, then the bar. */
function wireHandle(root) {
  const handle = root.querySelector("[data-console-handle]");
  const bar = root.querySelector("[data-console-bar]");
  const open = (yes) => {
    bar.hidden = !yes;
    handle.setAttribute("aria-expanded", String(yes));
  };
  handle.addEventListener("click", () => open(bar.hidden));
  const sections = [...bar.querySelectorAll("details")];
  // One section at a time; browsers that know <details name> do it themselves.
  sections.forEach((section) =>
    section.addEventListener("toggle", () => {
      if (section.open) {
        sections
          .filter((other) => other !== section && !other.contains(section))
          .forEach((other) => {
            other.open = false;
          });
      }
    }),
  );
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || bar.hidden || !bar.contains(event.target)) {
      return;
    }
    const section = event.target.closest("details[open]");
    if (section) {
      section.open = false;
      section.querySelector("summary").focus();
    } else {
      open(false);
      handle.focus();
    }
  });
}

function offerInput(root, mode) {
  for (const element of root.querySelectorAll("[data-console-input]")) {
    element.hidden = mode === "view";
  }
  root.querySelector("[data-console-watching]").hidden = mode !== "view";
}

async function toggleFullscreen(root, hint) {
  if (document.fullscreenElement) {
    await document.exitFullscreen();
    return;
  }
  await root.requestFullscreen();
  hint((await keyboardLocked()) ? keysGoThere() : keysStayHere());
}

/** Lets Escape, Alt+Tab and the like reach the guest, where the browser can (holding Escape still leaves). */
async function keyboardLocked() {
  try {
    await navigator.keyboard.lock();
    return true;
  } catch {
    return false;
  }
}

function showFullscreen(root) {
  const on = document.fullscreenElement === root;
  press(root.querySelector("[data-console-action=fullscreen]"), on);
  if (!on) {
    navigator.keyboard?.unlock?.();
  }
}
