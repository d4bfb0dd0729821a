/* What is said about each state and each failure: one line, the step in words and the remedy. */

const gettext = window.gettext ?? ((text) => text);

const FAILURES = {
  "machine-off": () => gettext("The machine is off. Start it to see its screen."),
  permission: () => gettext("You may not see this screen. Ask the project's owner for a role that may."),
  "permission/unavailable": () => gettext("The portal's database does not answer. The screen comes back by itself."),
  ticket: () => gettext("The portal did not let this page in to the screen. Try again."),
  "ticket/unavailable": () => gettext("The portal is short of a part that it needs. The screen comes back by itself."),
  revoked: () => gettext("Your access to this screen has ended. Ask the project's owner if you still need it."),
  "revoked/signed-out": () => gettext("You are signed out. Sign in again to see the screen."),
  "revoked/kicked": () => gettext("You were removed from this screen. Who did so can let you back in."),
  "revoked/taken-over": () => gettext("You took this screen over on another device."),
  "revoked/ended-by-operator": () => gettext("An operator ended this session. Try again if you still need the screen."),
  "limit/user": () => gettext("You have too many screens open. Close one, then try again."),
  "limit/machine": () => gettext("Too many people have this screen open. Try again when one has left."),
  limit: () => gettext("The portal has too many screens open. Try again in a while."),
  host: () => gettext("The machine's host does not answer. The screen comes back by itself."),
  display: () => gettext("The machine's screen does not answer. The screen comes back by itself."),
  "display/password": () =>
    gettext("The machine's screen does not accept the portal. Shut the machine down and start it, then try again."),
  network: () => gettext("The connection was lost. The screen comes back by itself."),
  "network/offline": () =>
    gettext("This computer has no network. The screen comes back by itself as soon as there is one."),
  "network/no-portal": () => gettext("The portal does not answer. The screen comes back by itself."),
  "network/no-websocket": () =>
    gettext("The portal answers, but something on the way stops the screen's stream. It is tried again."),
  "network/slow": () => gettext("The screen took too long to connect. It is tried again."),
  "network/silent": () => gettext("The line went silent. The screen comes back by itself."),
  "ended/display-closed": () => gettext("The machine is stopping or restarting. The screen comes back by itself."),
  "ended/display-moved": () => gettext("The machine is restarting. The screen comes back by itself."),
  "ended/portal-stopped": () => gettext("The portal is restarting. The screen comes back by itself."),
  "ended/browser-clipboard-too-big": () =>
    gettext("The clipboard's text was too long for the machine (1 MiB at most). The screen comes back by itself."),
  ended: () => gettext("The connection was lost. The screen comes back by itself."),
};

// On the page that tests the way nothing comes back by itself, and somebody may be able to mend what is found.
const REMEDIES = {
  host: () =>
    gettext(
      "The machine's host does not answer. Test again in a minute; if it lasts, send this result to an operator.",
    ),
  display: () => gettext("The host answers, but the machine's screen does not. Shut the machine down and start it."),
  "display/black": () =>
    gettext(
      "The connection is fine, but the screen is black. The machine may be asleep: click its screen and press a key.",
    ),
  network: () => gettext("The line broke while it was tested. Test again, from another network if it lasts."),
  "network/no-websocket": () =>
    gettext(
      "Something between you and the portal, often a proxy, stops WebSockets. Ask its keeper to let them through.",
    ),
  "network/slow": () =>
    gettext("The stream opens but carries nothing. Something on the way holds it back, often a proxy."),
  "network/silent": () => gettext("The screen was there and then went silent. The line is very slow or broken."),
};

const STEPS = {
  "machine-off": () => gettext("the machine's power"),
  permission: () => gettext("your permission"),
  ticket: () => gettext("the portal's ticket"),
  revoked: () => gettext("your permission"),
  limit: () => gettext("the number of open screens"),
  host: () => gettext("the machine's host"),
  display: () => gettext("the machine's screen"),
  network: () => gettext("the network between you and the portal"),
  ended: () => gettext("the running session"),
};

