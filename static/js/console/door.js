/* The WebSocket to a screen: opened with what the portal grants, or before anybody asks, with what the page brought. */

const SUBPROTOCOL = "casement.ticket.";
const BROUGHT = "meta[name=casement-door]";

/** `{socket, state}` for a grant of the portal. `state.opened` and `state.closed` tell what became of it. */
export function openSocket({ ticket, path }) {
  const url = new URL(path, window.location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url, ["binary", SUBPROTOCOL + ticket]);
  const state = { opened: false, closed: null };
  socket.addEventListener("open", () => {
    state.opened = true;
  });
  socket.addEventListener("close", (event) => {
    state.closed = event;
  });
  return { socket, state };
}

/** `{grant, socket, state, handOver}` with what the page brought, or null: while the viewer still loads, or when the
screen comes into the page. A ticket is good for one connection: it is not left in the page. */
export function openAhead() {
  const brought = document.querySelector(BROUGHT);
  if (!brought) {
    return null;
  }
  const grant = JSON.parse(brought.content);
  brought.remove();
  const { socket, state } = openSocket(grant);
  socket.binaryType = "arraybuffer";
  const missed = [];
  const keep = ({ data }) => missed.push(data);
  socket.addEventListener("message", keep);
  // The display speaks first: what it has said by then is said once more to the viewer, when that listens.
  const handOver = () => {
    socket.removeEventListener("message", keep);
    for (const data of missed.splice(0)) {
      socket.dispatchEvent(new MessageEvent("message", { data }));
    }
  };
  return { grant, socket, state, handOver };
}

/** What was opened of this machine, once; null if nothing was. */
export function takeAhead(machine) {
  const ahead = openAhead() ?? window.casementAhead ?? null;
  const isIts = ahead?.grant.machine === machine;
  window.casementAhead = isIts ? null : ahead;
  return isIts ? ahead : null;
}
