/* The picture as a file or on the clipboard: the guest's own pixels, not the page's. */

/** "beacon-2026-11-26-141503.png": sorts by time, and is a file's name everywhere. */
export function fileName(machine, now) {
  const two = (number) => String(number).padStart(2, "0");
  const day = `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
  const time = two(now.getHours()) + two(now.getMinutes()) + two(now.getSeconds());
  return `${machine.replace(/[^\p{L}\p{N}._-]+/gu, "-") || "screen"}-${day}-${time}.png`;
}

const png = (rfb) => new Promise((resolve) => rfb.toBlob(resolve, "image/png"));

export async function download(rfb, machine) {
  const url = URL.createObjectURL(await png(rfb));
  const link = Object.assign(document.createElement("a"), { href: url, download: fileName(machine, new Date()) });
  link.click();
  // The browser has taken the file over by then.
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const canCopy = () => Boolean(navigator.clipboard?.write && window.ClipboardItem);

/** False when the browser or the person does not allow it. */
export async function copy(rfb) {
  try {
    // Given as a promise, since some browsers forget the click while the picture is packed.
    await navigator.clipboard.write([new ClipboardItem({ "image/png": png(rfb) })]);
    return true;
  } catch {
    return false;
  }
}
