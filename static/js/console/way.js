/* The browser's part of the way to a screen: stream, handshake, picture, latency, bandwidth. Each step has a deadline. */

import { openSocket } from "./door.js";
import { Line } from "./line.js";
import { onFirstPicture } from "./picture.js";
import { closeDetail, Refusal } from "./ticket.js";

const STEP_MS = 8000;
const PINGS = 8;
const PAUSE_MS = 60;
const CORNER = 256;
const BANDWIDTH_MS = 1500;
const BANDWIDTH_STEP_MS = 20_000;

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Rejects with a Refusal of `step`/`reason` when `promise` takes too long. */
function inTime(promise, step, reason, ms = STEP_MS) {
  let timer = 0;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Refusal(step, reason)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export class Way {
  /** `stage` gets the picture while it is tested. */
  constructor(RFB, stage) {
    this._RFB = RFB;
    this._stage = stage;
    this._rfb = null;
  }

  open(grant) {
    const { socket, state } = openSocket(grant);
    this._lost = () => closeDetail(state.closed, state.opened);
    this._line = new Line(socket);
    const opened = new Promise((resolve, reject) => {
      socket.addEventListener("open", resolve);
      socket.addEventListener("close", () => reject(this._refusal()));
    });
    this._rfb = new this._RFB(this._stage, socket, { shared: true });
    this._line.attach(this._RFB, this._rfb);
    this._rfb.viewOnly = true;
    this._rfb.scaleViewport = true;
    this._connected = new Promise((resolve, reject) => {
      this._rfb.addEventListener("connect", resolve);
      this._rfb.addEventListener("disconnect", () => reject(this._refusal()));
    });
    this._gone = new Promise((_, reject) => this._rfb.addEventListener("disconnect", () => reject(this._refusal())));
    // Waited for later, or never: that nobody has asked yet is no error.
    [this._connected, this._gone].forEach((promise) => promise.catch(() => {}));
    return inTime(opened, "network", "no-websocket");
  }

  greeted() {
    return inTime(this._connected, "network", "slow");
  }

  picture() {
    const canvas = this._stage.querySelector("canvas");
    let stop = () => {};
    const seen = new Promise((resolve) => {
      stop = onFirstPicture(canvas, resolve);
    });
    return inTime(Promise.race([seen, this._gone]), "display", "black").finally(() => stop());
  }

  /** `{median, worst}` in ms. */
  async latency() {
    const times = [];
    for (let count = 0; count < PINGS; count += 1) {
      times.push(await inTime(Promise.race([this._line.ping(), this._gone]), "network", "silent"));
      await pause(PAUSE_MS);
    }
    return { median: median(times), worst: Math.max(...times) };
  }

  /** Bytes per second: a corner of the picture again and again, not packed, until that has taken long enough to tell. */
  async bandwidth() {
    const before = this._line.bytes;
    const started = performance.now();
    this._line.unpacked();
    this._line.takeBandwidth();
    do {
      const painted = new Promise((resolve) => this._line.onUpdate(resolve));
      this._line.repaint(CORNER);
      await inTime(Promise.race([painted, this._gone]), "network", "silent", BANDWIDTH_STEP_MS);
    } while (performance.now() - started < BANDWIDTH_MS);
    this._line.onUpdate(null);
    // Pieces that come in one have no duration of their own: then the time with all its waiting counts.
    const overall = (this._line.bytes - before) / ((performance.now() - started) / 1000);
    return Math.max(this._line.takeBandwidth() ?? 0, overall);
  }

  close() {
    this._rfb?.disconnect();
    this._rfb = null;
  }

  _refusal() {
    const { step, reason } = this._lost();
    return new Refusal(step, reason);
  }
}
