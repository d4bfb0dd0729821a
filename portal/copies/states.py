"""The words that copies of disks are told by. Pure Python: no model, no I/O."""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Identity(TextChoices):
    """What becomes of that by which the original is known: machine-id, host keys, name and password inside."""

    NEW = "new", _("An identity of its own")
    KEPT = "kept", _("Everything as it is")


class BaseStatus(TextChoices):
    MAKING = "making", _("being made")
    READY = "ready", _("ready")
    DELETING = "deleting", _("being deleted")
