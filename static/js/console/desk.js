/* A desktop's session around its screen: asks whether somebody is there, counts down, and shows what ended it.

The section fetches itself (base/live.js); what stands in it is the portal's word. */

import htmx from "htmx.org";
import { duration } from "../base/text.js";
import { post } from "./ticket.js";

const TICK_MS = 1000;
const ACTS = ["keydown", "pointerdown", "pointermove", "wheel", "touchstart"];

const seen = (key) => {
  try {
    return sessionStorage.getItem("casement-desk-note") === key;
  } catch {
    return false;
  }
};

export class Desk {
  /** `stop` lets go of the screen, which is nobody's here any more. */
  constructor(root, { stop }) {
    this._root = root;
    this._stop = stop;
    this._saidHere = Number.NEGATIVE_INFINITY;
    this._over = null;
    this._deadlines = new WeakMap();
  }

  get _section() {
    return document.querySelector("[data-desk]");
  }

  wire() {
    for (const name of ACTS) {
      this._root.addEventListener(name, () => this._active(), { capture: true, passive: true });
    }
    this._root.addEventListener("casement:first-frame", () => this._shown(), { once: true });
    // Why the screen went is the session's to say: it is asked at once.
    new MutationObserver(() => this._screenChanged()).observe(this._root, {
      attributes: true,
      attributeFilter: ["data-state"],
    });
    document.addEventListener("htmx:afterSettle", () => this._heed());
    document.addEventListener("click", (event) => this._noteClosed(event));
    setInterval(() => this._count(), TICK_MS);
    this._heed();
  }

  /** Somebody types or moves here. What reaches the machine the portal hears by itself; the question holds it back. */
  _active() {
    const section = this._section;
    const now = performance.now();
    if (section?.querySelector("[data-desk-warning]") && now - this._saidHere > TICK_MS) {
      this._saidHere = now;
      this._say(section.dataset.hereUrl).then(() => this._renew());
    }
  }

  _shown() {
    this._say(this._section?.dataset.shownUrl, { screen_ms: String(Math.round(performance.now())) });
  }

  async _say(url, values = {}) {
    const token = this._root.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "";
    if (url) {
      // What does not arrive is said again with the next key; the section itself shows what the portal holds.
      await post(url, token, new URLSearchParams(values)).catch(() => {});
    }
  }

  _renew() {
    const section = this._section;
    if (section) {
      htmx.trigger(section, "live");
    }
  }

  _screenChanged() {
    if (["failed", "waiting"].includes(this._root.dataset.state)) {
      this._renew();
    }
  }

  /** What the portal says now: over and taken sessions have no screen; a question gets the focus once. */
  _heed() {
    const section = this._section;
    if (!section) {
      return;
    }
    if (section.dataset.state !== "active") {
      this._stop();
    }
    this._showNotes(section);
    const over = section.querySelector("[data-desk-over]");
    // What lies under it is out of reach until it is answered.
    for (const part of this._root.querySelectorAll(".console-screen, .console-tools")) {
      part.inert = Boolean(over);
    }
    const word = over ? section.dataset.state + Boolean(over.matches("[data-desk-warning]")) : null;
    if (word !== this._over) {
      this._over = word;
      over?.querySelector("[data-desk-first]")?.focus();
    }
    this._count();
  }

  _showNotes(section) {
    for (const note of section.querySelectorAll("[data-desk-note]")) {
      note.hidden = seen(note.dataset.deskNote);
    }
  }

  _noteClosed(event) {
    const note = event.target.closest?.("[data-desk-note-close]")?.closest("[data-desk-note]");
    if (note) {
      try {
        sessionStorage.setItem("casement-desk-note", note.dataset.deskNote);
      } catch {
        // Storage may be forbidden; the note is then back with the next change.
      }
      note.hidden = true;
    }
  }

  /** By this browser's running time: its clock may be wrong, and the portal says how many seconds are left. */
  _deadlineOf(clock) {
    const known = this._deadlines.get(clock);
    if (known?.of === clock.dateTime) {
      return known.at;
    }
    const at = performance.now() + Number(clock.dataset.countdown) * 1000;
    this._deadlines.set(clock, { of: clock.dateTime, at });
    return at;
  }

  _count() {
    for (const clock of this._section?.querySelectorAll("time[data-countdown]") ?? []) {
      const left = (this._deadlineOf(clock) - performance.now()) / 1000;
      const text = duration(left);
      if (clock.textContent !== text) {
        clock.textContent = text;
      }
      // The time is up: what follows is the portal's to say.
      if (left <= 0 && !clock.dataset.over) {
        clock.dataset.over = "yes";
        this._renew();
      }
    }
  }
}

/** Wires the session of the page, if the screen is one's desktop. */
export function wireDesk(root, session) {
  if (document.querySelector("[data-desk]")) {
    new Desk(root, { stop: () => session.stop() }).wire();
  }
}
