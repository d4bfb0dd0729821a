/* A line begins with how much of it is old: 4 bytes (big-endian) with a length, and that much of what was printed before.

A terminal answers some of what is printed (where is the cursor, what are you). What is old was answered long ago, or
nobody was there to; answering it now would type into whatever the guest does now. */

const HEAD = 4;

/** Cuts a line into its two parts, in whatever pieces it comes. */
export class Beginning {
  constructor() {
    this._head = [];
    this._left = 0;
  }

  /** `{old, now}`, each a Uint8Array that may be empty. */
  push(bytes) {
    let at = 0;
    while (this._head.length < HEAD && at < bytes.length) {
      this._head.push(bytes[at]);
      at += 1;
      this._left = this._head.length === HEAD ? this._head.reduce((sum, byte) => sum * 256 + byte, 0) : 0;
    }
    const old = bytes.subarray(at, at + this._left);
    this._left -= old.length;
    return { old, now: bytes.subarray(at + old.length) };
  }
}
