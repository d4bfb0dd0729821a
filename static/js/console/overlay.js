/* The figures over the picture. While they are hidden nothing is counted for them and no timer runs. */

import { figures } from "./texts.js";

const EVERY_MS = 1000;

export class Overlay {
  constructor(root) {
    this._box = root.querySelector("[data-console-figures]");
    this._line = null;
    this._timer = 0;
    this.shown = false;
  }

  /** `level` gives the words for the picture's quality; `size` its width and height. */
  show(line, { level, size }) {
    this.hide();
    this.shown = true;
    this._line = line;
    this._shownFrames = 0;
    this._pending = false;
    this._before = { at: performance.now(), bytes: line.bytes, updates: line.updates };
    line.onUpdate(() => this._count());
    this._box.hidden = false;
    this._timer = setInterval(() => this._write(level(), size()), EVERY_MS);
    this._write(level(), size());
  }

  hide() {
    clearInterval(this._timer);
    this._line?.onUpdate(null);
    this._line = null;
    this.shown = false;
    this._box.hidden = true;
  }

  /** All updates between two of the display's own pictures are one frame for the eye. */
  _count() {
    if (!this._pending) {
      this._pending = true;
      requestAnimationFrame(() => {
        this._pending = false;
        this._shownFrames += 1;
      });
    }
  }

  _write(level, { width, height }) {
    const now = { at: performance.now(), bytes: this._line.bytes, updates: this._line.updates };
    const seconds = Math.max((now.at - this._before.at) / 1000, 0.001);
    const updates = now.updates - this._before.updates;
    const values = figures({
      frames: this._shownFrames / seconds,
      latency: this._line.latency,
      bandwidth: (now.bytes - this._before.bytes) / seconds,
      dropped: Math.max(updates - this._shownFrames, 0),
      encoding: this._line.encoding,
      level,
      width,
      height,
    });
    for (const [name, text] of Object.entries(values)) {
      this._box.querySelector(`[data-figure=${name}]`).textContent = text;
    }
    this._before = now;
    this._shownFrames = 0;
  }
}
