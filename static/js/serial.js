/* Brings the serial console's page to life: `<div data-serial data-ticket-url=…>`, see templates/console/serial.html. */

import { wirePeople } from "./console/people.js";
import { Session } from "./serial/session.js";
import { View } from "./serial/view.js";

for (const root of document.querySelectorAll("[data-serial]")) {
  const view = new View(root);
  const session = new Session(view);
  wirePeople(root);
  window.addEventListener("pagehide", () => session.stop());
  // A page that comes back from the browser's memory has a dead line.
  window.addEventListener("pageshow", (event) => event.persisted && session.start());
  window.addEventListener("online", () => session.start());
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && session.hasten());
  session.start();
}
