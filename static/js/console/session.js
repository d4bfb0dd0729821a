/* One screen: asks for a ticket, connects, shows, comes back by itself. What is on the page around it is view.js's. */

import { keepStill, onFirstPicture } from "./picture.js";
import { ConnectionState, afterwards, backoff } from "./state.js";
import { screenLabel } from "./texts.js";
import { askForTicket, closeDetail, Refusal } from "./ticket.js";

const SUBPROTOCOL = "casement.ticket.";
const POLL_MS = 3000;
// A connection that lasted this long was a good one: after it, the first new attempt comes at once again.
const STEADY_MS = 5000;

export class Session {
  /** `view` shows states and holds the stage; see view.js. */
  constructor(view) {
    this._view = view;
    this._state = new ConnectionState((state, detail) => view.show(state, detail));
    this._attempt = 0;
    this._run = 0;
    this._timer = 0;
    this._connectedAt = Infinity;
    // Fetched once and early, so that the viewer loads while the portal makes the ticket.
    this._viewer = import("@novnc/novnc");
    this.rfb = null;
    this.mode = "control";
  }

  get onPage() {
    return this._view.root.isConnected;
  }

  /** Connect now, whatever was planned: at first, from a button, or when the line is back. */
  start() {
    if (!this.onPage) {
      // The page went on without this screen, e.g. because the machine was shut down.
      this.stop();
    } else if (this._state.allows("ticket")) {
      clearTimeout(this._timer);
      this._connect();
    }
  }

  /** Let go of the screen, for a page that is left. */
  stop() {
    clearTimeout(this._timer);
    this._run += 1;
    this._letGo()?.disconnect();
    if (this._state.allows("idle")) {
      this._state.enter("idle");
    }
  }

  async _connect() {
    this._run += 1;
    const run = this._run;
    this._state.enter("ticket");
    try {
      const [{ default: RFB }, grant] = await Promise.all([
        this._viewer,
        askForTicket(this._view.ticketUrl, this._view.csrfToken, this._view.wantedMode),
      ]);
      if (run === this._run) {
        this._open(RFB, grant, run);
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

  _open(RFB, { ticket, path, mode }, run) {
    performance.mark("casement:ticket");
    this.mode = mode;
    this._state.enter("connecting");
    const url = new URL(path, window.location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url, ["binary", SUBPROTOCOL + ticket]);
    let closed = null;
    socket.addEventListener("close", (event) => {
      closed = event;
    });
    this.rfb = new RFB(this._view.stage, socket, { shared: true });
    this._view.prepare(this.rfb, mode);
    this.rfb.addEventListener("connect", () => run === this._run && this._connected());
    this.rfb.addEventListener("clipboard", (event) => this._view.receiveClipboard(event.detail.text));
    this.rfb.addEventListener("disconnect", () => run === this._run && this._disconnected(closeDetail(closed)));
  }

  _connected() {
    performance.mark("casement:connected");
    this._connectedAt = performance.now();
    const canvas = this._view.stage.querySelector("canvas");
    // The viewer takes the canvas out of the tab order; here it is the main thing on the page.
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", screenLabel(this._view.machineName));
    this._canvas = canvas;
    this._stopLooking = onFirstPicture(canvas, () => this._view.firstFrame());
    this._state.enter("connected");
  }

  _disconnected(detail) {
    keepStill(this._canvas, this._view.still);
    if (this._letGo() && performance.now() - this._connectedAt > STEADY_MS) {
      this._attempt = 0;
    }
    this._fall(detail);
  }

  /** The way down from every state: wait and come back, look now and then, or leave it to the person. */
  _fall(detail) {
    const next = afterwards(detail.step, detail.reason);
    this._state.enter(next === "retry" ? "waiting" : "failed", detail);
    if (next === "stop") {
      return;
    }
    const delay = next === "poll" ? POLL_MS : backoff(this._attempt);
    this._attempt += next === "retry" ? 1 : 0;
    this._timer = setTimeout(() => this.start(), delay);
  }

  /** Forgets the connection and gives it back, so that its end is nobody's business any more. */
  _letGo() {
    this._stopLooking?.();
    this._stopLooking = null;
    this._canvas = null;
    const rfb = this.rfb;
    this.rfb = null;
    return rfb;
  }
}
