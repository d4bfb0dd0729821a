/* Screens in small: those in view are fetched again while the tab is looked at, a few at a time, the oldest first.

The picture is an <img> that is right without this; here it is replaced when the next one has been decoded. The portal
forbids the browser to keep pictures, so what is unchanged is told by an ETag that is remembered here. */

const EVERY_MS = 12_000;
// The first picture of a machine is being taken: it is there in a moment, or not at all.
const COMING_MS = [700, 1500, 3000, 6000];
const AT_ONCE = 2;
const COMING = 202;

const followed = new Map(); // <img> -> whether it is in view, when it is due, and what is known of it
const observer = new IntersectionObserver(noteView, { rootMargin: "100px" });
let fetching = 0;
let timer = 0;

function noteView(entries) {
  for (const { target, isIntersecting } of entries) {
    const known = followed.get(target);
    if (known) {
      known.inView = isIntersecting;
    }
  }
  plan();
}

function plan() {
  clearTimeout(timer);
  const waiting = [...followed].filter(([, known]) => known.inView && Number.isFinite(known.due));
  if (document.hidden || fetching >= AT_ONCE || !waiting.length) {
    return;
  }
  const [image, known] = waiting.reduce((first, other) => (other[1].due < first[1].due ? other : first));
  timer = setTimeout(() => renew(image, known), Math.max(known.due - performance.now(), 0));
}

async function renew(image, known) {
  known.due = Number.POSITIVE_INFINITY; // Until it is answered.
  fetching += 1;
  plan();
  const wait = await renewed(image, known).catch(() => EVERY_MS);
  fetching -= 1;
  // A little by lot, or all cards of a page would ask at the same moment for ever.
  known.due = performance.now() + wait * (0.9 + 0.2 * Math.random());
  plan();
}

/** Look after one picture; how long the next one has time. */
async function renewed(image, known) {
  if (!known.url) {
    // The page itself asks for the first one. Until it has come there is nothing to do.
    if (!image.complete) {
      return COMING_MS[0];
    }
    if (image.naturalWidth > 1) {
      known.url = image.src;
      return EVERY_MS;
    }
  }
  const answer = await fetch(image.dataset.thumbnail, {
    cache: "no-store",
    headers: known.etag ? { "If-None-Match": known.etag } : {},
    signal: AbortSignal.timeout(10_000),
  });
  await heed(answer, image, known);
  known.tries = answer.status === COMING ? known.tries + 1 : 0;
  return answer.status === COMING ? (COMING_MS[known.tries] ?? EVERY_MS) : EVERY_MS;
}

async function heed(answer, image, known) {
  if (answer.redirected || answer.status === 403 || answer.status === 404) {
    image.removeAttribute("src"); // It may not be seen any more. What the page says of it is the page's to fetch again.
    forget(known);
  } else if (answer.ok) {
    await show(image, known, URL.createObjectURL(await answer.blob()));
    known.etag = answer.headers.get("ETag") ?? "";
  }
}

/** In one step, when it can be painted: no flicker. */
async function show(image, known, url) {
  const fresh = new Image();
  fresh.src = url;
  try {
    await fresh.decode();
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
  image.src = url;
  forget(known);
  known.url = url;
}

function forget(known) {
  if (known.url.startsWith("blob:")) {
    URL.revokeObjectURL(known.url);
  }
  known.url = known.etag = "";
}

/** What has come into the page is followed, what has gone is forgotten. */
function follow() {
  for (const [image, known] of followed) {
    if (!image.isConnected) {
      observer.unobserve(image);
      followed.delete(image);
      forget(known);
    }
  }
  for (const image of document.querySelectorAll("img[data-thumbnail]")) {
    if (!followed.has(image)) {
      followed.set(image, { inView: false, due: performance.now() + COMING_MS[0], url: "", etag: "", tries: 0 });
      observer.observe(image);
    }
  }
}

export function renewThumbnails() {
  follow();
  document.addEventListener("htmx:afterSwap", follow);
  document.addEventListener("visibilitychange", plan);
}
