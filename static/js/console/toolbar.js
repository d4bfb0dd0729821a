/* The bar behind the handle: each control is a labelled button; a toggle says its state with aria-pressed. */

import { sendCombination, typeText } from "./keys.js";

/** Wires the bar of `root` to `session`. Buttons for input are disabled while nothing can be sent. */
export function wireToolbar(root, session) {
  wireHandle(root);
  const actions = {
    keys: (button) => sendCombination(session.rfb, button.dataset.keys),
    "type-text": () => typeText(session.rfb, clipboardField(root).value),
    paste: () => session.rfb.clipboardPasteFrom(clipboardField(root).value),
    fullscreen: () => toggleFullscreen(root),
    fit: (button) => toggleFit(root, button, session),
    watch: (button) => toggleWatch(button, session),
    reconnect: () => session.start(),
  };
  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-console-action]");
    // A screen that is just going away has nothing to send to.
    if (button && (session.rfb || !("consoleInput" in button.dataset))) {
      actions[button.dataset.consoleAction]?.(button);
    }
  });
  root.addEventListener("casement:prepared", ({ detail }) => offerInput(root, detail.mode));
  document.addEventListener("fullscreenchange", () => showFullscreen(root));
}

function wireHandle(root) {
  const handle = root.querySelector("[data-console-handle]");
  const bar = root.querySelector("[data-console-bar]");
  const open = (yes) => {
    bar.hidden = !yes;
    handle.setAttribute("aria-expanded", String(yes));
  };
  handle.addEventListener("click", () => open(bar.hidden));
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !bar.hidden && bar.contains(event.target)) {
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

function clipboardField(root) {
  return root.querySelector("[data-console-clipboard]");
}

function toggleFit(root, button, session) {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  root.dataset.fit = on ? "guest" : "";
  session.rfb.resizeSession = on;
}

function toggleWatch(button, session) {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  session.rfb.viewOnly = on;
}

async function toggleFullscreen(root) {
  if (document.fullscreenElement) {
    await document.exitFullscreen();
    return;
  }
  await root.requestFullscreen();
  // Lets Escape, Alt+Tab and the like reach the guest, where the browser can (holding Escape still leaves).
  await navigator.keyboard?.lock?.();
}

function showFullscreen(root) {
  const on = document.fullscreenElement === root;
  root.querySelector("[data-console-action=fullscreen]").setAttribute("aria-pressed", String(on));
  if (!on) {
    navigator.keyboard?.unlock?.();
  }
}
