/* What is on the page around a screen: the line that says what happens, the remedies, the stage and the still. */

import { watchKeys } from "./keys.js";
import { actionRefused, describe, starting } from "./texts.js";
import { post, Refusal } from "./ticket.js";

export class View {
  constructor(root) {
    this.root = root;
    this.stage = root.querySelector("[data-console-stage]");
    this.still = root.querySelector("[data-console-still]");
    this._status = root.querySelector("[data-console-status]");
    this.ticketUrl = root.dataset.ticketUrl;
    this.machineName = root.dataset.machineName ?? "";
    this._quiet = false;
    watchKeys(this.stage, () => this.leaveStage());
    this._wireStart();
  }

  get csrfToken() {
    return this.root.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "";
  }

  get wantedMode() {
    return this.root.dataset.mode === "view" ? "view" : "control";
  }

  get fit() {
    return this.root.dataset.fit === "guest";
  }

  /** Shows a state. While a machine that is off is looked at now and then, the line stays as it is. */
  show(state, detail = {}) {
    this._quiet = detail.step === "machine-off" || (this._quiet && state === "ticket");
    this.root.dataset.state = state;
    if (state === "ticket" && this._quiet) {
      return;
    }
    this.root.dataset.step = detail.step ?? "";
    this.root.dataset.reason = detail.reason ?? "";
    this._say(describe(state, detail));
    this._offerRemedies(state, detail);
  }

  /** How the viewer behaves here; called before it connects. */
  prepare(rfb, mode) {
    rfb.scaleViewport = true;
    rfb.background = "transparent";
    rfb.viewOnly = mode === "view";
    rfb.resizeSession = this.fit && mode === "control";
    this.root.dataset.grantedMode = mode;
    this.root.dispatchEvent(new CustomEvent("casement:prepared", { detail: { rfb, mode } }));
  }

  firstFrame() {
    performance.mark("casement:first-frame");
    this.root.dataset.firstFrame = String(Math.round(performance.now()));
    this.root.dispatchEvent(new CustomEvent("casement:first-frame", { bubbles: true }));
  }

  /** The guest's clipboard is the guest's word: it goes into a text field's value and nowhere else. */
  receiveClipboard(text) {
    const field = this.root.querySelector("[data-console-clipboard]");
    if (field) {
      field.value = text;
    }
  }

  leaveStage() {
    this.root.querySelector("[data-console-handle]")?.focus();
  }

  _say(line) {
    // A live region speaks when its text changes; the same text again would be spoken again by some readers.
    if (this._status.textContent !== line) {
      this._status.textContent = line;
    }
  }

  /** The buttons that help are in the page; each names the failures it is for ("machine-off", "revoked/signed-out"). */
  _offerRemedies(state, { step, reason }) {
    const stopped = state === "failed";
    for (const remedy of this.root.querySelectorAll("[data-console-remedy]")) {
      const cures = remedy.dataset.consoleRemedy.split(" ");
      remedy.hidden = !(stopped && (cures.includes(step) || cures.includes(`${step}/${reason}`)));
    }
  }

  /** Starting the machine keeps the person here; without a script the form does the same with a page load. */
  _wireStart() {
    const form = this.root.querySelector("form[data-console-start]");
    form?.addEventListener("submit", async (event) => {
      event.preventDefault();
      this._say(starting());
      form.closest("[data-console-remedy]").hidden = true;
      if (!(await this._posted(form))) {
        this._say(actionRefused());
      }
    });
  }

  async _posted(form) {
    try {
      const answer = await post(form.action, this.csrfToken, new FormData(form));
      return answer.ok || answer.type === "opaqueredirect";
    } catch (error) {
      if (error instanceof Refusal) {
        return false;
      }
      throw error;
    }
  }
}
