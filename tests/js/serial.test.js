/* What the serial console's scripts decide without a browser: run by `bin/frontend --lint`. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Beginning } from "../../static/js/serial/beginning.js";

const LINE = Uint8Array.from([0, 0, 0, 3, 1, 2, 3, 4, 5]);

test("what is old and what is new are told apart, in whatever pieces they come", () => {
  for (let size = 1; size <= LINE.length; size += 1) {
    const beginning = new Beginning();
    const found = { old: [], now: [] };
    for (let at = 0; at < LINE.length; at += size) {
      const { old, now } = beginning.push(LINE.subarray(at, at + size));
      found.old.push(...old);
      found.now.push(...now);
    }
    assert.deepEqual(found, { old: [1, 2, 3], now: [4, 5] });
  }
});

test("a line with nothing old is new from its fifth byte on", () => {
  const { old, now } = new Beginning().push(Uint8Array.from([0, 0, 0, 0, 7]));
  assert.deepEqual([[...old], [...now]], [[], [7]]);
});
