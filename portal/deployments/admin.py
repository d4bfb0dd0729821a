from django.contrib import admin

from portal.deployments.models import Deployment, Seat
from portal.lib.admin import ReadOnlyAdmin


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    list_display = ("name", "project", "image_version", "flavour", "created_by", "created_at")
    list_select_related = ("project", "image_version__image", "flavour", "created_by")
    search_fields = ("name", "project__name")


@admin.register(Seat)
class SeatAdmin(ReadOnlyAdmin):
    list_display = ("deployment", "number", "label", "person", "machine", "link_expires_at")
    list_select_related = ("deployment", "person", "machine")
    search_fields = ("label", "deployment__name", "person__username")
    exclude = ("token_hash",)
