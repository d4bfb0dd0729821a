/* What is on the page around a screen: the line that says what happens, the remedies, the stage and the still. */

import { HeldModifiers, watchKeys } from "./keys.js";
import { askAgain, followDisplay, remembered, sharpen } from "./size.js";
import { actionRefused, describe, lineIsSlow, starting, technicalDetail, whereItStopped } from "./texts.js";
import { post, Refusal } from "./ticket.js";

const HINT_MS = 6000;

export class View {
  constructor(root) {
    this.root = root;
    this.stage = root.querySelector("[data-console-stage]");
    this.still = root.querySelector("[data-console-still]");
    this._status = root.querySelector("[data-console-status]");
    this.ticketUrl = root.dataset.ticketUrl;
    this.machine = root.dataset.machine;
    this.machineName = root.dataset.machineName ?? "";
    this._quiet = false;
    this._rfb = null;
    this._mode = "control";
    this._handsOff = false;
    this._othersControl = false;
    this.modifiers = new HeldModifiers();
    const release = watchKeys(this.stage, { leave: () => this.leaveStage(), typed: () => this.releaseModifiers() });
    this.releaseKeys = () => {
      release();
      this.releaseModifiers();
    };
    this._wireStart();
    this._wireFocus();
    root.addEventListener("casement:control", ({ detail }) => this._controlChanged(detail));
    this._resized = new ResizeObserver(() => this._sharpen());
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

  /** Whether what is typed here reaches the machine. The relay has the last word; this spares the person the try. */
  get mayType() {
    return this._mode === "control" && !this._handsOff && !this._othersControl;
  }

  set handsOff(on) {
    this._handsOff = on;
    this._applyInput();
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
    this._explain(state, detail);
  }

  /** How the viewer behaves here; called before it connects. */
  prepare(rfb, mode) {
    const size = remembered(localStorage);
    this._rfb = rfb;
    this._mode = mode;
    rfb.scaleViewport = !size.actual;
    rfb.background = "transparent";
    followDisplay(rfb, () => (remembered(localStorage).css ? 1 : window.devicePixelRatio));
    rfb.resizeSession = this.fit && mode === "control";
    this.root.dataset.grantedMode = mode;
    this._applyInput();
    this.root.dispatchEvent(new CustomEvent("casement:prepared", { detail: { rfb, mode } }));
  }

  connected(session) {
    const canvas = this.stage.querySelector("canvas");
    this._resized.observe(canvas);
    this._sharpen();
    this.root.dispatchEvent(new CustomEvent("casement:connected", { detail: { session } }));
  }

  /** The connection is over: nothing of it stays down or on show. */
  letGo() {
    if (this._rfb) {
      this.releaseKeys();
      this._rfb = null;
      this._resized.disconnect();
      this.showLine("well");
      this.root.dispatchEvent(new CustomEvent("casement:released"));
    }
  }

  firstFrame() {
    performance.mark("casement:first-frame");
    this.root.dataset.firstFrame = String(Math.round(performance.now()));
    this.root.dispatchEvent(new CustomEvent("casement:first-frame", { bubbles: true }));
  }

  /** "slow" while the line owes an answer, "well" when it has given it. */
  showLine(word) {
    this.root.dataset.line = word;
    this._write("[data-console-slow]", word === "slow" ? lineIsSlow() : "");
  }

  /** A line over the picture that goes away by itself. */
  hint(text) {
    clearTimeout(this._hintTimer);
    this._write("[data-console-hint]", text);
    this._hintTimer = setTimeout(() => this._write("[data-console-hint]", ""), HINT_MS);
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

  releaseModifiers() {
    this.modifiers.release(this._rfb);
    for (const button of this.root.querySelectorAll("[data-console-action=hold]")) {
      button.setAttribute("aria-pressed", "false");
    }
  }

  _write(selector, text) {
    const box = this.root.querySelector(selector);
    if (box) {
      box.textContent = text;
      box.hidden = !text;
    }
  }

  _say(line) {
    // A live region speaks when its text changes; the same text again would be spoken again by some readers.
    if (this._status.textContent !== line) {
      this._status.textContent = line;
    }
  }

  /** Where it stopped, for those who want to know: operators get what they need to look for it. */
  _explain(state, detail) {
    const why = this.root.querySelector("[data-console-why]");
    if (!why) {
      return;
    }
    why.hidden = !(state === "failed" || state === "waiting");
    if (!why.hidden) {
      why.querySelector("[data-console-where]").textContent = whereItStopped(detail);
      const technical = why.querySelector("[data-console-technical]");
      if (technical) {
        technical.textContent = technicalDetail(detail, this.root.dataset.host);
      }
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

  /** Somebody else has taken or given back the keyboard; `holder` is a person's name, so it is set as text. */
  /** Who controls instead is said by the list of people, which sends this. */
  _controlChanged({ controls }) {
    this._othersControl = !controls;
    this._applyInput();
  }

  _applyInput() {
    if (this._rfb) {
      if (!this.mayType) {
        this.releaseKeys();
      }
      const gained = this._rfb.viewOnly && this.mayType;
      this._rfb.viewOnly = !this.mayType;
      if (gained) {
        askAgain(this._rfb);
      }
    }
    this.root.dataset.input = this.mayType ? "on" : "off";
    this.root.dispatchEvent(new CustomEvent("casement:input", { detail: { mayType: this.mayType } }));
  }

  _sharpen() {
    const canvas = this.stage.querySelector("canvas");
    if (canvas) {
      sharpen(canvas);
    }
  }

  /** Nothing stays down in the machine when the person has gone elsewhere. */
  _wireFocus() {
    window.addEventListener("blur", () => this.releaseKeys());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "hidden") {
        this.releaseKeys();
      }
    });
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
