/* How much the machines of a list compute, in small: one question for all of them, while the tab is looked at. */

const EVERY_MS = 10_000;
const WIDTH = 56;
const HEIGHT = 16;
let timer = 0;
let asking = false;

const places = () => [...document.querySelectorAll("[data-load]")];

/** The line of a share over time, in pieces where there are gaps. */
function path(values) {
  const step = WIDTH / Math.max(values.length - 1, 1);
  let drawn = "";
  let pen = "M";
  values.forEach((value, place) => {
    if (value == null) {
      pen = "M";
    } else {
      drawn += `${pen}${(place * step).toFixed(1)} ${(HEIGHT - 1 - value * (HEIGHT - 2)).toFixed(1)}`;
      pen = "L";
    }
  });
  return drawn;
}

function svg(d) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  picture.setAttribute("class", "load-spark");
  picture.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", d);
  picture.append(line);
  return picture;
}

function show(place, load) {
  if (!load) {
    place.replaceChildren(); // It is off, or its host is silent: what was is not what is.
    place.removeAttribute("title");
    return;
  }
  const words = document.createElement("span");
  words.textContent = load.words;
  place.title = load.words;
  place.replaceChildren(svg(path(load.spark)), words);
}

async function renew() {
  asking = true;
  const shown = places();
  const ids = shown.map((place) => place.dataset.load).join(",");
  try {
    const { loadsUrl } = document.querySelector("[data-loads-url]").dataset;
    const answer = await fetch(`${loadsUrl}?ids=${ids}`, {
      headers: { "HX-Request": "true" },
      signal: AbortSignal.timeout(10_000),
    });
    if (answer.ok && !answer.redirected) {
      const loads = await answer.json();
      for (const place of shown) {
        show(place, loads[place.dataset.load]);
      }
    }
  } catch {
    // The next one is due soon; that the portal is away is said by the line at the top.
  }
  asking = false;
  plan(EVERY_MS * (0.9 + 0.2 * Math.random()));
}

function plan(wait) {
  clearTimeout(timer);
  if (!document.hidden && !asking && places().length) {
    timer = setTimeout(renew, wait);
  }
}

/** Those that have just come into the page do not wait for the others' turn. */
function come() {
  if (places().some((place) => !place.hasChildNodes() && !place.dataset.asked)) {
    for (const place of places()) {
      place.dataset.asked = "yes";
    }
    plan(0);
  }
}

export function renewLoads() {
  come();
  document.addEventListener("htmx:afterSwap", come);
  document.addEventListener("visibilitychange", () => plan(0));
}
