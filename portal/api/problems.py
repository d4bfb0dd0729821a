"""Every error below /api/ is a problem document (RFC 9457), whoever answers it: an operation, Django, or nobody."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from ninja.errors import HttpError, ValidationError

from portal.api.errors import MalformedError, RateLimitedError
from portal.errors import PortalError

CONTENT_TYPE: Final = "application/problem+json"
TYPE: Final = "urn:casement:problem:"
# What is answered before any code of ours ran has no code of ours.
_CODES: Final = {
    400: "malformed",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    500: "internal",
    503: "unavailable",
}

Fault = dict[str, str]


def problem(
    status: int, code: str, detail: str, *, field: str | None = None, errors: Sequence[Fault] = ()
) -> HttpResponse:
    """`code` is stable, for programs; `detail` is for people and in their language. `errors` has `field`, `message`."""
    body: dict[str, Any] = {
        "type": f"{TYPE}{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    if field or errors:
        body["errors"] = list(errors) or [{"field": field, "message": detail}]
    response = HttpResponse(json.dumps(body, ensure_ascii=False), status=status, content_type=CONTENT_TYPE)
    response["Cache-Control"] = "no-store"
    return response


def of_error(_request: HttpRequest, error: PortalError) -> HttpResponse:
    response = problem(error.status, error.code, str(error.message), field=error.field)
    if isinstance(error, RateLimitedError):
        response["Retry-After"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        response["WWW-Authenticate"] = 'Bearer realm="Casement"'
    return response


def of_validation(_request: HttpRequest, error: ValidationError) -> HttpResponse:
    """What does not fit the schema, each at its field. What was sent is not repeated: it may be a secret."""
    errors = [{"field": _field(fault["loc"]), "message": str(fault["msg"])} for fault in error.errors]
    first = errors[0] if errors else {"field": "", "message": ""}
    detail = _("%(field)s: %(message)s") % first
    return problem(422, "invalid", detail, errors=errors)


def _field(loc: Sequence[object]) -> str:
    """Without where it stood ("body", and what our function calls its parameter)."""
    path = [str(part) for part in loc]
    skipped = 2 if path[0] in {"body", "form", "query"} and len(path) > 2 else 1
    return ".".join(path[skipped:]) or path[0]


def of_http_error(request: HttpRequest, error: HttpError) -> HttpResponse:
    """The framework's own: a body that is no JSON."""
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return of_error(request, MalformedError())
    return _of_status(error.status_code)


class ProblemMiddleware:
    """Turns pages of errors below /api/ into problems. It stands far outside: next to nothing answers past it."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if not request.path_info.startswith("/api/"):
            return response
        if response.status_code >= HTTPStatus.BAD_REQUEST and not response["Content-Type"].startswith(CONTENT_TYPE):
            response = _kept(response, _of_status(response.status_code))
        for name, value in getattr(request, "api_headers", {}).items():
            response[name] = value
        return response


def _of_status(status: int) -> HttpResponse:
    return problem(status, _CODES.get(status, "error"), _sentence(status))


def _sentence(status: int) -> str:
    return {
        404: _("There is no such address."),
        405: _("This address takes other methods; see the header Allow."),
        413: _("The request is too large."),
        500: _("The portal failed. It has been written to its log, with the id in X-Request-ID."),
        503: _("The portal cannot reach its database. Machines keep running; try again in a moment."),
    }.get(status, _("The request was refused."))


def _kept(old: HttpResponse, new: HttpResponse) -> HttpResponse:
    for name in ("Allow", "Retry-After"):
        if name in old:
            new[name] = old[name]
    return new
