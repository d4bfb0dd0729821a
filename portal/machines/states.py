"""A machine's condition in three words, and which change is allowed from where. Pure Python: no model, no I/O."""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Status(TextChoices):
    """The stable state that people see."""

    REQUESTED = "requested", _("Requested")
    BUILDING = "building", _("Being built")
    READY = "ready", _("Ready")
    ERROR = "error", _("Failed")
    BINNED = "binned", _("In the bin")
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
    PAUSING = "pausing", _("being paused")
    RESUMING = "resuming", _("going on")
    HIBERNATING = "hibernating", _("hibernating")
    DISCARDING = "discarding", _("forgetting its saved memory")
    RESIZING = "resizing", _("getting another size")
    ACCESS = "access", _("getting a password or key")
    BINNING = "binning", _("going into the bin")
    ATTACHING = "attaching", _("attaching a disk")
    DETACHING = "detaching", _("detaching a disk")
    GROWING = "growing", _("growing a disk")
    LIMITING = "limiting", _("limiting a disk")
    ADDING_CARD = "adding_card", _("adding a network card")
    DROPPING_CARD = "drop_card", _("removing a network card")
    COPYING = "copying", _("being copied")
    REBUILDING = "rebuilding", _("being rebuilt")
    SNAPSHOTTING = "snapshotting", _("taking a snapshot")
    RESTORING = "restoring", _("being restored")
    DROPPING_SNAPSHOT = "drop_snap", _("deleting a snapshot")
    INSERTING = "inserting", _("inserting a disc")
    EJECTING = "ejecting", _("ejecting a disc")
    RESCUING = "rescuing", _("starting a rescue system")
    UNRESCUING = "unrescuing", _("coming back from rescue")
    DELETING = "deleting", _("deleting")


class PowerState(TextChoices):
    """What the hypervisor said last."""

    RUNNING = "running", _("running")
    PAUSED = "paused", _("paused")
    SHUT_OFF = "shut_off", _("shut off")
    UNKNOWN = "unknown", _("unknown")


LIVE = (Status.REQUESTED, Status.BUILDING, Status.READY, Status.ERROR)
"""What people work with: neither deleted nor in the bin."""

KEPT = (*LIVE, Status.BINNED)
"""Everything that is not deleted: it has something on a host, or is about to."""

CAN_START = (PowerState.SHUT_OFF, PowerState.PAUSED, PowerState.UNKNOWN)
CAN_STOP = (PowerState.RUNNING, PowerState.PAUSED)
CAN_REBOOT = (PowerState.RUNNING,)
CAN_FORCE_OFF = (PowerState.RUNNING, PowerState.PAUSED, PowerState.UNKNOWN)
CAN_PAUSE = (PowerState.RUNNING,)
CAN_RESUME = (PowerState.PAUSED,)
CAN_HIBERNATE = (PowerState.RUNNING, PowerState.PAUSED)
IS_KNOWN = (PowerState.RUNNING, PowerState.PAUSED, PowerState.SHUT_OFF)
CAN_CHANGE_DEVICES = (PowerState.RUNNING, PowerState.SHUT_OFF)
"""A paused guest lets nothing go, and of one whose host is silent nothing is known. Nor may it be hibernated: its saved
memory is that of a machine with these devices."""
HAS_SCREEN = (PowerState.RUNNING, PowerState.PAUSED)

INTERRUPTIBLE = (Task.NONE, Task.STOPPING, Task.REBOOTING, Task.HIBERNATING)
"""Tasks that a harder one may replace: a guest that ignores the power button must not block the plug."""
