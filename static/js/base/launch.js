/* The page for a new machine: quota bars, sizes and the button follow what is chosen. Right without it, too. */

import { gettext, interpolate, memory } from "./text.js";

const NEEDS = {
  machines: () => 1,
  vcpus: (size) => size.vcpus,
  memory: (size) => size.memory,
  disk: (size) => size.disk,
};

const chosen = (form, name) => form.querySelector(`input[name=${name}]:checked:not(:disabled)`);
const numbers = (input) =>
  input && { vcpus: +input.dataset.vcpus, memory: +input.dataset.memory, disk: +input.dataset.disk };

const words = {
  machines: (count) => `${count}`,
  vcpus: (count) => `${count}`,
  memory: (mib) => memory(mib),
  disk: (gib) => memory(gib * 1024),
};

function bars(form) {
  return [...form.querySelectorAll("[data-quota]")].map((row) => ({
    row,
    key: row.dataset.quota,
    used: +row.dataset.used,
    limit: +row.dataset.limit,
  }));
}

function lacks(size, bar) {
  return bar.used + NEEDS[bar.key](size) > bar.limit;
}

function drawBar(bar, size) {
  const need = size ? NEEDS[bar.key](size) : 0;
  const whole = Math.max(bar.limit, bar.used + need, 1);
  const fits = bar.used + need <= bar.limit;
  const [used, own] = bar.row.querySelectorAll("rect[data-part]");
  used.setAttribute("width", (100 * bar.used) / whole);
  own.setAttribute("x", (100 * bar.used) / whole);
  own.setAttribute("width", (100 * need) / whole);
  bar.row.classList.toggle("quota-over", !fits);
  const left = bar.limit - bar.used - need;
  bar.row.querySelector("[data-quota-left]").textContent = fits
    ? interpolate(gettext("%(left)s left"), { left: words[bar.key](left) })
    : interpolate(gettext("%(over)s too many"), { over: words[bar.key](-left) });
}

/** Why a size cannot be had for the image; the words are the server's. */
function reasonFor(input, image, quotaBars) {
  const size = numbers(input);
  if (image && size.memory < +image.dataset.minMemory) {
    return interpolate(gettext("Needs at least %(memory)s of memory"), { memory: memory(+image.dataset.minMemory) });
  }
  if (image && size.disk < +image.dataset.minDisk) {
    return interpolate(gettext("Needs a disk of at least %(disk)s GiB"), { disk: image.dataset.minDisk });
  }
  return quotaBars.some((bar) => lacks(size, bar)) ? gettext("More than the project's quota has left") : "";
}

function drawSizes(form, image, quotaBars) {
  const sizes = [...form.querySelectorAll("input[name=flavour]")];
  for (const input of sizes) {
    const reason = reasonFor(input, image, quotaBars);
    input.disabled = Boolean(reason);
    input.closest("label").classList.toggle("is-disabled", Boolean(reason));
    const line = input.closest("label").querySelector("[data-reason]");
    line.textContent = reason;
    line.hidden = !reason;
  }
  if (!chosen(form, "flavour")) {
    const first = sizes.find((input) => !input.disabled);
    if (first) {
      first.checked = true;
    }
  }
}

function drawName(form, image) {
  const name = form.elements.namedItem("name");
  const suggestions = new Set([...form.querySelectorAll("input[name=image]")].map((input) => input.dataset.suggest));
  if (image && (name.value === "" || (suggestions.has(name.value) && name.value !== image.dataset.suggest))) {
    name.value = image.dataset.suggest;
  }
}

function drawButton(form, image, size) {
  const button = form.querySelector("[data-launch]");
  const name = form.elements.namedItem("name").value.trim();
  button.disabled = !image || !size;
  button.querySelector("[data-launch-text]").textContent =
    image && size && name
      ? interpolate(gettext("Launch %(name)s · %(vcpus)s vCPU, %(memory)s"), {
          name,
          vcpus: size.vcpus,
          memory: memory(size.memory),
        })
      : gettext("Launch");
  const fit = form.querySelector("[data-fit-text]");
  fit.textContent = size
    ? gettext("It fits into the project's quota.")
    : gettext("No size fits: see the reasons above.");
}

function draw(form) {
  const quotaBars = bars(form);
  const image = chosen(form, "image");
  drawSizes(form, image, quotaBars);
  const size = numbers(chosen(form, "flavour"));
  for (const bar of quotaBars) {
    drawBar(bar, size);
  }
  drawName(form, image);
  drawButton(form, image, size);
}

export function startLaunch() {
  const form = document.getElementById("new-machine");
  if (!form) {
    return;
  }
  form.addEventListener("input", () => draw(form));
  form.addEventListener("change", () => draw(form));
  document.addEventListener("htmx:afterSwap", () => draw(form));
  draw(form);
}
