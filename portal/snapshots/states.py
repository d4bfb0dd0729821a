"""A snapshot's condition in two words, and how often a schedule takes one. Pure Python: no model, no I/O."""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Status(TextChoices):
    """The stable state. `DELETED` is also what a snapshot is that was never taken."""

    CREATING = "creating", _("Being taken")
    READY = "ready", _("Ready")
    DELETED = "deleted", _("Deleted")


class Task(TextChoices):
    """What is happening to it now. The machine's own task says the same: one snapshot at a time."""

    NONE = "", _("nothing")
    TAKING = "taking", _("being taken")
    RESTORING = "restoring", _("being restored")
    DELETING = "deleting", _("being deleted")


class Every(TextChoices):
    HOUR = "hour", _("every hour")
    DAY = "day", _("every day")
    WEEK = "week", _("every week")


LIVE = (Status.CREATING, Status.READY)
"""Everything that still counts: not deleted."""
