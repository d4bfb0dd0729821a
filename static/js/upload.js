/* Uploads a disk or an ISO, piece by piece by the tus protocol, with a bar that says how far it is.
 *
 * What has arrived is kept: when the line breaks or the portal restarts it goes on by itself, and when the page is loaded
 * anew it goes on as soon as the same file is chosen. Then the form is sent, with the upload's id in place of the file.
 */

import { Upload } from "tus-js-client";

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
// What a broken line costs at most.
const PIECE_BYTES = 8 * 1024 * 1024;
const RETRY_MS = [0, 1000, 2000, 3000, 5000, 10_000, 20_000, 30_000, 30_000, 60_000, 60_000, 60_000];

/** The one under way. A form that was sent and refused has it still: its file is here, and is not sent again. */
let upload = null;
let sending = false;

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
    return gettext("This file is empty. Choose another.");
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
  const title = form.elements.namedItem("title") ?? form.elements.namedItem("name");
  const name = file.files[0]?.name.replace(/\.(qcow2|img|raw|iso)$/i, "");
  if (name && !title.value.trim()) {
    title.value = name.slice(0, 100);
  }
}

function busy(on) {
  sending = on;
  send.disabled = on;
  file.disabled = on;
  place.hidden = !on;
  form.setAttribute("aria-busy", String(on));
}

function failed(text) {
  busy(false);
  show("file", [text]);
  form.querySelector('[aria-invalid="true"]')?.focus();
}

/** A text for each piece that has arrived; the speed is that of this page's own pieces. */
function follower() {
  let begun = null;
  let first = 0;
  return (loaded, total) => {
    if (begun === null) {
      begun = performance.now();
      first = loaded;
    }
    bar.value = (100 * loaded) / total;
    const seconds = (performance.now() - begun) / 1000;
    const left = ((total - loaded) * seconds) / Math.max(loaded - first, 1);
    const words = { done: size(loaded), whole: size(total), left: duration(left) };
    line.textContent = interpolate(
      seconds < SETTLE_S ? gettext("%(done)s of %(whole)s") : gettext("%(done)s of %(whole)s, about %(left)s left"),
      words,
    );
  };
}

const statusOf = (error) => error.originalResponse?.getStatus() ?? 0;

function wordsOf(error) {
  try {
    return JSON.parse(error.originalResponse.getBody()).message;
  } catch {
    return "";
  }
}

/** The portal's own refusals are final; a line that broke and a portal that restarts are not. */
function mayPass(error) {
  const status = statusOf(error);
  const passing =
    status === 0 || status === 409 || status === 423 || status === 429 || (status >= 500 && status !== 507);
  if (passing) {
    line.textContent = gettext("The connection broke off. It goes on by itself as soon as the portal can be reached…");
  }
  return passing;
}

function gaveUp(error) {
  const status = statusOf(error);
  if (status === 401 || status === 403) {
    failed(wordsOf(error) || gettext("You are not signed in any more. Sign in and choose the same file again."));
  } else if (status === 413 && !wordsOf(error)) {
    failed(gettext("A server in front of the portal refused the file because of its size."));
  } else if (mayPass(error)) {
    failed(gettext("The portal could not be reached for long. What has arrived is kept: send it again to go on."));
  } else {
    failed(wordsOf(error) || gettext("The portal did not take the file. Try again."));
  }
}

async function start(chosen) {
  upload = new Upload(chosen, {
    endpoint: form.dataset.uploads,
    chunkSize: PIECE_BYTES,
    retryDelays: RETRY_MS,
    metadata: { filename: chosen.name },
    headers: { "X-CSRFToken": form.elements.namedItem("csrfmiddlewaretoken").value, Accept: "application/json" },
    onProgress: follower(),
    onShouldRetry: mayPass,
    onError: gaveUp,
    onSuccess: sendForm,
  });
  const [earlier] = await upload.findPreviousUploads();
  if (earlier) {
    upload.resumeFromPreviousUpload(earlier);
  }
  upload.start();
}

/** All of the file is here: now what it is called, and whose it is. */
async function sendForm() {
  bar.value = 100;
  line.textContent = gettext("Everything has arrived. The portal puts it away…");
  const values = new FormData(form);
  values.delete("file");
  values.set("upload", upload.url.replace(/\/$/, "").split("/").pop());
  let response;
  try {
    response = await fetch(form.action, { method: "POST", body: values, headers: { Accept: "application/json" } });
  } catch {
    failed(gettext("The connection broke off. The file is here already: send it again."));
    return;
  }
  await answered(response);
}

async function answered(response) {
  const body = await response.json().catch(() => null);
  if (response.status === 201 && body?.url) {
    sending = false;
    location.assign(body.url);
    return;
  }
  if (response.status === 422 && body?.errors) {
    busy(false);
    for (const [name, texts] of Object.entries(body.errors)) {
      show(name, texts);
    }
    form.querySelector('[aria-invalid="true"]')?.focus();
    return;
  }
  failed(body?.message ?? gettext("The portal did not take the file. Try again."));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  clear();
  const chosen = file.files[0];
  if (sending || !check() || !chosen) {
    if (!chosen) {
      show("file", [gettext("Choose the file.")]);
    }
    form.querySelector('[aria-invalid="true"]')?.focus();
    return;
  }
  bar.value = 0;
  line.textContent = gettext("Sending…");
  busy(true);
  start(chosen);
});

form.querySelector("[data-cancel]").addEventListener("click", (event) => {
  if (sending) {
    event.preventDefault();
    upload?.abort(true).catch(() => undefined);
    upload = null;
    busy(false);
  }
});

file.addEventListener("change", () => {
  if (check()) {
    suggestTitle();
  }
});

window.addEventListener("beforeunload", (event) => {
  if (sending) {
    event.preventDefault();
  }
});
