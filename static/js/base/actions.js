/* Answers a click at once, and takes it back in words when it was refused. */

import htmx from "htmx.org";
import { refresh } from "./live.js";
import { toast, toastForAnswer } from "./toasts.js";
import { gettext } from "./text.js";

/** A form with data-pending="Starting" inside something with a [data-state] shows that word until the server has spoken. */
function promise(form) {
  const scope = form.closest("[data-acts]") ?? document;
  const undo = [];
  for (const state of scope.querySelectorAll("[data-state-word]")) {
    const before = [state.className, state.innerHTML];
    state.className = "state state-busy";
    state.querySelector("[data-word]").textContent = form.dataset.pending;
    undo.push(() => {
      state.className = before[0];
      state.innerHTML = before[1];
    });
  }
  for (const button of scope.querySelectorAll("form[data-pending] button")) {
    if (!button.disabled) {
      button.disabled = true;
      undo.push(() => {
        button.disabled = false;
      });
    }
  }
  return () => undo.forEach((step) => step());
}

const promised = new WeakMap();

function takeBack(element) {
  promised.get(element)?.();
  promised.delete(element);
}

/** A refresh that found its thing gone: leave its page, or let the list drop it. */
function gone(element) {
  const away = element.closest("[data-gone]")?.dataset.gone;
  if (away) {
    location.assign(away);
  } else {
    element.remove();
  }
}

export function answerClicks(signedOut) {
  document.addEventListener("htmx:configRequest", (event) => {
    const token = document.cookie.match(/(?:^|;\s*)casement_csrf=([^;]+)/);
    if (token && event.detail.verb !== "get") {
      event.detail.headers["X-CSRFToken"] = token[1];
    }
    // A filter that is empty does not belong in the address.
    if (event.detail.elt.dataset.dropEmpty !== undefined) {
      for (const [name, value] of [...event.detail.formData.entries()]) {
        if (value === "") {
          event.detail.formData.delete(name);
        }
      }
    }
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    const form = event.detail.elt;
    if (form.dataset.pending) {
      promised.set(form, promise(form));
    }
    form.setAttribute("aria-busy", "true");
  });
  document.addEventListener("htmx:afterRequest", (event) => event.detail.elt.removeAttribute("aria-busy"));
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    // The session ended: what came back is the sign-in page, which belongs in no part of this one.
    if (xhr.responseURL && new URL(xhr.responseURL).pathname === document.body.dataset.loginUrl) {
      event.detail.shouldSwap = false;
      signedOut();
    }
  });
  document.addEventListener("htmx:responseError", (event) => {
    const { elt, xhr, requestConfig } = event.detail;
    takeBack(elt);
    const live = requestConfig.triggeringEvent?.type === "live";
    if (live && (xhr.status === 404 || xhr.status === 403)) {
      gone(elt);
    } else if (!live) {
      toastForAnswer(xhr);
      // Mostly it was refused because the page was behind.
      refresh(elt.closest("[data-live]")?.dataset.live.split(/\s+/) ?? [], true);
    }
  });
  for (const name of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(name, (event) => {
      takeBack(event.detail.elt);
      if (event.detail.requestConfig?.triggeringEvent?.type !== "live") {
        toast(gettext("The portal cannot be reached. Check your connection, then try again."), "error");
      }
    });
  }
}

/** Copy buttons: data-copy="text", or data-copy-from="#id" for a text that is not in the page's source twice. */
export function answerCopies() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-copy-from]");
    if (!button) {
      return;
    }
    event.preventDefault();
    const source = button.dataset.copyFrom && document.querySelector(button.dataset.copyFrom);
    const text = source ? source.textContent.trim() : button.dataset.copy;
    if (await copied(text, button)) {
      button.classList.add("copied");
      announce(gettext("Copied"));
      setTimeout(() => button.classList.remove("copied"), 1600);
    } else {
      toast(gettext("The browser did not let this page copy. Select the text and copy it by hand."), "warning");
    }
  });
}

async function copied(text, beside) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedOldWay(text, beside);
  }
}

/** Without https the clipboard's interface is missing; the old command still works. */
function copiedOldWay(text, beside) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "visually-hidden";
  beside.after(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  beside.focus();
  return done;
}

export function announce(text) {
  const line = document.getElementById("announcer");
  if (line) {
    line.textContent = "";
    requestAnimationFrame(() => {
      line.textContent = text;
    });
  }
}

/** Dialogs that the server sends into #dialog open by themselves and go when they are closed. */
export function openDialogs() {
  document.addEventListener("htmx:afterSwap", (event) => {
    const dialog = event.detail.target?.id === "dialog" && event.detail.target.querySelector("dialog");
    if (dialog && !dialog.open) {
      dialog.showModal();
      dialog.addEventListener("close", () => dialog.remove());
      dialog.addEventListener("click", (click) => click.target === dialog && dialog.close());
    }
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-dialog-close]")) {
      event.preventDefault();
      event.target.closest("dialog")?.close();
    }
  });
  // A form that was sent plainly is on its way: a second click would send it again.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!event.defaultPrevented && form.method === "post" && !form.hasAttribute("hx-post")) {
      setTimeout(() => {
        for (const button of form.querySelectorAll("button[type=submit], button:not([type])")) {
          button.disabled = true;
          button.classList.add("is-sending");
        }
      });
    }
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) {
      for (const button of document.querySelectorAll("button.is-sending")) {
        button.disabled = false;
        button.classList.remove("is-sending");
      }
    }
  });
}

export { htmx };
