"""What surrounds every view: a PortalError becomes an answer (a page, a partial for htmx, JSON), and time is taken."""

import time
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from portal.errors import PortalError


class ServerTimingMiddleware:
    """Says how long the answer took to make. Pages that keep themselves up to date pace themselves by it (live.js)."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = time.perf_counter()
        response = self.get_response(request)
        response["Server-Timing"] = f"app;dur={(time.perf_counter() - began) * 1000:.1f}"
        return response


class PortalErrorMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, PortalError):
            return None
        if request.headers.get("Accept", "").startswith("application/json"):
            body = {"code": error.code, "message": str(error.message), "field": error.field}
            return JsonResponse(body, status=error.status)
        # htmx shows the answer of a refused action as a toast and leaves the page as it is (static/js/base.js).
        template = "_error.html" if request.headers.get("HX-Request") else "error.html"
        return render(request, template, {"error": error}, status=error.status)
