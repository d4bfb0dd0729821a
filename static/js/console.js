/* Brings every screen on the page to life: `<div data-console data-ticket-url=…>`, see templates/console/_console.html. */

import { wireDesk } from "./console/desk.js";
import { wirePeople } from "./console/people.js";
import { Session } from "./console/session.js";
import { wireToolbar } from "./console/toolbar.js";
import { View } from "./console/view.js";

const sessions = new Set();

function startConsole(root) {
  const view = new View(root);
  const session = new Session(view);
  wireToolbar(root, session, view);
  wirePeople(root);
  wireDesk(root, session);
  window.addEventListener("pagehide", () => session.stop());
  // A page that comes back from the browser's memory has a dead line.
  window.addEventListener("pageshow", (event) => event.persisted && session.start());
  window.addEventListener("online", () => session.start());
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && session.hasten());
  sessions.add(session);
  session.start();
}

/** A screen that was taken out of the page must not stay connected behind it. */
function stopRemoved() {
  for (const session of sessions) {
    if (!session.onPage) {
      session.stop();
      sessions.delete(session);
    }
  }
}

/** Also for screens that come into the page later, when a machine has been built. */
function startAll(within) {
  for (const root of within.querySelectorAll("[data-console]:not([data-state])")) {
    startConsole(root);
  }
}

/** A page that came as the answer to another address goes by its own: it may be reloaded and gone back to. */
function goByOwnAddress() {
  const own = document.querySelector("link[rel=canonical]");
  if (own && new URL(own.href).pathname !== window.location.pathname) {
    window.history.replaceState(window.history.state, "", own.href);
  }
}

startAll(document);
goByOwnAddress();
document.addEventListener("htmx:afterSwap", () => {
  stopRemoved();
  startAll(document);
});
