/* What the screen's scripts decide without a browser: run by `bin/frontend --lint`. */

import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { judge } from "../../static/js/console/keeper.js";
import { Bursts } from "../../static/js/console/line.js";
import {
  decide,
  firstDecision,
  LEVELS,
  levelOf,
  rememberChoice,
  rememberedChoice,
} from "../../static/js/console/quality.js";
import { fileName } from "../../static/js/console/screenshot.js";
import { askAgain, followDisplay, guestSize } from "../../static/js/console/size.js";
import { afterwards, backoff, ConnectionState } from "../../static/js/console/state.js";
import { typeText, untypable } from "../../static/js/console/typing.js";

const GOOD = { bandwidth: 50_000_000, latency: 3 };
const POOR = { bandwidth: 60_000, latency: 900 };

function after(windows, start = firstDecision()) {
  return windows.reduce((decision, window) => decide(decision, window), start);
}

const repeat = (window, count) => Array(count).fill(window);

test("a poor line goes down to the last level and stays there", () => {
  assert.equal(after(repeat(POOR, 20)).level, LEVELS.length - 1);
});

test("a good line goes up to the sharpest", () => {
  assert.equal(after(repeat(GOOD, 20)).level, 0);
});

test("one bad window is no reason, two in a row are", () => {
  const start = firstDecision();
  assert.equal(after([POOR, GOOD, POOR, GOOD], start).level, start.level);
  assert.equal(after([POOR, POOR], start).level, start.level + 1);
});

test("going up takes longer than going down", () => {
  const low = after(repeat(POOR, 20));
  assert.equal(after(repeat(GOOD, 2), low).level, low.level);
  assert.equal(after(repeat(GOOD, 5), low).level, low.level - 1);
});

test("a line at the border of two levels does not swing", () => {
  const windows = Array.from({ length: 60 }, (_, index) => ({
    bandwidth: index % 2 ? 1_050_000 : 1_300_000,
    latency: 50,
  }));
  const seen = new Set();
  windows.reduce((decision, window) => {
    const next = decide(decision, window);
    seen.add(next.level);
    return next;
  }, firstDecision());
  assert.deepEqual([...seen], [1]);
});

test("nothing measured changes nothing, and latency alone does not lead up", () => {
  const start = firstDecision();
  assert.deepEqual(after(repeat({ bandwidth: null, latency: null }, 9), start), start);
  assert.equal(after(repeat({ bandwidth: null, latency: 1 }, 50), start).level, start.level);
});

test("a choice by hand is remembered, and rubbish in the memory is automatic", () => {
  const memory = new Map();
  const storage = { getItem: (key) => memory.get(key) ?? null, setItem: (key, value) => memory.set(key, value) };
  assert.equal(rememberedChoice(storage), "auto");
  rememberChoice(storage, "fast");
  assert.equal(rememberedChoice(storage), "fast");
  rememberChoice(storage, "toString");
  assert.equal(rememberedChoice(storage), "auto");
  assert.equal(levelOf("auto"), undefined);
});

test("the bandwidth of a burst leaves out its first piece and the pauses around it", () => {
  const bursts = new Bursts();
  for (let at = 0; at <= 1000; at += 5) {
    bursts.add(at, 10_000);
  }
  bursts.add(9000, 10);
  assert.equal(bursts.take(), 2_000_000);
  assert.equal(bursts.take(), null);
});

test("small pictures that come at their own pace say nothing about the line", () => {
  const bursts = new Bursts();
  for (let at = 0; at <= 2000; at += 33) {
    bursts.add(at, 30_000);
  }
  assert.equal(bursts.take(), null);
});

test("a half update on a slow line is one burst, however long its pauses", () => {
  const bursts = new Bursts();
  bursts.add(0, 50_000);
  bursts.add(1000, 50_000, true);
  bursts.add(2000, 50_000, true);
  assert.equal(bursts.take(), 50_000);
});

test("a silence is first slow and then dead, sooner after a sleep and later on a slow line", () => {
  const well = { latency: 20, doubt: false };
  assert.deepEqual(
    [0, 3000, 9999, 10_000].map((ms) => judge(ms, well)),
    ["well", "slow", "slow", "dead"],
  );
  assert.equal(judge(3000, { latency: 20, doubt: true }), "dead");
  assert.equal(judge(12_000, { latency: 4000, doubt: false }), "slow");
  assert.equal(judge(12_000, { latency: null, doubt: false }), "slow");
  assert.equal(judge(40_000, { latency: 60_000, doubt: false }), "dead");
});

test("a guest gets the window's size in device pixels, whole, even, and at most 4K", () => {
  assert.deepEqual(guestSize({ w: 1201, h: 801 }, 1), { w: 1200, h: 800 });
  assert.deepEqual(guestSize({ w: 1200, h: 800 }, 2), { w: 2400, h: 1600 });
  assert.deepEqual(guestSize({ w: 1000.4, h: 700.7 }, 1.25), { w: 1250, h: 874 });
  const huge = guestSize({ w: 3000, h: 1000 }, 3);
  assert.ok(huge.w <= 3840 && huge.h <= 2160 && Math.abs(huge.w / huge.h - 3) < 0.01);
});

