/* The waiting room: who closes it gives their place to the others. The section itself asks how it stands (base/live.js). */

function leave() {
  const room = document.querySelector("[data-leave-url]");
  const token = room?.querySelector("[name=csrfmiddlewaretoken]")?.value;
  if (token) {
    // A reload asks again within a moment, and finds the place as it was: see pools/views.py.
    navigator.sendBeacon(room.dataset.leaveUrl, new URLSearchParams({ csrfmiddlewaretoken: token }));
  }
}

export function leaveWhenClosed() {
  window.addEventListener("pagehide", leave);
  // A page that comes back from the browser's memory is in line no more, or does not know that it was served.
  window.addEventListener("pageshow", (event) => {
    if (event.persisted && document.querySelector("[data-leave-url]")) {
      location.reload();
    }
  });
}
