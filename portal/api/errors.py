"""Errors that only a program can cause."""

from django.utils.translation import gettext_lazy as _

from portal.errors import PortalError, Text


class UnauthenticatedError(PortalError):
    """No token, or one that lets nobody in. Which of the two is not told."""

    code = "unauthenticated"
    status = 401

    def __init__(self) -> None:
        super().__init__(_("Send a token that is alive: “Authorization: Bearer casement_…”. Make one on your page."))


class ScopeError(PortalError):
    """The token may not do this, whatever its person may."""

    code = "token-scope"
    status = 403


class MalformedError(PortalError):
    """What was sent cannot be read at all."""

    code = "malformed"
    status = 400

    def __init__(self, message: Text | None = None) -> None:
        super().__init__(message or _("The request cannot be read: is its body whole, and JSON?"))


class ChangedError(PortalError):
    """If-Match names a state that is no longer the thing's."""

    code = "changed-meanwhile"
    status = 412

    def __init__(self) -> None:
        super().__init__(_("It has changed since you read it. Read it again, and decide anew."))


class KeyReusedError(PortalError):
    code = "idempotency-key-reused"
    status = 422

    def __init__(self) -> None:
        super().__init__(_("This Idempotency-Key was used for another request. Each request needs one of its own."))


class RateLimitedError(PortalError):
    """`retry_after_s` says when to come back."""

    code = "rate-limited"
    status = 429

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(_("Too many requests with this token. Come back in %(s)s seconds.") % {"s": retry_after_s})
        self.retry_after_s = retry_after_s
