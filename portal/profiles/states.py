"""Where a person's files are, in a word. Pure Python: no model, no I/O."""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class State(TextChoices):
    """`FREE`: no machine has them, which their host has said. In every other state exactly one machine has them."""

    FREE = "free", _("Put away")
    ATTACHING = "attaching", _("Being brought")
    IN_USE = "in_use", _("Open")
    DETACHING = "detaching", _("Being put away")


CAN_RELEASE = (State.ATTACHING, State.IN_USE)
HELD = (State.ATTACHING, State.IN_USE, State.DETACHING)
