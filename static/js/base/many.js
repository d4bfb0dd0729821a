/* Ticks in the list of machines: all at once, how many there are, and a bar that is there while there are any. */

import { gettext, interpolate } from "./text.js";

const picks = () => [...document.querySelectorAll("input[data-pick]")];

function draw() {
  const bar = document.querySelector("[data-many]");
  if (!bar) {
    return;
  }
  const all = picks();
  const ticked = all.filter((pick) => pick.checked).length;
  const every = bar.querySelector("[data-pick-all]");
  every.checked = ticked > 0 && ticked === all.length;
  every.indeterminate = ticked > 0 && ticked < all.length;
  bar.classList.toggle("has-picks", ticked > 0);
  // Where nothing that is ticked stands for all, there is always something to be asked.
  bar.querySelector("button").disabled = ticked === 0 && bar.dataset.many !== "all";
  const count = bar.querySelector("[data-pick-count]");
  const text = ticked ? interpolate(gettext("%(count)s chosen"), { count: ticked }) : "";
  if (count.textContent !== text) {
    count.textContent = text;
  }
}

export function followPicks() {
  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-pick-all]")) {
      for (const pick of picks()) {
        pick.checked = event.target.checked;
      }
    }
    if (event.target.matches("[data-pick-all], [data-pick]")) {
      draw();
    }
  });
  document.addEventListener("htmx:afterSwap", draw);
  window.addEventListener("pageshow", draw);
  draw();
}
