"""Every address of the portal. Each app's own addresses are in its `urls.py`."""

from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.urls import path
from django.views.i18n import JavaScriptCatalog

urlpatterns = [
    path("admin/", admin.site.urls),
    path("jsi18n/", login_not_required(JavaScriptCatalog.as_view(packages=["portal"])), name="jsi18n"),
]
