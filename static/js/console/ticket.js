/* Asks the portal for a ticket. Every refusal becomes a Refusal with the step, so that the page can name the remedy. */

export class Refusal extends Error {
  /** `technical` is for operators: what the portal knows of the place where it failed. */
  constructor(step, reason, { message = "", technical = "" } = {}) {
    super(message || `${step}/${reason}`);
    this.detail = { step, reason, message, technical };
  }
}

/** `{ticket, path, mode, session}` for the WebSocket. `wanted` is "control" or "view", `kind` "screen" or "serial". */
export async function askForTicket(url, csrfToken, wanted, kind = "screen") {
  const response = await post(url, csrfToken, new URLSearchParams({ mode: wanted, kind }));
  if (response.ok) {
    return response.json();
  }
  // The portal sends people without a session to its sign-in page.
  if (response.type === "opaqueredirect") {
    throw new Refusal("revoked", "signed-out");
  }
  throw await refusalOf(response);
}

export async function post(url, csrfToken, body) {
  try {
    return await fetch(url, {
      method: "POST",
      body,
      headers: { "X-CSRFToken": csrfToken, Accept: "application/json" },
      credentials: "same-origin",
      redirect: "manual",
    });
  } catch (error) {
    if (error instanceof TypeError) {
      throw new Refusal("network", navigator.onLine === false ? "offline" : "no-portal");
    }
    throw error;
  }
}

async function refusalOf(response) {
  if (!response.headers.get("Content-Type")?.startsWith("application/json")) {
    // A proxy's or the server's own page: the portal is not up, or not itself.
    return response.status >= 500
      ? new Refusal("network", "no-portal")
      : new Refusal("ticket", String(response.status));
  }
  const problem = await response.json();
  return new Refusal(problem.step ?? "ticket", problem.code ?? "", {
    message: problem.message ?? "",
    technical: problem.detail ?? "",
  });
}

/** The step and reason that the relay gave when it closed the WebSocket. A line that was lost has none. */
export function closeDetail(event, opened) {
  if (event?.code === 1012 || event?.code === 1001) {
    return { step: "ended", reason: "portal-stopped" };
  }
  const told = parsed(event?.reason);
  if (told.step) {
    return { step: told.step, reason: told.reason ?? "" };
  }
  if (navigator.onLine === false) {
    return { step: "network", reason: "offline" };
  }
  return { step: "network", reason: opened ? "lost" : "no-websocket" };
}

function parsed(reason) {
  try {
    return JSON.parse(reason || "{}");
  } catch {
    return {};
  }
}
