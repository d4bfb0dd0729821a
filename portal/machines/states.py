"""A machine's condition in three words, and which change is allowed from where. Pure Python: no model, no I/O."""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Status(TextChoices):
    """The stable state that people see."""

    REQUESTED = "requested", _("Requested")
    BUILDING = "building", _("Being built")
    READY = "ready", _("Ready")
    ERROR = "error", _("Failed")
    DELETED = "deleted", _("Deleted")


class Task(TextChoices):
    """What is happening to it now."""

    NONE = "", _("nothing")
    BUILDING = "building", _("building")
    STARTING = "starting", _("starting")
    STOPPING = "stopping", _("shutting down")
    REBOOTING = "rebooting", _("restarting")
    RESETTING = "resetting", _("resetting")
    FORCING_OFF = "forcing_off", _("forcing off")
    ADOPTING = "adopting", _("being taken over")
    REPAIRING = "repairing", _("being defined again")
    ATTACHING = "attaching", _("attaching a disk")
    DETACHING = "detaching", _("detaching a disk")
    GROWING = "growing", _("growing a disk")
    LIMITING = "limiting", _("limiting a disk")
    ADDING_CARD = "adding_card", _("adding a network card")
    DROPPING_CARD = "drop_card", _("removing a network card")
    DELETING = "deleting", _("deleting")


class PowerState(TextChoices):
    """What the hypervisor said last."""

    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    SHUT_OFF = "shut_off", _("shut off")
    UNKNOWN = "unknown", _("unknown")


LIVE = (Status.REQUESTED, Status.BUILDING, Status.READY, Status.ERROR)
"""Everything that still counts: not deleted."""

CAN_START = (PowerState.SHUT_OFF, PowerState.PAUSED, PowerState.UNKNOWN)
CAN_STOP = (PowerState.RUNNING, PowerState.PAUSED)
CAN_REBOOT = (PowerState.RUNNING,)
CAN_FORCE_OFF = (PowerState.RUNNING, PowerState.PAUSED, PowerState.UNKNOWN)
CAN_CHANGE_DEVICES = (PowerState.RUNNING, PowerState.SHUT_OFF)
"""A paused guest lets nothing go, and of one whose host is silent nothing is known."""
HAS_SCREEN = (PowerState.RUNNING, PowerState.PAUSED)

INTERRUPTIBLE = (Task.NONE, Task.STOPPING, Task.REBOOTING)
"""Tasks that a harder one may replace: a guest that ignores the power button must not block the plug."""
