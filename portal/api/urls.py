"""Addresses below /api/. Operations bring their own; what is left over is answered as a problem, too."""

from django.contrib.auth.decorators import login_not_required
from django.urls import URLPattern, path

from portal.api import operations, views
from portal.api.core import api

app_name = "api"
__all__ = ["operations"]


def _of_operations() -> list[URLPattern]:
    """Sign-in is by token here, and each operation asks for it; see auth.py."""
    patterns = [pattern for pattern in api.urls[0] if isinstance(pattern, URLPattern) and pattern.name != "api-root"]
    for pattern in patterns:
        login_not_required(pattern.callback)
    return patterns


urlpatterns = [
    path("v1/openapi.json", views.openapi, name="openapi"),
    path("v1/docs/", views.browse, name="browse"),
    *(path(f"v1/{pattern.pattern}", pattern.callback, name=pattern.name) for pattern in _of_operations()),
    path("<path:rest>", views.nowhere, name="nowhere"),
]
