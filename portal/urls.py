"""Every address of the portal. Each app's own addresses are in its `urls.py`."""

from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.urls import include, path
from django.views.decorators.cache import cache_control
from django.views.i18n import JavaScriptCatalog

from portal.lib.admin import sign_in
from portal.pools.views import home

# Every page loads it before its scripts; it changes with a release only.
_script_words = cache_control(private=True, max_age=600)(JavaScriptCatalog.as_view())

urlpatterns = [
    path("", home, name="home"),
    path("", include("portal.projects.urls")),
    path("machines/", include("portal.machines.urls")),
    path("machines/", include("portal.console.urls")),
    path("machines/", include("portal.figures.urls")),
    path("", include("portal.snapshots.urls")),
    path("", include("portal.copies.urls")),
    path("sessions/", include("portal.console.session_urls")),
    path("desktops/", include("portal.pools.desktop_urls")),
    path("pools/", include("portal.pools.urls")),
    path("deployments/", include("portal.deployments.urls")),
    path("volumes/", include("portal.volumes.urls")),
    path("files/", include("portal.profiles.urls")),
    path("images/", include("portal.images.urls")),
    path("isos/", include("portal.isos.urls")),
    path("uploads/", include("portal.uploads.urls")),
    path("jobs/", include("portal.jobs.urls")),
    path("hosts/", include("portal.overview.urls")),
    path("hosts/", include("portal.figures.host_urls")),
    path("audit/", include("portal.audit.urls")),
    path("", include("portal.events.urls")),
    path("api/", include("portal.api.urls")),
    path("admin/login/", sign_in),
    path("admin/", admin.site.urls),
    path("", include("portal.keeping.urls")),
    path("jsi18n/", login_not_required(_script_words), name="jsi18n"),
]
