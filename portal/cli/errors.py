"""What goes wrong, in one sentence, and the exit code that scripts tell it by."""

from typing import Final

# 2 is click's, for a command that was typed wrongly.
FAILED: Final = 1
NOT_SIGNED_IN: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5
UNREACHABLE: Final = 6

_BY_STATUS: Final = {401: NOT_SIGNED_IN, 404: NOT_FOUND, 409: CONFLICT, 412: CONFLICT}


class CliError(Exception):
    """`code` is the portal's word for it, if the portal said it."""

    def __init__(self, message: str, exit_code: int = FAILED, code: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code


def of_status(status: int, message: str, code: str) -> CliError:
    return CliError(message, _BY_STATUS.get(status, FAILED), code)
