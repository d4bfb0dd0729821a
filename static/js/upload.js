/* Uploads a disk with a bar that says how far it is. Without this module the form is sent as forms are. */

import { duration, gettext, interpolate } from "./base/text.js";

const form = document.getElementById("upload");
const file = form.elements.namedItem("file");
const place = form.querySelector("[data-progress]");
const bar = place.querySelector("progress");
const line = place.querySelector("[data-progress-text]");
const send = form.querySelector("[data-send]");
const most = Number(file.dataset.mostBytes);
// Right after the start the speed is no measure for the rest.
const SETTLE_S = 3;

let request = null;

function size(bytes) {
  let value = bytes;
  let unit = gettext("bytes");
  for (const name of ["KiB", "MiB", "GiB", "TiB"]) {
    if (value < 1024) {
      break;
    }
    value /= 1024;
    unit = name;
  }
  return `${Math.round(value * 10) / 10} ${unit}`;
}

function show(name, texts) {
  const field = form.querySelector(`[data-field="${name}"]`) ?? form.querySelector('[data-field="file"]');
  field.querySelector(".field-errors")?.remove();
  const control = field.querySelector("input, select");
  const help = document.getElementById(`id_${name}_help`)?.id ?? "";
  control.classList.toggle("is-invalid", texts.length > 0);
  control.setAttribute("aria-describedby", help);
  if (texts.length === 0) {
    control.removeAttribute("aria-invalid");
    return;
  }
  const list = document.createElement("ul");
  list.className = "field-errors";
  list.id = `id_${name}_error`;
  for (const text of texts) {
    const item = document.createElement("li");
    item.textContent = text;
    list.append(item);
  }
  (field.querySelector(".field") ?? field).append(list);
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", `${help} ${list.id}`.trim());
}

function clear() {
  for (const field of form.querySelectorAll("[data-field]")) {
    show(field.dataset.field, []);
  }
}

/** What is wrong with the chosen file, seen before a byte of it is sent. */
function fault(chosen) {
  if (!chosen) {
    return "";
  }
  if (chosen.size === 0) {
    return gettext("This file is empty. Choose the disk.");
  }
  if (most && chosen.size > most) {
    return interpolate(gettext("This file has %(size)s; at most %(most)s can be uploaded."), {
      size: size(chosen.size),
      most: size(most),
    });
  }
  return "";
}

function check() {
  const text = fault(file.files[0]);
  show("file", text ? [text] : []);
  return !text;
}

function suggestTitle() {
  const title = form.elements.namedItem("title");
  const name = file.files[0]?.name.replace(/\.(qcow2|img|raw)$/i, "");
  if (name && !title.value.trim()) {
    title.value = name.slice(0, 100);
  }
}

function busy(on) {
  send.disabled = on;
  place.hidden = !on;
  form.setAttribute("aria-busy", String(on));
}

function follow(upload) {
  const begun = performance.now();
  upload.addEventListener("progress", (event) => {
    if (!event.lengthComputable) {
      return;
    }
    bar.value = (100 * event.loaded) / event.total;
    const seconds = (performance.now() - begun) / 1000;
    const left = ((event.total - event.loaded) * seconds) / Math.max(event.loaded, 1);
    const words = { done: size(event.loaded), whole: size(event.total), left: duration(left) };
    line.textContent = interpolate(
      seconds < SETTLE_S ? gettext("%(done)s of %(whole)s") : gettext("%(done)s of %(whole)s, about %(left)s left"),
      words,
    );
  });
  upload.addEventListener("load", () => {
    bar.value = 100;
    line.textContent = gettext("Everything has arrived. The portal puts it away…");
  });
}

function failed(text) {
  request = null;
  busy(false);
  show("file", [text]);
  form.querySelector('[aria-invalid="true"]')?.focus();
}

function answered() {
  const { status, response } = request;
  if (status === 201 && response?.url) {
    request = null;
    location.assign(response.url);
    return;
  }
  if (status === 422 && response?.errors) {
    request = null;
    busy(false);
    for (const [name, texts] of Object.entries(response.errors)) {
      show(name, texts);
    }
    form.querySelector('[aria-invalid="true"]')?.focus();
    return;
  }
  if (status === 413) {
    failed(gettext("A server in front of the portal refused the file because of its size."));
    return;
  }
  failed(response?.message ?? gettext("The portal did not take the file. Nothing was kept; try again."));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  clear();
  if (request || !check()) {
    form.querySelector('[aria-invalid="true"]')?.focus();
    return;
  }
  request = new XMLHttpRequest();
  request.open("POST", form.action);
  request.responseType = "json";
  request.setRequestHeader("Accept", "application/json");
  request.addEventListener("load", answered);
  request.addEventListener("error", () => {
    failed(gettext("The connection broke off. Nothing was kept; try again."));
  });
  follow(request.upload);
  bar.value = 0;
  line.textContent = gettext("Sending…");
  request.send(new FormData(form));
  busy(true);
});

form.querySelector("[data-cancel]").addEventListener("click", (event) => {
  if (request) {
    event.preventDefault();
    request.abort();
    request = null;
    busy(false);
  }
});

file.addEventListener("change", () => {
  if (check()) {
    suggestTitle();
  }
});

window.addEventListener("beforeunload", (event) => {
  if (request) {
    event.preventDefault();
  }
});
