"""What a session, a place in line and a tile say to the person: one place for the pages, the API and the command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from portal.pools.models import Pool, Session
from portal.pools.states import DesktopState, EndReason, PoolKind

Words = str | Promise

KINDS: Final[dict[str, Words]] = {
    PoolKind.FLOATING: gettext_lazy("Floating"),
    PoolKind.ASSIGNED: gettext_lazy("Assigned"),
    PoolKind.NAMED: gettext_lazy("Named"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """One word, one colour and one shape."""

    word: Words
    tone: str  # A class of base.css: state-<tone>.
    icon: str


DESKTOP_LOOKS: Final[dict[str, Look]] = {
    DesktopState.SPARE: Look(gettext_lazy("Ready"), "good", icon="circle-filled"),
    DesktopState.TAKEN: Look(gettext_lazy("In use"), "running", icon="user"),
    DesktopState.BUILDING: Look(gettext_lazy("Being built"), "busy", icon="loader-2"),
    DesktopState.RECYCLING: Look(gettext_lazy("Being made new"), "busy", icon="refresh"),
    DesktopState.FAILED: Look(gettext_lazy("Failed"), "bad", icon="alert-triangle-filled"),
    DesktopState.RETIRED: Look(gettext_lazy("Retired"), "off", icon="square-rounded"),
}


def look_of_session(session: Session) -> Look:
    if not session.is_live:
        return Look(_("Ended"), "off", icon="square-rounded")
    if session.disconnected_at is not None:
        return Look(_("Disconnected"), "paused", icon="plug-connected-x")
    if session.warned_at is not None:
        return Look(_("Warned: idle"), "warn", icon="hourglass")
    return Look(_("Active"), "running", icon="circle-filled")


_ENDED: Final[dict[str, tuple[Words, Words]]] = {
    EndReason.SIGNED_OUT: (gettext_lazy("You are signed out"), gettext_lazy("You signed out of the desktop.")),
    EndReason.SIGNED_OUT_INSIDE: (
        gettext_lazy("You are signed out"),
        gettext_lazy("You signed out inside the desktop."),
    ),
    EndReason.SHUT_DOWN: (gettext_lazy("The desktop was shut down"), gettext_lazy("It was shut down from inside.")),
    EndReason.MACHINE_DIED: (
        gettext_lazy("The desktop failed"),
        gettext_lazy("Its machine or the machine's host failed. This is no fault of yours."),
    ),
    EndReason.IDLE: (
        gettext_lazy("You were signed out"),
        gettext_lazy("Nobody used the desktop for longer than it is kept."),
    ),
    EndReason.TIME_LIMIT: (
        gettext_lazy("Your time is over"),
        gettext_lazy("A session on this desktop lasts only so long."),
    ),
    EndReason.OPERATOR: (gettext_lazy("An operator signed you out"), gettext_lazy("Ask them if you do not know why.")),
    EndReason.RECOMPOSED: (
        gettext_lazy("There is a new version of the desktop"),
        gettext_lazy("You were signed out so that you get the new one."),
    ),
    EndReason.NOT_ENTITLED: (
        gettext_lazy("You may not use this desktop any more"),
        gettext_lazy("The right to use it was taken away."),
    ),
}


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended a session, what became of the desktop, and the way back."""

    title: str
    text: str
    kept: str
    again: str


def how_it_ended(session: Session) -> Ended:
    title, text = _ENDED.get(session.end_reason) or (_("Your session has ended"), "")
    floating = session.pool.kind == PoolKind.FLOATING
    kept = _("The desktop itself is made new for the next person.") if floating else _("Your desktop waits for you.")
    again = _("Open a new desktop") if floating else _("Open it again")
    return Ended(str(title), str(text), kept, again)


def leaving_words(pool: Pool) -> str:
    """Beside the button that signs out."""
    if pool.kind == PoolKind.FLOATING:
        return _("Signing out ends what runs and makes the desktop new. Closing the tab only leaves it: it goes on.")
    return _("Signing out frees the screen. Closing the tab only leaves it: it goes on.")


def about_pool(pool: Pool) -> str:
    if pool.kind == PoolKind.FLOATING:
        return _("Any free one, new each time")
    return _("Yours, kept as you leave it")


def estimate_words(seconds: float | None) -> str:
    """Rounded up to what people plan with; nothing is promised that is not known."""
    if seconds is None:
        return _("How long it takes cannot be said yet.")
    if seconds <= 45:
        return _("It usually takes less than a minute.")
    minutes = -(-round(seconds) // 60)
    if minutes < 60:
        return ngettext("About %(number)s minute.", "About %(number)s minutes.", minutes) % {"number": minutes}
    hours = -(-minutes // 60)
    return ngettext("About %(number)s hour.", "About %(number)s hours.", hours) % {"number": hours}
