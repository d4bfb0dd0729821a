"""A volume's condition in two words. Pure Python: no model, no I/O."""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Status(TextChoices):
    """The stable state. `IN_USE`: a machine has it, until the machine's host has said that it has it no more."""

    CREATING = "creating", _("Being made")
    AVAILABLE = "available", _("Free")
    IN_USE = "in_use", _("In use")
    ERROR = "error", _("Failed")
    DELETED = "deleted", _("Deleted")


class Task(TextChoices):
    """What is happening to it now."""

    NONE = "", _("nothing")
    CREATING = "creating", _("being made")
    ATTACHING = "attaching", _("being attached")
    DETACHING = "detaching", _("being detached")
    GROWING = "growing", _("growing")
    DELETING = "deleting", _("being deleted")


LIVE = (Status.CREATING, Status.AVAILABLE, Status.IN_USE, Status.ERROR)
"""Everything that still counts: not deleted."""

HAS_FILE = (Status.AVAILABLE, Status.IN_USE)
CAN_ATTACH = (Status.AVAILABLE,)
CAN_DETACH = (Status.IN_USE,)
CAN_DELETE = (Status.AVAILABLE, Status.ERROR)
