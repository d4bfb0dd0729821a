/* The picture itself: when the first one is there, and a still of the last one for when the line is down. */

const SAMPLE = 64;

/** Calls `found` once when the canvas shows anything but black. Returns a function that stops looking. */
export function onFirstPicture(canvas, found) {
  const sample = Object.assign(document.createElement("canvas"), { width: SAMPLE, height: SAMPLE });
  const context = sample.getContext("2d", { willReadFrequently: true });
  const since = performance.now();
  let timer = 0;
  let stopped = false;

  const look = () => {
    if (stopped) {
      return;
    }
    if (hasPicture(canvas, context)) {
      found();
      return;
    }
    // A guest may keep its screen black for long; after two seconds there is no hurry any more.
    const slow = performance.now() - since > 2000;
    timer = setTimeout(() => requestAnimationFrame(look), slow ? 500 : 0);
  };
  requestAnimationFrame(look);
  return () => {
    stopped = true;
    clearTimeout(timer);
  };
}

function hasPicture(canvas, context) {
  if (!canvas.width || !canvas.height) {
    return false;
  }
  context.drawImage(canvas, 0, 0, SAMPLE, SAMPLE);
  const { data } = context.getImageData(0, 0, SAMPLE, SAMPLE);
  return data.some((value, index) => index % 4 !== 3 && value > 0);
}

/** Copies what `source` shows to `target`, which stays when the connection's own canvas goes. */
export function keepStill(source, target) {
  if (!source?.width || !source.height) {
    return false;
  }
  target.width = source.width;
  target.height = source.height;
  target.getContext("2d").drawImage(source, 0, 0);
  return true;
}
