"""Errors that people cause or can mend. Each carries a stable code, an HTTP status and a text that is safe to show."""

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Text = str | Promise


class PortalError(Exception):
    """Base of all of them. `field` names the form field at which the text belongs, if any."""

    code = "error"
    status = 400

    def __init__(self, message: Text, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(str(message))
        self.message = message
        self.field = field
        if code is not None:
            self.code = code


class NotFoundError(PortalError):
    """There is no such thing, or it is not this person's to know about: the two must look the same."""

    code = "not-found"
    status = 404

    def __init__(self, message: Text | None = None) -> None:
        super().__init__(message or _("There is nothing here, or it is not yours to see."))


class ForbiddenError(PortalError):
    """The person may see it but not do this."""

    code = "forbidden"
    status = 403

    def __init__(self, message: Text | None = None) -> None:
        super().__init__(message or _("Your role in this project does not allow this."))


class InvalidError(PortalError):
    """What was typed cannot be used."""

    code = "invalid"
    status = 422


class ConflictError(PortalError):
    """The thing is in another state than the request needs; the text says which."""

    code = "conflict"
    status = 409


class QuotaExceededError(PortalError):
    """The project has no room for it."""

    code = "quota-exceeded"
    status = 409


class NoCapacityError(PortalError):
    """No host has room for it."""

    code = "no-capacity"
    status = 409
