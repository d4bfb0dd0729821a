/* The life of a screen's connection: which state may follow which. One function changes it. */

const NEXT = {
  idle: ["ticket"],
  ticket: ["connecting", "waiting", "failed", "idle"],
  connecting: ["connected", "waiting", "failed", "idle"],
  connected: ["waiting", "failed", "idle"],
  waiting: ["ticket", "idle"],
  failed: ["ticket", "idle"],
};

export class ConnectionState {
  /** `onChange(state, detail)` is told of every change; `detail` is `{step, reason, message}` or nothing. */
  constructor(onChange) {
    this.name = "idle";
    this._onChange = onChange;
  }

  /** The only way to another state. A change that makes no sense is a fault of ours and changes nothing. */
  enter(name, detail = {}) {
    if (!NEXT[this.name].includes(name)) {
      throw new Error(`console: ${this.name} cannot become ${name}`);
    }
    this.name = name;
    this._onChange(name, detail);
  }

  /** True when `enter(name)` would be accepted. */
  allows(name) {
    return NEXT[this.name].includes(name);
  }
}

/** Milliseconds to wait before attempt number `attempt` (0, 1, 2 …): half a second, doubling, at most ten, ±20 %. */
export function backoff(attempt, random = Math.random) {
  return Math.min(500 * 2 ** attempt, 10000) * (0.8 + 0.4 * random());
}

const RETRY = ["ended", "host", "network"];

/** What to do after `step`: come back by itself ("retry"), look now and then ("poll"), or wait for a person ("stop"). */
export function afterwards(step, reason) {
  if (step === "machine-off") {
    return "poll";
  }
  if (RETRY.includes(step) || reason === "unavailable") {
    return "retry";
  }
  // A wrong password does not become right by asking again; any other trouble of the display may pass (it is booting).
  return step === "display" && reason !== "password" ? "retry" : "stop";
}
