/* Notices what a browser does not tell: a line that is dead but not closed, a sleep, another network. */

const TICK_MS = 1000;
const PING_MS = 5000;
const EAGER_PING_MS = 1000;
const SLEEP_MS = 5000;

// How long a line that owes an answer may say nothing at all before it is given up. A message of 256 KiB comes whole
// or not at all, so a slow line is silent for long; how slow it is, its last round trip tells.
const UNKNOWN_MS = 30_000;
const DEAD_MS = 10_000;
const MOST_MS = 40_000;
// After a sleep or a change of network the line is most likely dead, so it gets less time to prove itself.
const DOUBT_MS = 3000;
const SLOW_MS = 3000;

/** What a silence of so many milliseconds means: "well", "slow" or "dead". `latency` null: never answered yet. Pure. */
export function judge(silence, { latency, doubt }) {
  const patience = latency === null ? UNKNOWN_MS : Math.min(Math.max(DEAD_MS, 6 * latency), MOST_MS);
  const limit = doubt ? Math.min(patience, Math.max(DOUBT_MS, 3 * (latency ?? 0))) : patience;
  if (silence >= limit) {
    return "dead";
  }
  return silence >= Math.min(SLOW_MS, limit / 2) ? "slow" : "well";
}

/** Watches one line until `stop()`. `changed("slow" | "well")` is for the page, `dead()` ends the connection. */
export class Keeper {
  constructor(line, { changed, dead }) {
    this._line = line;
    this._changed = changed;
    this._dead = dead;
    this._word = "well";
    this._doubt = false;
    this._tickedAt = Date.now();
    this._pingedAt = performance.now();
    /** More pings, for somebody who looks at the figures. */
    this.eager = false;
    this._listening = new AbortController();
    this._listen();
    this._timer = setInterval(() => this._tick(), TICK_MS);
    this._ask();
  }

  /** Something has happened after which the line may be dead: ask now, and wait less. */
  doubt() {
    this._doubt = true;
    this._line.forgive();
    this._ask();
  }

  stop() {
    clearInterval(this._timer);
    this._listening.abort();
  }

  _listen() {
    const options = { signal: this._listening.signal };
    const doubt = () => this.doubt();
    window.addEventListener("online", doubt, options);
    window.addEventListener("offline", doubt, options);
    document.addEventListener("resume", doubt, options);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && doubt(), options);
    // Not in every browser: the cable was pulled and the radio took over, which is no "offline".
    navigator.connection?.addEventListener?.("change", doubt, options);
  }

  _tick() {
    const slept = Date.now() - this._tickedAt > SLEEP_MS;
    this._tickedAt = Date.now();
    // A hidden tab asks for nothing: nobody looks, and its timers are late anyway.
    if (document.visibilityState !== "visible") {
      return;
    }
    if (slept) {
      this.doubt();
      return;
    }
    if (performance.now() - this._pingedAt > (this.eager ? EAGER_PING_MS : PING_MS)) {
      this._ask();
    }
    this._look();
  }

  _look() {
    const word = judge(this._line.silence, { latency: this._line.latency, doubt: this._doubt });
    if (word === "dead") {
      this.stop();
      this._dead();
    } else if (word !== this._word) {
      this._word = word;
      this._changed(word);
    }
  }

  async _ask() {
    this._pingedAt = performance.now();
    await this._line.ping();
    this._doubt = false;
  }
}
