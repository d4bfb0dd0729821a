/* Runs the steps, writes each verdict where it belongs, and the whole of it as text to copy. */

import { rate, remedyFor } from "./texts.js";
import { askForTicket, post, Refusal } from "./ticket.js";
import { Way } from "./way.js";

const gettext = window.gettext ?? ((text) => text);
const WORDS = {
  waiting: () => gettext("not tried"),
  running: () => gettext("trying…"),
  ok: () => gettext("fine"),
  failed: () => gettext("fails here"),
};

const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;

export function selftest(root) {
  new Page(root).wire();
}

class Page {
  constructor(root) {
    this._root = root;
    this._verdict = root.querySelector("[data-selftest-verdict]");
    this._rows = new Map([...root.querySelectorAll("[data-step]")].map((row) => [row.dataset.step, row]));
    this._running = false;
  }

  wire() {
    this._root.querySelector("[data-selftest-again]").addEventListener("click", () => this._run());
    this._root.querySelector("[data-selftest-copy]").addEventListener("click", () => this._copy());
    this._run();
  }

  async _run() {
    if (this._running) {
      return;
    }
    this._running = true;
    this._root.dataset.state = "running";
    this._say(gettext("Testing…"));
    this._rows.forEach((row) => show(row, "waiting"));
    const failed = await this._steps();
    this._running = false;
    this._root.dataset.state = failed ? "failed" : "ok";
    this._say(
      failed
        ? gettext("It fails at “%s”.").replace("%s", () => title(failed))
        : gettext("All steps are fine: the screen can be shown here."),
    );
  }

  /** Gives the row that failed, or null. */
  async _steps() {
    const { default: RFB } = await import("@novnc/novnc");
    const way = new Way(RFB, this._root.querySelector("[data-selftest-stage]"));
    let row = null;
    let tried = 0;
    const next = (name) => {
      row = this._rows.get(name);
      show(row, "running");
      tried = performance.now();
      return tried;
    };
    const measured = async (name, work) => {
      const started = next(name);
      const found = await work();
      show(row, "ok", { ms: performance.now() - started });
      return found;
    };
    try {
      const started = next("portal");
      const steps = await this._portal();
      const inPortal = steps.reduce((sum, step) => sum + step.ms, 0);
      show(row, "ok", { ms: Math.max(performance.now() - started - inPortal, 0) });
      for (const step of steps) {
        next(step.name);
        tried -= step.ms;
        if (step.ok === false) {
          throw new Refusal(step.step, step.reason, { technical: step.detail });
        }
        show(row, "ok", step);
      }
      const grant = await askForTicket(this._root.dataset.ticketUrl, this._csrf, "view");
      await measured("websocket", () => way.open(grant));
      await measured("handshake", () => way.greeted());
      await measured("picture", () => way.picture());
      next("latency");
      const { median, worst } = await way.latency();
      show(row, "ok", {
        text: gettext("%1 (worst %2)").replace("%1", milliseconds(median)).replace("%2", milliseconds(worst)),
      });
      next("bandwidth");
      show(row, "ok", { text: gettext("at least %s").replace("%s", rate(await way.bandwidth())) });
      return null;
    } catch (error) {
      if (!(error instanceof Refusal)) {
        throw error;
      }
      const { step, reason, technical } = error.detail;
      show(row, "failed", {
        text: milliseconds(performance.now() - tried),
        remedy: remedyFor(error.detail),
        detail: [technical && `${step}/${reason}`, technical].filter(Boolean).join(" · "),
      });
      return row;
    } finally {
      way.close();
    }
  }

  get _csrf() {
    return this._root.querySelector("[name=csrfmiddlewaretoken]").value;
  }

  /** The portal's own steps; how long the answer took without them is the way to the portal and back. */
  async _portal() {
    const answer = await post(this._root.dataset.stepsUrl, this._csrf, new URLSearchParams());
    if (answer.type === "opaqueredirect") {
      throw new Refusal("revoked", "signed-out");
    }
    if (!answer.ok) {
      throw new Refusal(answer.status === 404 ? "permission" : "network", answer.status === 404 ? "" : "no-portal");
    }
    return (await answer.json()).steps;
  }

  _say(text) {
    this._verdict.textContent = text;
  }

  async _copy() {
    const text = this._text();
    const box = this._root.querySelector("[data-selftest-text]");
    box.value = text;
    try {
      await navigator.clipboard.writeText(text);
      this._say(gettext("The result is on your clipboard."));
    } catch {
      // Without leave to write the clipboard the person copies by hand.
      box.hidden = false;
      box.select();
    }
  }

  _text() {
    const head = `Casement: ${this._root.dataset.machineName}, ${new Date().toISOString()}`;
    return [head, navigator.userAgent, ...[...this._rows.values()].map(line)].join("\n");
  }
}

const part = (row, name) => row.querySelector(`[data-step-${name}]`);
const title = (row) => part(row, "title").textContent.trim();

function line(row) {
  const told = ["word", "time", "remedy", "detail"].map((name) => part(row, name).textContent.trim()).filter(Boolean);
  return `${title(row)}: ${told.join(", ")}`;
}

/** What comes from the portal is set as text. */
function show(row, verdict, { ms, text = "", remedy = "", detail = "" } = {}) {
  row.dataset.verdict = verdict;
  part(row, "word").textContent = WORDS[verdict]();
  part(row, "time").textContent = ms === undefined ? text : milliseconds(ms);
  for (const [name, words] of Object.entries({ remedy, detail })) {
    part(row, name).textContent = words;
    part(row, name).hidden = !words;
  }
}
