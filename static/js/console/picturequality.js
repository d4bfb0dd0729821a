/* Chooses the picture's quality while a screen is live: by hand, or by what the line has carried in the last seconds. */

import { decide, firstDecision, LEVELS, levelOf, rememberChoice, rememberedChoice } from "./quality.js";

const WINDOW_MS = 2000;

export class PictureQuality {
  constructor() {
    this.choice = rememberedChoice(localStorage);
    this._decision = firstDecision();
    this._session = null;
    this._timer = 0;
  }

  get level() {
    return LEVELS[levelOf(this.choice) ?? this._decision.level];
  }

  get automatic() {
    return this.choice === "auto";
  }

  /** What was learnt of the line is kept for the next connection, which most likely takes the same way. */
  connected(session) {
    this._session = session;
    this._apply();
    this._timer = setInterval(() => this._measure(), WINDOW_MS);
  }

  released() {
    clearInterval(this._timer);
    this._session = null;
  }

  choose(choice) {
    this.choice = choice;
    rememberChoice(localStorage, choice);
    this._apply();
  }

  _measure() {
    // A hidden tab paints nothing and is told nothing: what it would measure is its own sleep.
    if (document.visibilityState !== "visible" || !this._session?.line) {
      return;
    }
    const { line } = this._session;
    // An answer that is still owed is at least as late as it is now.
    const latency = line.latency === null && !line.silence ? null : Math.max(line.latency ?? 0, line.silence);
    this._decision = decide(this._decision, { bandwidth: line.takeBandwidth(), latency });
    if (this.automatic) {
      this._apply();
    }
  }

  /** The viewer tells the display only when something has changed. */
  _apply() {
    const rfb = this._session?.rfb;
    if (rfb) {
      rfb.qualityLevel = this.level.quality;
      rfb.compressionLevel = this.level.compression;
    }
  }
}
