/* What is on the page around the terminal: the line that says what happens, the remedies, the keys, the size. */

import { post, Refusal } from "../console/ticket.js";
import { fit, makeTerminal } from "./terminal.js";
import { actionRefused, describe, starting, terminalLabel } from "./texts.js";

const KEYS = {
  enter: "\r",
  escape: "\x1b",
  tab: "\t",
  up: "\x1b[A",
  down: "\x1b[B",
  interrupt: "\x03",
  end: "\x04",
};
const SIZE = "casement-serial-size";

export class View {
  constructor(root) {
    this.root = root;
    this.stage = root.querySelector("[data-serial-stage]");
    this._status = root.querySelector("[data-serial-status]");
    this.ticketUrl = root.dataset.ticketUrl;
    this.terminal = makeTerminal(this.stage, terminalLabel(root.dataset.machineName ?? ""));
    this._mode = "view";
    this._othersControl = false;
    this._replaying = 0;
    this._quiet = false;
    /** Called with the bytes that the person typed or the terminal answers. */
    this.onInput = () => {};
    /** Called when the person wants to try again. */
    this.onAgain = () => {};
    this._wireTerminal();
    this._wireButtons();
    this._wireStart();
    this._wireSize();
    root.addEventListener("casement:control", ({ detail }) => {
      this._othersControl = !detail.controls;
      this._applyInput();
    });
    this._applyInput();
  }

  get csrfToken() {
    return this.root.querySelector("[name=csrfmiddlewaretoken]")?.value ?? "";
  }

  get wantedMode() {
    return this.root.dataset.mode === "view" ? "view" : "control";
  }

  /** Whether what is typed here reaches the machine. The relay has the last word; this spares the person the try. */
  get mayType() {
    return this.root.dataset.state === "connected" && this._mode === "control" && !this._othersControl;
  }

  /** Shows a state. While a machine that is off is looked at now and then, the line stays as it is. */
  show(state, detail = {}) {
    this._quiet = detail.step === "machine-off" || (this._quiet && state === "ticket");
    this.root.dataset.state = state;
    this._applyInput();
    if (state === "ticket" && this._quiet) {
      return;
    }
    this.root.dataset.step = detail.step ?? "";
    this.root.dataset.reason = detail.reason ?? "";
    this._say(describe(state, detail));
    this._offerRemedies(state, detail);
  }

  /** A line begins; it repeats what was there. */
  prepare(mode) {
    this._mode = mode;
    this.root.querySelector("[data-serial-watching]").hidden = mode !== "view";
    this.terminal.reset();
  }

  connected() {
    this._applyInput();
    this.terminal.focus();
    this.root.dispatchEvent(new CustomEvent("casement:prepared"));
    this.root.dispatchEvent(new CustomEvent("casement:first-frame", { bubbles: true }));
  }

  /** What was printed before we came: shown, and nothing in it is answered. */
  replay(bytes) {
    this._replaying += 1;
    this.terminal.write(bytes, () => {
      this._replaying -= 1;
    });
  }

  print(bytes) {
    this.terminal.write(bytes);
  }

  _say(line) {
    if (this._status.textContent !== line) {
      this._status.textContent = line;
    }
  }

  _offerRemedies(state, { step, reason }) {
    for (const remedy of this.root.querySelectorAll("[data-serial-remedy]")) {
      const cures = remedy.dataset.serialRemedy.split(" ");
      remedy.hidden = !(state === "failed" && (cures.includes(step) || cures.includes(`${step}/${reason}`)));
    }
    const technical = this.root.querySelector("[data-serial-technical]");
    if (technical) {
      technical.hidden = !(state === "failed" || state === "waiting");
      technical.textContent = [`${step}/${reason}`, this.root.dataset.host].filter(Boolean).join(" · ");
    }
  }

  _wireTerminal() {
    const { terminal } = this;
    const encoder = new TextEncoder();
    terminal.onData((text) => this._type(encoder.encode(text)));
    terminal.onBinary((text) => this._type(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
    terminal.attachCustomKeyEventHandler((event) => {
      if (event.type === "keydown" && event.ctrlKey && event.altKey && event.shiftKey) {
        event.preventDefault();
        this.root.querySelector("[data-serial-leave]").focus();
        return false;
      }
      return true;
    });
    new ResizeObserver(() => fit(terminal, this.stage)).observe(this.stage);
  }

  _type(bytes) {
    if (this.mayType && !this._replaying) {
      this.onInput(bytes);
    }
  }

  /** As if it were pressed in the terminal, where the person is again afterwards. */
  _press(text) {
    this.terminal.input(text);
    this.terminal.focus();
  }

  _wireButtons() {
    for (const button of this.root.querySelectorAll("[data-serial-key]")) {
      button.addEventListener("click", () => this._press(KEYS[button.dataset.serialKey]));
    }
    this.root.querySelector("[data-serial-again]").addEventListener("click", () => this.onAgain());
    this.root.querySelector("[data-serial-tell]").addEventListener("click", () => {
      this._press(`stty rows ${this.terminal.rows} cols ${this.terminal.cols}\r`);
    });
  }

  /** Starting the machine keeps the person here; without a script the form does the same with a page load. */
  _wireStart() {
    const form = this.root.querySelector("form[data-serial-remedy]");
    form?.addEventListener("submit", async (event) => {
      event.preventDefault();
      form.hidden = true;
      this._say(starting());
      if (!(await posted(form, this.csrfToken))) {
        this._say(actionRefused());
      }
    });
  }

  _wireSize() {
    const select = this.root.querySelector("[data-serial-size]");
    const apply = () => {
      const [columns, rows] = select.value.split("x").map(Number);
      this.terminal.resize(columns, rows);
      fit(this.terminal, this.stage);
    };
    const kept = remembered();
    if ([...select.options].some(({ value }) => value === kept)) {
      select.value = kept;
    }
    select.addEventListener("change", () => {
      apply();
      remember(select.value);
    });
    apply();
  }

  _applyInput() {
    this.terminal.options.disableStdin = !this.mayType;
    this.root.dataset.input = this.mayType ? "on" : "off";
    for (const button of this.root.querySelectorAll("[data-serial-needs-input]")) {
      button.disabled = !this.mayType;
    }
  }
}

// Storage may be forbidden; then the size lasts as long as the page.
function remembered() {
  try {
    return localStorage.getItem(SIZE);
  } catch {
    return null;
  }
}

function remember(value) {
  try {
    localStorage.setItem(SIZE, value);
  } catch {
    // As above.
  }
}

async function posted(form, csrfToken) {
  try {
    const answer = await post(form.action, csrfToken, new FormData(form));
    return answer.ok || answer.type === "opaqueredirect";
  } catch (error) {
    if (error instanceof Refusal) {
      return false;
    }
    throw error;
  }
}
