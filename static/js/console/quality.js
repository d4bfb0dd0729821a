/* How the picture is packed: four levels, chosen by hand or by what the line can carry. Pure, but for the memory. */

/** From the sharpest to the one that needs least. `quality` and `compression` are RFB's, 0 to 9. */
export const LEVELS = [
  { name: "sharp", quality: 9, compression: 1 },
  { name: "balanced", quality: 6, compression: 2 },
  { name: "thrifty", quality: 3, compression: 6 },
  { name: "fast", quality: 1, compression: 9 },
];
export const START = 1;

const HAND = { sharp: 0, balanced: 1, fast: 3 };
const KEY = "casement.console.quality";

// What a level needs: bytes per second while painting, and milliseconds of a round trip that it may at most have.
const NEEDS = [
  { bandwidth: 4_000_000, latency: 80 },
  { bandwidth: 1_000_000, latency: 200 },
  { bandwidth: 250_000, latency: 500 },
  { bandwidth: 0, latency: Infinity },
];
// Down quickly, because somebody is waiting; up slowly and with room to spare, or it would swing for ever.
const DOWN_AFTER = 2;
const UP_AFTER = 5;
const MARGIN = 1.5;

export const firstDecision = () => ({ level: START, worse: 0, better: 0 });

/** The decision after one more window of measuring. `bandwidth` in B/s and `latency` in ms; null is "not known". */
export function decide({ level, worse, better }, { bandwidth, latency }) {
  if (bandwidth === null && latency === null) {
    return { level, worse, better };
  }
  if (!carries(level, bandwidth, latency, 1)) {
    const again = worse + 1;
    return again >= DOWN_AFTER ? { level: level + 1, worse: 0, better: 0 } : { level, worse: again, better: 0 };
  }
  // Only a line that has carried something can prove that it carries more.
  if (level > 0 && bandwidth !== null && carries(level - 1, bandwidth, latency, MARGIN)) {
    const again = better + 1;
    return again >= UP_AFTER ? { level: level - 1, worse: 0, better: 0 } : { level, worse: 0, better: again };
  }
  return { level, worse: 0, better: bandwidth === null ? better : 0 };
}

function carries(level, bandwidth, latency, margin) {
  const needs = NEEDS[level];
  return (bandwidth ?? Infinity) >= needs.bandwidth * margin && (latency ?? 0) * margin <= needs.latency;
}

/** The level of a choice by hand; undefined for "auto". */
export function levelOf(choice) {
  return HAND[choice];
}

export function rememberedChoice(storage) {
  const choice = storage.getItem(KEY);
  return Object.hasOwn(HAND, choice) ? choice : "auto";
}

export function rememberChoice(storage, choice) {
  storage.setItem(KEY, choice);
}
