"""What surrounds every view: it is named and timed, and what went wrong becomes a page, a partial for htmx, or JSON."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from django.conf import settings
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.db import InterfaceError, OperationalError, connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.translation import gettext as _

from portal.errors import PortalError
from portal.lib import log

logger = logging.getLogger(__name__)

GetResponse = Callable[[HttpRequest], HttpResponse]

# Load balancers and Prometheus ask by address. These answers hold no link and no name of ours.
ASKED_BY_ADDRESS = frozenset({"/healthz", "/readyz", "/metrics"})
RETRY_AFTER_S = 5

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_NAMES_OF_PK = {"machines": "machine", "console": "machine", "jobs": "job", "hosts": "host"}


class RequestMiddleware:
    """The outermost: gives the request an id, for the log and the answer's X-Request-ID.

    One that a proxy gave it is kept, but only where the proxy is trusted: people could make lines look like others'.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info in ASKED_BY_ADDRESS:
            request.META["HTTP_HOST"] = urlsplit(settings.CASEMENT_URL).netloc
        request_id = _request_id(request)
        with log.bound(request=request_id):
            response = self.get_response(request)
        response["X-Request-ID"] = request_id
        return response

    def process_view(self, request: HttpRequest, view: object, args: tuple[object], kwargs: dict[str, Any]) -> None:
        match = request.resolver_match
        name = _NAMES_OF_PK.get(match.namespace) if match else None
        if name and "pk" in kwargs:
            log.bind(**{name: kwargs["pk"]})


def _request_id(request: HttpRequest) -> str:
    given = request.headers.get("X-Request-ID", "") if settings.TRUST_PROXY else ""
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


class SignInMiddleware(LoginRequiredMiddleware):
    """Deny by default: a public view says so itself, and is not asked about anybody, so it needs no database for it.

    Who asks is looked up here first, so here a database that is away shows.
    """

    def process_view(
        self, request: HttpRequest, view_func: Callable[..., Any], view_args: tuple[Any], view_kwargs: dict[str, Any]
    ) -> HttpResponseBase | None:
        if not getattr(view_func, "login_required", True):
            return None
        try:
            answer = super().process_view(request, view_func, view_args, view_kwargs)
        except (OperationalError, InterfaceError) as error:
            if not is_database_away():
                raise
            return unavailable(request, error)
        if answer is None:
            log.bind(actor=request.user.pk)
        return answer


class ServerTimingMiddleware:
    """Says how long the answer took to make. Pages that keep themselves up to date pace themselves by it (live.js)."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.perf_counter()
        response = self.get_response(request)
        response["Server-Timing"] = f"app;dur={(time.perf_counter() - began) * 1000:.1f}"
        return response


class PortalErrorMiddleware:
    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, (OperationalError, InterfaceError)) and is_database_away():
            return unavailable(request, error)
        if not isinstance(error, PortalError):
            return None
        if wants_json(request):
            body = {"code": error.code, "message": str(error.message), "field": error.field}
            return JsonResponse(body, status=error.status)
        # htmx shows the answer of a refused action as a toast and leaves the page as it is (static/js/base.js).
        template = "_error.html" if request.headers.get("HX-Request") else "error.html"
        return render(request, template, {"error": error}, status=error.status)


def wants_json(request: HttpRequest) -> bool:
    return request.headers.get("Accept", "").startswith("application/json")


def is_database_away() -> bool:
    """Whether it is the connection that failed. Other faults of this kind (a missing table) are ours and no outage."""
    return connection.connection is None or not connection.is_usable()


def unavailable(request: HttpRequest, error: Exception) -> HttpResponse:
    """503 with a time to come back. Nothing in it asks the database, so the page knows nobody's name."""
    logger.error("the database is away: %s", error)
    connection.close()
    message = _("The portal cannot reach its database. Machines keep running; try again in a moment.")
    response: HttpResponse
    if wants_json(request):
        response = JsonResponse({"code": "unavailable", "message": message, "field": None}, status=503)
    else:
        template = "_error.html" if request.headers.get("HX-Request") else "503.html"
        response = HttpResponse(render_to_string(template, {"error": {"message": message}}), status=503)
    response["Retry-After"] = str(RETRY_AFTER_S)
    response["Cache-Control"] = "no-store"
    return response