/** What of the viewer decides about the guest's size, with its names; the display answers when the test says so. */
function viewer() {
  return {
    sent: [],
    window: { w: 1000, h: 700 },
    viewOnly: false,
    _rfbConnectionState: "connected",
    _pendingRemoteResize: false,
    _lastResize: 0,
    _screenSize() {
      return this.window;
    },
    _requestRemoteResize() {
      if (!this.viewOnly && !this._pendingRemoteResize) {
        this._pendingRemoteResize = true;
        this._lastResize += 1;
        const { w, h } = this._screenSize();
        this.sent.push(`${w}x${h}`);
      }
    },
    _handleExtendedDesktopSize() {
      this._pendingRemoteResize = false;
      return true;
    },
  };
}

test("a window that changes while the guest is asked for its size is asked for after the answer, and once", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const rfb = viewer();
  followDisplay(rfb, () => 2);
  rfb._requestRemoteResize();
  rfb.window = { w: 1100, h: 700 };
  rfb._requestRemoteResize();
  assert.deepEqual(rfb.sent, ["2000x1400"]);
  for (let answers = 0; answers < 3; answers += 1) {
    rfb._handleExtendedDesktopSize();
  }
  assert.deepEqual(rfb.sent, ["2000x1400", "2200x1400"]);
  assert.deepEqual(rfb._screenSize(), { w: 1100, h: 700 }, "what it scales to stays in CSS pixels");
  mock.timers.reset();
});

test("a size that was never answered is asked for again, and who gets control asks at once", () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const rfb = viewer();
  followDisplay(rfb, () => 1);
  rfb._requestRemoteResize();
  mock.timers.tick(10_000);
  assert.ok(rfb.sent.length > 1);
  rfb._handleExtendedDesktopSize();
  const asked = rfb.sent.length;
  mock.timers.tick(10_000);
  assert.equal(rfb.sent.length, asked, "an answer ends it");

  rfb.viewOnly = true;
  rfb.window = { w: 800, h: 600 };
  rfb._requestRemoteResize();
  rfb.viewOnly = false;
  askAgain(rfb);
  assert.equal(rfb.sent.at(-1), "800x600");
  rfb._rfbConnectionState = "disconnected";
  const before = rfb.sent.length;
  mock.timers.tick(60_000);
  assert.equal(rfb.sent.length, before, "nothing is asked of a connection that is gone");
  mock.timers.reset();
});

const TYPED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!@#$%^&*()_+{}|:\"<>?~`-=[]\\;',./ ";

test("every character of a US keyboard is typed by its key, with Shift where it has it, and none stays down", async () => {
  const down = new Set();
  const sent = [];
  const press = (keysym, code, isDown) => {
    if (isDown) {
      down.add(code);
      sent.push([code, down.has("ShiftLeft"), keysym]);
    } else {
      down.delete(code);
    }
  };
  assert.equal(await typeText(press, TYPED, { pause: 0 }), true);
  assert.equal(down.size, 0);
  const keys = sent.filter(([code]) => code !== "ShiftLeft");
  assert.equal(keys.length, TYPED.length);
  assert.equal(new Set(keys.map(([code, shift]) => `${code} ${shift}`)).size, TYPED.length);
  assert.equal(keys.map(([, , keysym]) => String.fromCodePoint(keysym)).join(""), TYPED);
});

test("typing can be cancelled between two characters, and then nothing is down", async () => {
  const stop = new AbortController();
  const events = [];
  const press = (...key) => events.push(key);
  const typed = (count) => count === 3 && stop.abort();
  assert.equal(await typeText(press, "AAAAAA", { signal: stop.signal, typed, pause: 0 }), false);
  assert.equal(events.filter(([, code, down]) => code === "KeyA" && down).length, 3);
  assert.equal(events.filter(([, , down]) => down).length, events.filter(([, , down]) => !down).length);
});

test("what is on no key is found before anything is typed", () => {
  assert.deepEqual(untypable("naïve € ïï"), ["ï", "€"]);
  assert.deepEqual(untypable("a\r\nb\tc"), []);
});

test("a screenshot's name sorts by time and is a file's name everywhere", () => {
  const now = new Date(2026, 10, 26, 4, 5, 6);
  assert.equal(fileName("web 1/../x", now), "web-1-..-x-2026-11-26-040506.png");
});

test("a state that makes no sense is refused and told to nobody", () => {
  const seen = [];
  const state = new ConnectionState((name) => seen.push(name));
  assert.throws(() => state.enter("connected"));
  state.enter("ticket");
  assert.deepEqual(seen, ["ticket"]);
});

test("who lost the network comes back; who lost the right waits for a person", () => {
  assert.equal(afterwards("network", "silent"), "retry");
  assert.equal(afterwards("host", "unreachable"), "retry");
  assert.equal(afterwards("machine-off", ""), "poll");
  assert.equal(afterwards("revoked", "signed-out"), "stop");
  assert.equal(afterwards("display", "password"), "stop");
  assert.ok(backoff(20, () => 0.5) <= 10_000);
});
