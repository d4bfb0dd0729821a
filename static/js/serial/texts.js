/* What is said about each state and failure of a serial console: what happened and what to do. */

const gettext = window.gettext ?? ((text) => text);

const FAILURES = {
  "machine-off": () => gettext("The machine is off. Start it to see its serial console."),
  permission: () => gettext("You may not see this console. Ask the project's owner for a role that may."),
  ticket: () => gettext("The portal did not let this page in to the console. Try again."),
  revoked: () => gettext("Your access to this console has ended. Ask the project's owner if you still need it."),
  "revoked/signed-out": () => gettext("You are signed out. Sign in again to see the console."),
  "revoked/kicked": () => gettext("You were removed from this machine's consoles. Who did so can let you back in."),
  "revoked/ended-by-operator": () => gettext("An operator ended this session. Try again if you still need it."),
  "limit/user": () => gettext("You have too many screens and consoles open. Close one, then try again."),
  limit: () => gettext("Too many screens and consoles are open. Try again in a while."),
  host: () => gettext("The machine's serial port does not answer. The console comes back by itself."),
  "display/no-serial-port": () =>
    gettext("This machine was defined without a serial port that can be shown. Its log is kept all the same."),
  "network/offline": () => gettext("This computer has no network. The console comes back by itself with it."),
  "network/no-portal": () => gettext("The portal does not answer. The console comes back by itself."),
  "ended/display-closed": () => gettext("The machine is stopping or restarting. The console comes back by itself."),
  "ended/display-moved": () => gettext("The machine is restarting. The console comes back by itself."),
  ended: () => gettext("The connection was lost. The console comes back by itself."),
};

const STATES = {
  idle: () => gettext("The console is not connected."),
  ticket: () => gettext("Asking the portal for the console…"),
  connecting: () => gettext("Connecting to the serial port…"),
  connected: () => gettext("The serial console is live. Press Enter if there is nothing to see."),
};

/** The line for a state. The portal's own words for a refusal are the more exact ones; they are set as text. */
export function describe(state, { step, reason, message } = {}) {
  if (state in STATES) {
    return STATES[state]();
  }
  const known = FAILURES[`${step}/${reason}`] ?? FAILURES[step] ?? FAILURES.ended;
  return (step === "permission" || reason === "kicked") && message ? message : known();
}

export function terminalLabel(machine) {
  return gettext("Serial console of %s. Press Ctrl+Alt+Shift to leave it.").replace("%s", () => machine);
}

export const actionRefused = () => gettext("The machine could not be started. Look at its page for the reason.");
export const starting = () => gettext("The machine is starting. The console comes by itself.");
