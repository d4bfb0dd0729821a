/* What is said about each state and each failure: one line, the step in words and the remedy. */

const gettext = window.gettext ?? ((text) => text);

const FAILURES = {
  "machine-off": () => gettext("The machine is off. Start it to see its screen."),
  permission: () => gettext("You may not see this screen. Ask the project's owner for a role that may."),
  ticket: () => gettext("The portal did not let this page in to the screen. Try again."),
  "ticket/network": () => gettext("The portal does not answer. The screen comes back by itself."),
  "ticket/unavailable": () => gettext("The portal is short of a part that it needs. The screen comes back by itself."),
  revoked: () => gettext("Your access to this screen has ended. Ask the project's owner if you still need it."),
  "revoked/signed-out": () => gettext("You are signed out. Sign in again to see the screen."),
  "revoked/kicked": () => gettext("You were removed from this screen. Who did so can let you back in."),
  "revoked/ended-by-operator": () => gettext("An operator ended this session. Try again if you still need the screen."),
  "limit/user": () => gettext("You have too many screens open. Close one, then try again."),
  "limit/machine": () => gettext("Too many people have this screen open. Try again when one has left."),
  limit: () => gettext("The portal has too many screens open. Try again in a while."),
  host: () => gettext("The machine's host does not answer. The screen comes back by itself."),
  display: () => gettext("The machine's screen does not answer. The screen comes back by itself."),
  "display/password": () =>
    gettext("The machine's screen does not accept the portal. Shut the machine down and start it, then try again."),
  "ended/display-closed": () => gettext("The machine is stopping or restarting. The screen comes back by itself."),
  "ended/display-moved": () => gettext("The machine is restarting. The screen comes back by itself."),
  "ended/portal-stopped": () => gettext("The portal is restarting. The screen comes back by itself."),
  "ended/browser-clipboard-too-big": () =>
    gettext("The clipboard's text was too long for the machine (1 MiB at most). The screen comes back by itself."),
  ended: () => gettext("The connection was lost. The screen comes back by itself."),
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

export function screenLabel(machine) {
  return gettext("Screen of %s. Press Ctrl+Alt+Shift to leave it.").replace("%s", () => machine);
}

export function actionRefused() {
  return gettext("The machine could not be started. Look at its page for the reason.");
}

export function starting() {
  return gettext("The machine is starting. The screen comes by itself.");
}
