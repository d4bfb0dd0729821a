/* <time data-relative>: "3 minutes ago", exact in the reader's zone on hover. <time data-elapsed>: seconds counting up. */

import { duration, exactTime, relativeTime } from "./text.js";

function show(element) {
  const moment = new Date(element.dateTime);
  if (Number.isNaN(moment.getTime())) {
    return;
  }
  const text = "elapsed" in element.dataset ? duration((Date.now() - moment) / 1000) : relativeTime(moment);
  if (element.textContent !== text) {
    element.textContent = text;
  }
  if (!element.dataset.exact) {
    element.dataset.exact = "yes";
    element.title = exactTime(moment);
  }
}

export function showTimes(within = document) {
  for (const element of within.querySelectorAll("time[data-relative], time[data-elapsed]")) {
    show(element);
  }
}

export function keepTimesRight() {
  showTimes();
  setInterval(() => document.hidden || showTimes(), 1000);
}
