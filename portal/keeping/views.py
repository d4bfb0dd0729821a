"""Three addresses for machines: alive, ready, metrics. Nobody signs in for them and they make no session.

They answer whatever host name they are asked by (portal/lib/middleware.py), because balancers ask by address.
"""

import secrets

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST

from portal.errors import NotFoundError
from portal.keeping import health, metrics


@login_not_required
@never_cache
@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers; nothing else is asked, so that a database that is away has no web process restarted."""
    return HttpResponse("ok\n", content_type="text/plain")


@login_not_required
@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 while people can be served, "degraded" included; 503 when they cannot."""
    found = health.readiness()
    body = {
        "status": found.status,
        "database": found.database,
        "redis": found.redis,
        "workers": found.workers,
        "watcher": found.watcher,
        "hosts": found.hosts,
    }
    return JsonResponse(body, status=503 if found.status == "unavailable" else 200)


@login_not_required
@never_cache
@require_safe
def prometheus(request: HttpRequest) -> HttpResponse:
    """For whoever has METRICS_TOKEN. Where none is set there is no such page."""
    if not settings.METRICS_TOKEN:
        raise NotFoundError
    given = request.headers.get("Authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {settings.METRICS_TOKEN}".encode()):
        return HttpResponse(status=401, headers={"WWW-Authenticate": 'Bearer realm="metrics"'})
    return HttpResponse(metrics.exposition(), content_type=CONTENT_TYPE_LATEST)
