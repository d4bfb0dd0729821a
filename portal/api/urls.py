"""Addresses below /api/. Operations bring their own; what is left over is answered as a problem, too."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.urls import URLPattern, path

from portal.api import follow, operations, views
from portal.api.core import api

app_name = "api"
__all__ = ["operations"]


def _of_operations() -> list[URLPattern]:
    """Sign-in is by token here, and each operation asks for it; see auth.py."""
    patterns = [pattern for pattern in api.urls[0] if isinstance(pattern, URLPattern) and pattern.name != "api-root"]
    for pattern in patterns:
        login_not_required(pattern.callback)
    return patterns


def _with_head(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Where GET is answered, HEAD is: by the same headers. Servers leave out the body that they are of."""

    @wraps(view)
    def answer(request: HttpRequest, *args: Any, **values: Any) -> HttpResponseBase:
        is_head = request.method == "HEAD"
        if is_head:
            request.method = "GET"
        try:
            response = view(request, *args, **values)
        finally:
            request.method = "HEAD" if is_head else request.method
        if is_head:
            follow.do_not(request)
        if "GET" in response.get("Allow", ""):
            response["Allow"] = f"{response['Allow']}, HEAD"
        return response

    return answer


urlpatterns = [
    path("v1/openapi.json", views.openapi, name="openapi"),
    path("v1/docs/", views.browse, name="browse"),
    *(path(f"v1/{pattern.pattern}", _with_head(pattern.callback), name=pattern.name) for pattern in _of_operations()),
    path("<path:rest>", views.nowhere, name="nowhere"),
]
