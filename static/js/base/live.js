/* Keeps the page true: one WebSocket says which things changed; what shows them is fetched again and morphed in.

An element says what it shows: data-live="machine:<id> machines" hx-get="…" hx-trigger="live" hx-swap="morph". What
somebody waits for in front of it, such as a screen, data-live-now="screen:<id>" brings without any rest. */

import htmx from "htmx.org";

const GATHER_MS = 50;
const REST_MS = 250;
const LONGEST_REST_MS = 10_000;
// While changes never stop, a part rests so many times longer than the portal took to make it: each open tab costs the
// portal a fortieth of its time at most, whether it shows one machine or an overview of fifty thousand.
const RESTS = 40;
// What is inside something that comes along sooner than this comes with it.
const SOON_MS = 400;
const SIGNED_OUT = 4001;
const LONGEST_WAIT_MS = 15_000;
// A connection that has not come about by then hangs somewhere on the way: browsers give it up after minutes only.
const OPEN_MS = 15_000;
// A page load or a short restart of the portal is no news: the line appears only after so long.
const QUIET_MS = 2500;

const dirty = new Map(); // key of an element -> when it was refreshed last (0: never); present while a refresh is due
const lastRefresh = new Map();
const rests = new Map(); // key of an element -> how long it rests after a refresh

const keyOf = (element) => element.id || element.getAttribute("hx-get");

const names = (words, topics) => (words ?? "").split(/\s+/).some((topic) => topics.has(topic));

function concerns({ dataset }, topics) {
  return topics.has("*") || names(dataset.live, topics) || names(dataset.liveNow, topics);
}

/** What a morph leaves alone (data-keep, base/morph.js) does not come along with what is around it. */
function comesWith(outer, element) {
  const kept = element.closest("[data-keep]");
  return outer.contains(element) && !(kept && kept !== outer && outer.contains(kept));
}

/** How long until the element may be refreshed again. */
function wait(key) {
  const rested = (lastRefresh.get(key) ?? -LONGEST_REST_MS) + (rests.get(key) ?? REST_MS);
  return Math.max(GATHER_MS, rested - performance.now());
}

/** Everything that shows one of `topics` is due, once: what lies inside something that is due soon comes with it.

`atOnce` is for what the person has just done: it waits for no rest. */
export function refresh(topics, atOnce = false) {
  const wanted = new Set(topics);
  const hit = [...document.querySelectorAll("[data-live][hx-get]")].filter((element) => concerns(element, wanted));
  const soon = hit.filter((element) => wait(keyOf(element)) <= SOON_MS);
  for (const element of hit) {
    if (!soon.some((other) => other !== element && comesWith(other, element))) {
      const now = names(element.dataset.liveNow, wanted);
      plan(keyOf(element), atOnce || now, now ? 0 : GATHER_MS);
    }
  }
}

function plan(key, atOnce = false, gather = GATHER_MS) {
  if (atOnce) {
    clearTimeout(dirty.get(key));
    dirty.delete(key);
  }
  if (!dirty.has(key)) {
    dirty.set(
      key,
      setTimeout(() => run(key, atOnce), atOnce ? gather : wait(key)),
    );
  }
}

/** The portal says how long it took. A little by lot, or all tabs that heard of a change would ask at the same moment. */
function setPace(event) {
  const { elt, xhr } = event.detail;
  const took = /(?:^|,)\s*app;dur=([\d.]+)/.exec(xhr?.getResponseHeader?.("Server-Timing") ?? "");
  if (took && elt.dataset?.live) {
    const rest = Math.min(Math.max(RESTS * took[1], REST_MS), LONGEST_REST_MS);
    rests.set(keyOf(elt), rest * (0.8 + 0.4 * Math.random()));
  }
}

function run(key, atOnce) {
  // Planned while the last answer was on its way, whose cost has since set a longer rest.
  const rest = wait(key);
  if (!atOnce && rest > GATHER_MS) {
    dirty.set(
      key,
      setTimeout(() => run(key, false), rest),
    );
    return;
  }
  // A tab that nobody sees catches up when it is looked at.
  if (document.hidden) {
    dirty.set(key, 0);
    return;
  }
  dirty.delete(key);
  lastRefresh.set(key, performance.now());
  for (const element of document.querySelectorAll("[data-live][hx-get]")) {
    if (keyOf(element) === key) {
      htmx.trigger(element, "live");
    }
  }
}

function catchUp() {
  if (!document.hidden) {
    for (const [key, timer] of [...dirty]) {
      if (!timer) {
        dirty.delete(key);
        plan(key);
      }
    }
  }
}

class Line {
  constructor(url, signedOut) {
    this._url = url;
    this._signedOut = signedOut;
    this._failures = 0;
    this._notice = document.getElementById("live-line");
    this._noticeTimer = 0;
    this._retryTimer = 0;
    this._open();
  }

  _open() {
    clearTimeout(this._retryTimer);
    const socket = new WebSocket(this._url);
    this._socket = socket;
    const late = setTimeout(() => socket.close(), OPEN_MS);
    socket.addEventListener("open", () => {
      clearTimeout(late);
      this._failures = 0;
      this._say(false);
    });
    socket.addEventListener("message", (event) => refresh(JSON.parse(event.data).topics));
    socket.addEventListener("close", (event) => {
      clearTimeout(late);
      this._closed(socket, event.code);
    });
  }

  _closed(socket, code) {
    if (socket !== this._socket) {
      return;
    }
    if (code === SIGNED_OUT) {
      this._signedOut();
      return;
    }
    this._failures += 1;
    this._say(true);
    const wait = Math.min(500 * 2 ** Math.min(this._failures - 1, 5), LONGEST_WAIT_MS);
    this._retryTimer = setTimeout(() => this._open(), wait * (0.7 + Math.random() * 0.6));
  }

  _say(lost) {
    clearTimeout(this._noticeTimer);
    document.documentElement.dataset.line = lost ? "lost" : "up";
    if (this._notice) {
      this._noticeTimer = setTimeout(
        () => {
          this._notice.hidden = !lost;
        },
        lost && this._failures < 3 ? QUIET_MS : 0,
      );
    }
  }

  retryNow() {
    if (this._socket.readyState === WebSocket.CLOSED) {
      this._open();
    }
  }

  close() {
    clearTimeout(this._retryTimer);
    const socket = this._socket;
    this._socket = null;
    socket?.close();
  }
}

/** Follow changes through the WebSocket at `path`; `signedOut` is called when the session has ended. */
export function follow(path, signedOut) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  let line = new Line(url.href, signedOut);
  document.addEventListener("visibilitychange", catchUp);
  document.addEventListener("htmx:afterRequest", setPace);
  window.addEventListener("online", () => line.retryNow());
  window.addEventListener("pagehide", () => line.close());
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) {
      line = new Line(url.href, signedOut);
    }
  });
  // An action's answer names what it changed, so that the page is right at once, with or without the line.
  document.addEventListener("casement:changed", (event) => refresh(event.detail.topics ?? ["*"], true));
}