const STATES = {
  idle: () => gettext("The screen is not connected."),
  ticket: () => gettext("Asking the portal for the screen…"),
  connecting: () => gettext("Connecting to the screen…"),
  connected: () => gettext("The screen is live."),
};

/** The line for a state; for "waiting" and "failed" it tells what happened and what to do. */
export function describe(state, { step, reason, message } = {}) {
  if (state in STATES) {
    return STATES[state]();
  }
  const known = FAILURES[`${step}/${reason}`] ?? FAILURES[step] ?? FAILURES.ended;
  // The portal's own words for a refusal are the more exact ones; they are set as text, never as markup.
  return (step === "permission" || reason === "kicked") && message ? message : known();
}

/** What to do about a step that fails while the way is tested. */
export function remedyFor(detail) {
  const { step, reason } = detail;
  return (REMEDIES[`${step}/${reason}`] ?? REMEDIES[step])?.() ?? describe("failed", detail);
}

/** Where it stopped, in words. */
export function whereItStopped({ step }) {
  return gettext("Stopped at: %s.").replace("%s", () => (STEPS[step] ?? STEPS.ended)());
}

/** For operators: the step and reason as they stand in the log, the host, the session's number. */
export function technicalDetail({ step, reason, technical, session }, host) {
  return [`${step}/${reason}`, technical || host, session && `session ${session}`].filter(Boolean).join(" · ");
}

export function screenLabel(machine) {
  return gettext("Screen of %s. Press Ctrl+Alt+Shift to leave it.").replace("%s", () => machine);
}

export const actionRefused = () => gettext("The machine could not be started. Look at its page for the reason.");
export const starting = () => gettext("The machine is starting. The screen comes by itself.");
export const lineIsSlow = () => gettext("No answer from the machine's screen…");
export const keysGoThere = () =>
  gettext("Full screen: Alt+Tab, Esc and the like go to the machine. Hold Esc to leave.");
export const keysStayHere = () =>
  gettext("Full screen. This browser keeps Alt+Tab and Esc to itself: use the keys in the bar.");
export const picked = (ok) =>
  ok ? gettext("The picture is on your clipboard.") : gettext("The browser does not allow that.");
export const typedSoFar = (count, total) =>
  gettext("Typed %1 of %2 characters").replace("%1", String(count)).replace("%2", String(total));
export const typedAll = () => gettext("All of it is typed.");
export const typingStopped = () => gettext("Stopped. What was typed before is in the machine.");
export const cannotType = (characters) =>
  gettext("Nothing was typed: a US keyboard has no key for %s").replace("%s", () => characters.join(" "));
export const nothingToType = () => gettext("There is no text to type.");

const LEVELS = {
  sharp: () => gettext("sharp"),
  balanced: () => gettext("balanced"),
  thrifty: () => gettext("thrifty"),
  fast: () => gettext("fast"),
};

/** "balanced, chosen by itself" for the overlay. */
export function levelWords(name, automatic) {
  return automatic ? gettext("%s (automatic)").replace("%s", LEVELS[name]()) : LEVELS[name]();
}

/** The overlay's figures as text. Bandwidth comes in B/s, latency in ms or null. */
export function figures({ frames, latency, bandwidth, dropped, encoding, level, width, height }) {
  return {
    frames: `${frames.toFixed(frames < 10 ? 1 : 0)} /s`,
    latency: latency === null ? "–" : `${latency.toFixed(latency < 10 ? 1 : 0)} ms`,
    bandwidth: rate(bandwidth),
    dropped: String(dropped),
    encoding: encoding || "–",
    level,
    size: `${width} × ${height}`,
  };
}

/** Bytes per second in the unit that fits. */
export function rate(bytes) {
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB/s` : `${(bytes / 1e3).toFixed(0)} kB/s`;
}
