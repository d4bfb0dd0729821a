/* One serial console: asks for a ticket, connects, shows, comes back by itself. */

import { afterwards, backoff, ConnectionState } from "../console/state.js";
import { askForTicket, closeDetail, Refusal } from "../console/ticket.js";
import { Beginning } from "./beginning.js";

const SUBPROTOCOL = "casement.ticket.";
const POLL_MS = 3000;
// A connection that lasted this long was a good one: after it, the first new attempt comes at once again.
const STEADY_MS = 5000;
// A silent line says something every 15 s; after three times nothing it is dead, though nobody has closed it.
const SILENT_MS = 50_000;
const LOOK_MS = 5000;
// A person does not type so much; a paste of more into a line that takes nothing is cut off here.
const MOST_UNSENT = 1024 * 1024;

export class Session {
  /** `view` shows states and holds the terminal; see view.js. */
  constructor(view) {
    this._view = view;
    this._state = new ConnectionState((state, detail) => view.show(state, detail));
    this._attempt = 0;
    this._run = 0;
    this._timer = 0;
    this._socket = null;
    this._heardAt = 0;
    setInterval(() => this._look(), LOOK_MS);
    view.onInput = (bytes) => this._send(bytes);
    view.onAgain = () => this.start();
  }

  /** Connect now, whatever was planned: at first, from a button, or when the network is back. */
  start() {
    if (this._state.allows("ticket")) {
      clearTimeout(this._timer);
      this._connect();
    }
  }

  /** Somebody looks again: what would be tried in a while is tried now. */
  hasten() {
    if (this._state.name === "waiting") {
      this.start();
    }
  }

  stop() {
    clearTimeout(this._timer);
    this._run += 1;
    this._socket?.close();
    this._socket = null;
    if (this._state.allows("idle")) {
      this._state.enter("idle");
    }
  }

  async _connect() {
    this._run += 1;
    const run = this._run;
    this._state.enter("ticket");
    try {
      const grant = await askForTicket(this._view.ticketUrl, this._view.csrfToken, this._view.wantedMode, "serial");
      if (run === this._run) {
        this._open(grant, run);
      }
    } catch (error) {
      if (!(error instanceof Refusal)) {
        throw error;
      }
      if (run === this._run) {
        this._fall(error.detail);
      }
    }
  }

  _open({ ticket, path, mode }, run) {
    this._state.enter("connecting");
    const url = new URL(path, window.location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, ["binary", SUBPROTOCOL + ticket]);
    const beginning = new Beginning();
    let opened = false;
    socket.binaryType = "arraybuffer";
    this._socket = socket;
    socket.addEventListener("open", () => {
      opened = true;
    });
    socket.addEventListener("message", ({ data }) => {
      if (run === this._run) {
        this._heard(beginning.push(new Uint8Array(data)), mode);
      }
    });
    socket.addEventListener("close", (event) => {
      if (run === this._run) {
        this._closed(closeDetail(event, opened));
      }
    });
  }

  /** The first message says that the line is there. */
  _heard({ old, now }, mode) {
    this._heardAt = Date.now();
    if (this._state.name === "connecting") {
      this._connectedAt = performance.now();
      this._view.prepare(mode);
      this._state.enter("connected");
      this._view.connected();
    }
    if (old.length) {
      this._view.replay(old);
    }
    if (now.length) {
      this._view.print(now);
    }
  }

  /** After a sleep, or behind a network that went away. A hidden tab's timers are late, so it is not judged. */
  _look() {
    const silence = Date.now() - this._heardAt;
    if (this._state.name === "connected" && document.visibilityState === "visible" && silence > SILENT_MS) {
      const socket = this._socket;
      this._run += 1;
      this._closed({ step: "network", reason: "silent" });
      socket.close();
    }
  }

  _send(bytes) {
    if (this._socket?.readyState === WebSocket.OPEN && this._socket.bufferedAmount < MOST_UNSENT) {
      this._socket.send(bytes);
    }
  }

  _closed(detail) {
    this._socket = null;
    if (this._state.name === "connected" && performance.now() - this._connectedAt > STEADY_MS) {
      this._attempt = 0;
    }
    this._fall(detail);
  }

  /** Wait and come back, look now and then, or leave it to the person. */
  _fall(detail) {
    const next = detail.reason === "no-serial-port" ? "stop" : afterwards(detail.step, detail.reason);
    this._state.enter(next === "retry" ? "waiting" : "failed", detail);
    if (next === "stop") {
      return;
    }
    const delay = next === "poll" ? POLL_MS : backoff(this._attempt);
    this._attempt += next === "retry" ? 1 : 0;
    this._timer = setTimeout(() => this.start(), delay);
  }
}
