/* Every page: menus, live updates, times, toasts, copy buttons, the theme. */

import "bootstrap/js/dist/collapse";
import "bootstrap/js/dist/dropdown";
import "./base/morph.js";
import { answerClicks, answerCopies, openDialogs } from "./base/actions.js";
import { renewFigures } from "./base/figures.js";
import { startLaunch } from "./base/launch.js";
import { follow } from "./base/live.js";
import { followPicks } from "./base/many.js";
import { renewLoads } from "./base/loads.js";
import { renewThumbnails } from "./base/thumbnails.js";
import { keepTimesRight, showTimes } from "./base/times.js";
import { keepToasts } from "./base/toasts.js";
import { leaveWhenClosed } from "./base/waiting.js";

function signIn() {
  const { loginUrl } = document.body.dataset;
  location.assign(`${loginUrl}?next=${encodeURIComponent(location.pathname + location.search)}`);
}

function answerTheme() {
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-theme-toggle]")) {
      const dark = document.documentElement.dataset.bsTheme !== "dark";
      document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
      try {
        localStorage.setItem("casement-theme", dark ? "dark" : "light");
      } catch {
        // Storage may be forbidden; the choice then holds for this page.
      }
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    if (!localStorage.getItem("casement-theme")) {
      document.documentElement.dataset.bsTheme = event.matches ? "dark" : "light";
    }
  });
}

answerTheme();
answerClicks(signIn);
answerCopies();
openDialogs();
keepToasts();
keepTimesRight();
startLaunch();
renewThumbnails();
followPicks();
renewFigures();
renewLoads();
leaveWhenClosed();
document.addEventListener("htmx:afterSwap", () => showTimes());
document.addEventListener("htmx:oobAfterSwap", () => showTimes());
if (document.body.dataset.liveUrl) {
  follow(document.body.dataset.liveUrl, signIn);
}
