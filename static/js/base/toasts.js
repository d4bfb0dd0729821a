/* Short messages in a corner. The server's own (Django's messages) stand in the page already; both go away the same way. */

import { gettext } from "./text.js";

const STAY_MS = 7000;

function dismissable(toast) {
  const close = () => toast.remove();
  toast.querySelector("[data-toast-close]")?.addEventListener("click", close);
  // What went wrong stays until it has been read and put away.
  if (!toast.classList.contains("toast-error")) {
    let timer = setTimeout(close, STAY_MS);
    toast.addEventListener("pointerenter", () => clearTimeout(timer));
    toast.addEventListener("pointerleave", () => {
      timer = setTimeout(close, STAY_MS);
    });
  }
}

/** `kind`: success, info, warning or error. The same text twice is one toast. */
export function toast(text, kind = "info") {
  const box = document.getElementById("toasts");
  const template = document.getElementById("toast-template");
  if (!box || !template) {
    return;
  }
  for (const shown of box.querySelectorAll("[data-toast-text]")) {
    if (shown.textContent === text) {
      shown.closest(".toast").remove();
    }
  }
  const made = template.content.cloneNode(true).firstElementChild;
  made.classList.add(`toast-${kind}`);
  made.setAttribute("role", kind === "error" ? "alert" : "status");
  made.querySelector("[data-toast-text]").textContent = text;
  box.append(made);
  dismissable(made);
}

/** The server's words for a refusal (templates/_error.html), or ours when it has none. */
export function toastForAnswer(xhr) {
  const answer = new DOMParser()
    .parseFromString(xhr.responseText ?? "", "text/html")
    .querySelector("[data-error-text]");
  toast(answer?.textContent.trim() || wordsFor(xhr.status), "error");
}

function wordsFor(status) {
  if (status === 403) {
    return gettext("This is not allowed. If you signed in anew in another tab, reload this page.");
  }
  if (status === 404) {
    return gettext("There is nothing here any more, or it is not yours to see.");
  }
  if (status >= 500) {
    return gettext("The portal failed to do this. It has been written to its log; try again in a moment.");
  }
  return gettext("The portal refused this request.");
}

export function keepToasts() {
  for (const shown of document.querySelectorAll("#toasts .toast")) {
    dismissable(shown);
  }
}
