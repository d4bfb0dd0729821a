/* One screen: asks for a ticket, connects, shows, comes back by itself. What is on the page around it is view.js's. */

import { openSocket, takeAhead } from "./door.js";
import { Keeper } from "./keeper.js";
import { Line } from "./line.js";
import { keepStill, onFirstPicture } from "./picture.js";
import { ConnectionState, afterwards, backoff } from "./state.js";
import { screenLabel } from "./texts.js";
import { askForTicket, closeDetail, Refusal } from "./ticket.js";

const POLL_MS = 3000;
// A connection that lasted this long was a good one: after it, the first new attempt comes at once again.
const STEADY_MS = 5000;
// The portal gives up a display after 5 s and a silent browser after 10; what takes longer hangs on the way.
const CONNECT_MS = 20_000;

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
    this.line = null;
    this.keeper = null;
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

  /** Somebody looks again: what would be tried in a while is tried now. */
  hasten() {
    if (this._state.name === "waiting") {
      this.start();
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
    const ahead = takeAhead(this._view.machine);
    try {
      const [{ default: RFB }, asked] = await Promise.all([this._viewer, ahead?.grant ?? this._ask()]);
      // One that has been closed by now is not taken: whoever asks is told why.
      const isGone = ahead?.state.closed;
      const grant = isGone ? await this._ask() : asked;
      if (run === this._run) {
        this._open(RFB, grant, run, isGone ? null : ahead);
      } else {
        ahead?.socket.close();
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

  _ask() {
    return askForTicket(this._view.ticketUrl, this._view.csrfToken, this._view.wantedMode);
  }

  _open(RFB, grant, run, ahead) {
    performance.mark("casement:ticket");
    this._state.enter("connecting");
    const { socket, state } = ahead ?? openSocket(grant);
    this.line = new Line(socket);
    this.rfb = new RFB(this._view.stage, socket, { shared: true });
    this.line.attach(RFB, this.rfb);
    this._number = grant.session ?? "";
    this._view.prepare(this.rfb, grant.mode);
    // From now on this run's time is limited; afterwards the keeper looks after it.
    this._timer = setTimeout(() => this._giveUp("slow"), CONNECT_MS);
    this.rfb.addEventListener("connect", () => run === this._run && this._connected());
    this.rfb.addEventListener("clipboard", (event) => this._view.receiveClipboard(event.detail.text));
    this.rfb.addEventListener("disconnect", () => {
      // What the page brought may be too old: only who asks now is told what is wrong.
      const isTooOld = ahead && !this.keeper;
      const detail = isTooOld ? { step: "network", reason: "lost" } : closeDetail(state.closed, state.opened);
      run === this._run && this._disconnected(detail);
    });
    ahead?.handOver();
  }

  _connected() {
    performance.mark("casement:connected");
    clearTimeout(this._timer);
    this._connectedAt = performance.now();
    const canvas = this._view.stage.querySelector("canvas");
    // The viewer takes the canvas out of the tab order; here it is the main thing on the page.
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", screenLabel(this._view.machineName));
    this._canvas = canvas;
    this._stopLooking = onFirstPicture(canvas, () => this._view.firstFrame());
    this.keeper = new Keeper(this.line, {
      changed: (word) => this._view.showLine(word),
      dead: () => this._giveUp(navigator.onLine === false ? "offline" : "silent"),
    });
    this._state.enter("connected");
    this._view.connected(this);
  }

  /** The line is dead but not closed. Its own end may come in minutes, so it is not waited for. */
  _giveUp(reason) {
    const rfb = this.rfb;
    this._run += 1;
    this._disconnected({ step: "network", reason });
    rfb.disconnect();
  }

  _disconnected(detail) {
    clearTimeout(this._timer);
    keepStill(this._canvas, this._view.still);
    if (this._letGo() && performance.now() - this._connectedAt > STEADY_MS) {
      this._attempt = 0;
    }
    this._fall({ ...detail, session: this._number });
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
    this._view.letGo();
    this._stopLooking?.();
    this._stopLooking = null;
    this.keeper?.stop();
    this.keeper = null;
    this._canvas = null;
    this._connectedAt = this.rfb ? this._connectedAt : Infinity;
    const rfb = this.rfb;
    this.rfb = null;
    return rfb;
  }
}
