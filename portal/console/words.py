"""How a session ended, in words: one place for the operators' list and for whoever else tells of it."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.console.models import ConsoleSession
from portal.console.relay import Step

_REASONS: dict[str, str | Promise] = {
    "browser-gone": gettext_lazy("The tab was closed or lost its connection."),
    "browser-stalled": gettext_lazy("The browser took no more picture."),
    "display-closed": gettext_lazy("The machine stopped or restarted."),
    "display-moved": gettext_lazy("The machine restarted."),
    "portal-stopped": gettext_lazy("The portal restarted."),
    "portal-lost": gettext_lazy("The portal's process was lost."),
    "unchecked": gettext_lazy("The portal could not check whether it may go on."),
    "signed-out": gettext_lazy("The person signed out or was disabled, or the password changed."),
    "forbidden": gettext_lazy("The person's role does not allow it any more."),
    "not-found": gettext_lazy("The machine was deleted, or the person left the project."),
    "taken-over": gettext_lazy("The person took it over on another device."),
    "kicked": gettext_lazy("The person was removed from the screen."),
    "stopped": gettext_lazy("The machine was shut down."),
    "unreachable": gettext_lazy("The machine's host did not answer."),
    "password": gettext_lazy("The machine's screen did not accept the portal."),
}
_STEPS: dict[str, str | Promise] = {
    Step.TICKET: gettext_lazy("The ticket was not accepted."),
    Step.PERMISSION: gettext_lazy("It was not allowed."),
    Step.MACHINE_OFF: gettext_lazy("The machine was off."),
    Step.HOST: gettext_lazy("The machine's host did not answer."),
    Step.DISPLAY: gettext_lazy("The machine's screen did not answer."),
    Step.LIMIT: gettext_lazy("Too many screens were open."),
    Step.REVOKED: gettext_lazy("Access to the screen ended."),
    Step.ENDED: gettext_lazy("The connection ended."),
}


def how_it_ended(session: ConsoleSession) -> str:
    """Empty while it lasts. A reason that is not here is told by its step."""
    if session.ended_at is None:
        return ""
    if session.ended_reason == "ended-by-operator":
        return _("%(person)s ended it.") % {"person": session.end_ordered_by}
    return str(_REASONS.get(session.ended_reason) or _STEPS.get(session.ended_step) or _STEPS[Step.ENDED])
