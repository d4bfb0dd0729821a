from django.contrib import admin

from portal.isos.models import Iso
from portal.lib.admin import ReadOnlyAdmin


@admin.register(Iso)
class IsoAdmin(ReadOnlyAdmin):
    list_display = ("name", "project", "role", "status", "size_bytes", "created_at")
    list_filter = ("status", "role")
    list_select_related = ("project",)
    search_fields = ("name", "sha256", "upload_name", "project__name")
