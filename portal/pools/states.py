"""What a pool, its desktops, sessions and waiting people can be. Pure Python: no model, no I/O."""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class PoolKind(TextChoices):
    FLOATING = "floating", _("Floating: any free one, new again after sign-out")
    ASSIGNED = "assigned", _("Assigned: the first one that a person gets stays theirs")
    NAMED = "named", _("Named: one for each entitled person, made ahead")


class Recompose(TextChoices):
    """How desktops come to a new image version."""

    ROLLING = "rolling", _("Each when it is free")
    AT_ONCE = "at_once", _("At once, with notice")
    AT_TIME = "at_time", _("At a time")


class DesktopState(TextChoices):
    BUILDING = "building", _("Being built")
    SPARE = "spare", _("Ready")
    TAKEN = "taken", _("In use")
    RECYCLING = "recycling", _("Being made new")
    FAILED = "failed", _("Failed")
    RETIRED = "retired", _("Retired")


class SessionState(TextChoices):
    ACTIVE = "active", _("Active")
    DISCONNECTED = "disconnected", _("Disconnected")
    ENDED = "ended", _("Ended")


class EndReason(TextChoices):
    SIGNED_OUT = "signed_out", _("Signed out")
    SIGNED_OUT_INSIDE = "guest", _("Signed out inside the desktop")
    SHUT_DOWN = "shut_down", _("The desktop was shut down")
    MACHINE_DIED = "machine_died", _("The desktop is gone: its machine or host failed")
    IDLE = "idle", _("Nobody used it for too long")
    TIME_LIMIT = "limit", _("Its time was over")
    OPERATOR = "operator", _("Ended by an operator")
    RECOMPOSED = "recomposed", _("A new version of the desktop came")
    NOT_ENTITLED = "not_entitled", _("The right to use it was taken away")


class PlaceState(TextChoices):
    WAITING = "waiting", _("Waiting")
    SERVED = "served", _("Got a desktop")
    GONE = "gone", _("Gone")


LIVE_DESKTOP = (
    DesktopState.BUILDING,
    DesktopState.SPARE,
    DesktopState.TAKEN,
    DesktopState.RECYCLING,
    DesktopState.FAILED,
)
"""Everything but what is retired: it has a number in its pool, and counts against the pool's maximum."""

LIVE_SESSION = (SessionState.ACTIVE, SessionState.DISCONNECTED)
