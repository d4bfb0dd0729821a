"""A console's refusal: as every PortalError, plus the step at which it failed, so that the page can name the remedy."""

from django.utils.translation import gettext_lazy as _

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


class HostSilentError(ConsoleError):
    def __init__(self) -> None:
        super().__init__(
            _("The machine's host does not answer, so its screen cannot be reached."),
            step=Step.HOST,
            code="host-silent",
        )


def step_of(error: PortalError) -> Step:
    if isinstance(error, ConsoleError):
        return error.step
    return Step.PERMISSION if isinstance(error, ForbiddenError | NotFoundError) else Step.TICKET
