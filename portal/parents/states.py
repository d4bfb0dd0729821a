"""The words that parents are told by. Pure Python: no model, no I/O."""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class State(TextChoices):
    """`RETIRING`: no new fork is taken of it; it goes when nothing uses it any more. `FAILED`: nothing is on the host.

    `DELETED` rows are history, and forgotten after some days.
    """

    WANTED = "wanted", _("Asked for")
    BUILDING = "building", _("Being made")
    READY = "ready", _("Ready")
    FAILED = "failed", _("Failed")
    RETIRING = "retiring", _("Going")
    DELETED = "deleted", _("Gone")


BEING_MADE = (State.WANTED, State.BUILDING)

CURRENT = (State.WANTED, State.BUILDING, State.READY, State.FAILED)
"""Of these there is one for each version, size and host: what is wanted, and how far it is."""

SHOWN = (*CURRENT, State.RETIRING)
"""Everything that operators see: it is on a host, or should be."""
