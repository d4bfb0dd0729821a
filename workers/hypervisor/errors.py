"""What can go wrong on a hypervisor: errors that carry the decision (retry or not) and a text that is safe to show."""


class HypervisorError(Exception):
    """A driver operation failed.

    `code` is stable and for programs, `message` is a sentence for people and holds no path, secret or library text;
    the foreign exception stays as `__cause__` and goes to the log only.
    """

    code = "hypervisor-error"
    retryable = False

    def __init__(self, message: str, *, code: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable


class HostUnreachableError(HypervisorError):
    """The host did not answer, or not in time. Nothing is known about what happened there."""

    code = "host-unreachable"
    retryable = True


class DomainNotFoundError(HypervisorError):
    """No domain with this UUID is on the host."""

    code = "domain-not-found"


class StorageFullError(HypervisorError):
    """The host's storage has no room for what was asked."""

    code = "storage-full"


class VolumeNotFoundError(HypervisorError):
    """A volume that the operation needs is not on the host."""

    code = "volume-not-found"


class GuestAgentError(HypervisorError):
    """The guest's agent does not answer (not installed, not started yet, or the guest is busy)."""

    code = "guest-agent"
    retryable = True


class InvalidOperationError(HypervisorError):
    """The domain is in a state that does not allow the operation."""

    code = "invalid-operation"


class InvalidSpecError(HypervisorError):
    """The machine's description holds what no domain may be made of (control characters, an empty password …)."""

    code = "invalid-spec"


class ForkFailedError(HypervisorError):
    """A parent could not be forked, nor restored. The machine may still be booted."""

    code = "fork-failed"
