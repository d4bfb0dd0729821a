/* Asks the portal for a ticket. Every refusal becomes a Refusal with the step, so that the page can name the remedy. */

export class Refusal extends Error {
  constructor(step, reason, message = "") {
    super(message || `${step}/${reason}`);
    this.detail = { step, reason, message };
  }
}

/** `{ticket, path, mode}` for the WebSocket. `wanted` is "control" or "view". */
export async function askForTicket(url, csrfToken, wanted) {
  const response = await post(url, csrfToken, new URLSearchParams({ mode: wanted }));
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
      throw new Refusal("ended", "network");
    }
    throw error;
  }
}

async function refusalOf(response) {
  if (!response.headers.get("Content-Type")?.startsWith("application/json")) {
    // A proxy's or the server's own page: the portal is not up, or not itself.
    return response.status >= 500 ? new Refusal("ended", "network") : new Refusal("ticket", String(response.status));
  }
  const problem = await response.json();
  return new Refusal(problem.step ?? "ticket", problem.code ?? "", problem.message ?? "");
}

/** The step and reason that the relay gave when it closed the WebSocket; a plain loss of the line has none. */
export function closeDetail(event) {
  if (event?.code === 1012 || event?.code === 1001) {
    return { step: "ended", reason: "portal-stopped" };
  }
  try {
    const { step, reason } = JSON.parse(event?.reason || "{}");
    return { step: step ?? "ended", reason: reason ?? "lost" };
  } catch {
    return { step: "ended", reason: "lost" };
  }
}
