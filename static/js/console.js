/* Brings every screen on the page to life: `<div data-console data-ticket-url=…>`, see templates/console/_console.html. */

import { Session } from "./console/session.js";
import { wireToolbar } from "./console/toolbar.js";
import { View } from "./console/view.js";

function startConsole(root) {
  const session = new Session(new View(root));
  wireToolbar(root, session);
  window.addEventListener("pagehide", () => session.stop());
  // A page that comes back from the browser's memory has a dead line.
  window.addEventListener("pageshow", (event) => event.persisted && session.start());
  window.addEventListener("online", () => session.start());
  session.start();
}

/** Also for screens that come into the page later, when a machine has been built. */
function startAll(within) {
  for (const root of within.querySelectorAll("[data-console]:not([data-state])")) {
    startConsole(root);
  }
}

startAll(document);
document.addEventListener("htmx:afterSwap", () => startAll(document));
