/* Figures: fetched when they come into view, and again while they are looked at; charts.js draws them, and is loaded then.

A section says how long one of its points is: data-figures="10", in seconds; 0 is a place that is still to be filled. */

import htmx from "htmx.org";

// Samples come every ten seconds; the newest point of the longer spans moves as often, and nobody sees it move.
const LIVE_MS = 10_000;
const SLOW_MS = 60_000;

const inView = new Set();
const observer = new IntersectionObserver(noteView, { rootMargin: "200px" });
let timer = 0;
let asked = Number.NEGATIVE_INFINITY;

function noteView(entries) {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      inView.add(target);
    } else {
      inView.delete(target);
    }
  }
  plan();
}

const restOf = (section) => {
  const step = Number(section.dataset.figures);
  return step === 0 ? 0 : step <= 60 ? LIVE_MS : SLOW_MS;
};

function plan() {
  clearTimeout(timer);
  const [section] = [...inView].filter((element) => element.isConnected);
  if (section && !document.hidden) {
    timer = setTimeout(() => renew(section), Math.max(asked + restOf(section) - performance.now(), 0));
  }
}

function renew(section) {
  asked = performance.now();
  timer = setTimeout(plan, SLOW_MS); // Should no answer ever come.
  htmx.trigger(section, "due");
}

/** Whatever came of it, the next one has time. */
function answered({ detail: { elt, successful } }) {
  if (elt.closest?.("[data-figures]")) {
    asked = performance.now();
    if (!successful) {
      sayFailed(elt.closest("[data-figures]"));
    }
    plan();
  }
}

/** A place that could not be filled says so, and is tried again like any other. What is there already stays. */
function sayFailed(section) {
  if (section.dataset.figures === "0" || section.dataset.failed) {
    section.dataset.figures = "10";
    section.dataset.failed = "yes";
    section.querySelector(".figures-state").textContent = gettext("They could not be fetched. Trying again…");
  }
}

async function follow() {
  const sections = document.querySelectorAll("[data-figures]");
  for (const section of sections) {
    observer.observe(section); // Twice is once.
  }
  if (document.querySelector("[data-chart]")) {
    const { draw } = await import("./charts.js");
    draw();
  }
}

export function renewFigures() {
  // Sooner, htmx would not hear that they are due: it begins when the document is ready, and its listener was there first.
  if (document.readyState === "complete") {
    follow();
  } else {
    document.addEventListener("DOMContentLoaded", follow);
  }
  document.addEventListener("htmx:afterSwap", follow);
  document.addEventListener("htmx:afterRequest", answered);
  document.addEventListener("visibilitychange", plan);
}
