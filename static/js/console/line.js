/* The line to the display, measured: bytes, updates, round trips, and whether anybody is still there.

RFB gives a client no ping. A request for one pixel that need not have changed is one: a display that can be resized
answers it at once (with its size), any other with its next picture. What is here of the viewer's inner parts (names
with an underscore) is fixed by the version in package.json, and the tests in Chromium fail when it changes. */

const PICTURE = 0; // Real encodings are not negative; the others (cursor, size, lights) paint nothing.
const DESKTOP_SIZE = -223;
const EXTENDED_DESKTOP_SIZE = -308;
// Messages closer than this belong together; a display that paints thirty times a second leaves longer pauses.
const GAP_MS = 8;
const BURST_BYTES = 24 * 1024;
const NAMES = {
  0: "Raw",
  1: "CopyRect",
  2: "RRE",
  5: "Hextile",
  6: "Zlib",
  7: "Tight",
  16: "ZRLE",
  21: "JPEG",
  50: "H.264",
};

/** Adds up bursts of messages: bytes per second while there is something to receive. Pure, for its tests. */
export class Bursts {
  constructor() {
    this._start = 0;
    this._last = -Infinity;
    this._bytes = 0;
    this._best = [];
  }

  /** `going`: an update is half there, so whatever the time since the last message, it was spent on receiving. */
  add(now, bytes, going = false) {
    if (!going && now - this._last > GAP_MS) {
      this._finish();
      this._start = now;
      // The first message started on its way before we could look at the clock.
      this._bytes = 0;
    } else {
      this._bytes += bytes;
    }
    this._last = now;
  }

  /** Bytes per second of the bursts since the last call (their median), or null when none was long enough to tell. */
  take() {
    this._finish();
    const found = this._best.sort((a, b) => a - b);
    this._best = [];
    return found.length ? found[Math.floor(found.length / 2)] : null;
  }

  _finish() {
    const seconds = (this._last - this._start) / 1000;
    if (this._bytes >= BURST_BYTES) {
      this._best.push(this._bytes / Math.max(seconds, 0.002));
    }
    this._bytes = 0;
    this._start = this._last;
  }
}

export class Line {
  /** Call before the viewer takes the socket, so that this sees each message first. */
  constructor(socket) {
    this.bytes = 0;
    this.updates = 0;
    this.encoding = "";
    this.latency = null;
    this.heardAt = performance.now();
    this._askedAt = null;
    this._waiting = [];
    this._bursts = new Bursts();
    this._onUpdate = null;
    socket.addEventListener("message", ({ data }) => {
      this.heardAt = performance.now();
      this.bytes += data.byteLength;
      this._bursts.add(this.heardAt, data.byteLength, (this._rfb?._FBU.rects ?? 0) > 0);
    });
  }

  attach(RFB, rfb) {
    this._messages = RFB.messages;
    this._rfb = rfb;
    const handleRect = rfb._handleRect.bind(rfb);
    const update = rfb._framebufferUpdate.bind(rfb);
    let painted = false;
    let sized = false;
    rfb._handleRect = () => {
      const encoding = rfb._FBU.encoding;
      const done = handleRect();
      if (done && encoding >= PICTURE) {
        painted = true;
        this.encoding = NAMES[encoding] ?? String(encoding);
      }
      sized ||= done && encoding === EXTENDED_DESKTOP_SIZE;
      return done;
    };
    rfb._framebufferUpdate = () => {
      const done = update();
      if (done) {
        this._updated(painted, sized);
        painted = false;
        sized = false;
      }
      return done;
    };
  }

  /** Milliseconds for which an answer is owed without a byte of anything having come; 0 when none is owed. */
  get silence() {
    return this._askedAt === null ? 0 : performance.now() - Math.max(this._askedAt, this.heardAt);
  }

  /** Counts the silence anew, e.g. after a sleep, in which nothing could be heard. */
  forgive() {
    this.heardAt = performance.now();
  }

  /** Asks for a sign of life. Gives the milliseconds it took; never, when the line dies before. */
  ping() {
    const answer = new Promise((resolve) => this._waiting.push(resolve));
    if (this._askedAt === null) {
      this._askedAt = performance.now();
      this._messages.fbUpdateRequest(this._rfb._sock, false, 0, 0, 1, 1);
    }
    return answer;
  }

  /** From now on nothing is packed, so that what comes has the size that was asked for. For measuring only. */
  unpacked() {
    this._messages.clientEncodings(this._rfb._sock, [0, DESKTOP_SIZE, EXTENDED_DESKTOP_SIZE]);
  }

  /** Asks again for a corner of the picture, at most `side` pixels wide and high. */
  repaint(side) {
    const { _sock, _fbWidth, _fbHeight } = this._rfb;
    this._messages.fbUpdateRequest(_sock, false, 0, 0, Math.min(side, _fbWidth), Math.min(side, _fbHeight));
  }

  /** Bytes per second while receiving, or null. Starts anew with each call. */
  takeBandwidth() {
    return this._bursts.take();
  }

  /** `heard` is called for each update with a picture in it, until it is null again. */
  onUpdate(heard) {
    this._onUpdate = heard;
  }

  _updated(painted, sized) {
    if (painted) {
      this.updates += 1;
      this._onUpdate?.();
    }
    if (this._askedAt !== null && (sized || !this._rfb._supportsSetDesktopSize)) {
      this.latency = performance.now() - this._askedAt;
      this._askedAt = null;
      this._waiting.splice(0).forEach((resolve) => resolve(this.latency));
    }
  }
}
