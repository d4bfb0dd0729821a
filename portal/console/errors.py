"""A console's refusal: as every PortalError, plus the step at which it failed, so that the page can name the remedy."""

import datetime as dt
import math

from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from portal.console.relay import Step
from portal.errors import ConflictError, ForbiddenError, NotFoundError, PortalError, Text


class ConsoleError(ConflictError):
    """`step` says where it failed, `code` (a slug) why."""

    def __init__(self, message: Text, *, step: Step, code: str) -> None:
        super().__init__(message, code=code)
        self.step = step


class MachineOffError(ConsoleError):
    def __init__(self) -> None:
        super().__init__(
            _("The machine is off. Start it to see its screen."), step=Step.MACHINE_OFF, code="machine-off"
        )


class NoSerialPortError(ConsoleError):
    """Its definition is older than serial consoles, or somebody else's."""

    def __init__(self) -> None:
        super().__init__(
            _("This machine has no serial port that can be shown. Its log is kept all the same."),
            step=Step.DISPLAY,
            code="no-serial-port",
        )


class HostSilentError(ConsoleError):
    def __init__(self) -> None:
        super().__init__(
            _("The machine's host does not answer, so its screen cannot be reached."),
            step=Step.HOST,
            code="host-silent",
        )


class KickedError(ConsoleError):
    """Somebody with the right to do so removed the person from this screen, for a while."""

    def __init__(self, by_name: str, until: dt.datetime) -> None:
        minutes = max(1, math.ceil((until - timezone.now()).total_seconds() / 60))
        super().__init__(
            ngettext(
                "%(person)s removed you from this screen. Try again in %(minutes)s minute, or ask to be let back in.",
                "%(person)s removed you from this screen. Try again in %(minutes)s minutes, or ask to be let back in.",
                minutes,
            )
            % {"person": by_name, "minutes": minutes},
            step=Step.REVOKED,
            code="kicked",
        )


def step_of(error: PortalError) -> Step:
    if isinstance(error, ConsoleError):
        return error.step
    return Step.PERMISSION if isinstance(error, ForbiddenError | NotFoundError) else Step.TICKET
