/* The picture's size: fitted to the window or pixel by pixel, and the guest's own to the window and the display. */

const KEY = "casement.console.size";
const SMALLEST = 64;
// The relay drops what a watcher asks for, and who has just got control may be faster than the relay's look at it.
const UNANSWERED_MS = 2000;
const MOST = { w: 3840, h: 2160 };

/** The guest's size for a window of `w` × `h` CSS pixels: each device pixel its own, but never more than 4K. Pure. */
export function guestSize({ w, h }, ratio) {
  // Whole numbers, since a size that the guest cannot have would be asked for again and again; even, as most want it.
  const scale = Math.min(ratio, MOST.w / w, MOST.h / h);
  const even = (length) => Math.max(2 * Math.floor((length * scale) / 2), 2);
  return { w: even(w), h: even(h) };
}

/** `actual`: pixel by pixel instead of fitted. `css`: the guest gets the window's size, whatever the display's pixels. */
export function remembered(storage) {
  const words = (storage.getItem(KEY) ?? "").split(" ");
  return { actual: words.includes("actual"), css: words.includes("css") };
}

export function remember(storage, { actual, css }) {
  storage.setItem(KEY, [actual && "actual", css && "css"].filter(Boolean).join(" "));
}

/** Makes the viewer ask the guest for device pixels; `ratio` gives how many there are to a CSS pixel.

The viewer uses one size for both, what it asks for and what it scales to, so the size is another one while it asks.
It asks nothing more until it has been answered. What has changed meanwhile it would forget, since the answer is mostly
"passed on to the guest" and not "done": it is asked after the answer; and what is never answered, again after a while. */
export function followDisplay(rfb, ratio) {
  const ask = rfb._requestRemoteResize.bind(rfb);
  const answered = rfb._handleExtendedDesktopSize.bind(rfb);
  const inCss = rfb._screenSize.bind(rfb);
  const wanted = () => guestSize(inCss(), ratio());
  let last = { w: 0, h: 0 };
  rfb._requestRemoteResize = () => {
    // A stage that is folded away has no size to ask for.
    if (rfb._pendingRemoteResize || inCss().w < SMALLEST || inCss().h < SMALLEST) {
      return;
    }
    const size = wanted();
    rfb._screenSize = () => size;
    try {
      ask();
    } finally {
      rfb._screenSize = inCss;
    }
    if (rfb._pendingRemoteResize) {
      last = size;
      const asked = rfb._lastResize;
      setTimeout(() => {
        if (rfb._pendingRemoteResize && rfb._lastResize === asked) {
          askAgain(rfb);
        }
      }, UNANSWERED_MS);
    }
  };
  rfb._handleExtendedDesktopSize = () => {
    const whole = answered();
    if (!rfb._pendingRemoteResize && (wanted().w !== last.w || wanted().h !== last.h)) {
      rfb._requestRemoteResize();
    }
    return whole;
  };
}

/** The guest's size was not asked for while somebody else controlled it, or the answer never came. */
export function askAgain(rfb) {
  if (rfb._rfbConnectionState === "connected") {
    rfb._pendingRemoteResize = false;
    rfb._requestRemoteResize();
  }
}

/** A picture whose pixels fall on whole device pixels is not smoothed. */
export function sharpen(canvas) {
  const ratio = (canvas.getBoundingClientRect().width * window.devicePixelRatio) / canvas.width;
  const whole = ratio >= 0.99 && Math.abs(ratio - Math.round(ratio)) < 0.02;
  canvas.classList.toggle("console-crisp", whole);
}
