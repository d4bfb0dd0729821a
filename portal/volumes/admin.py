from django.contrib import admin

from portal.lib.admin import ReadOnlyAdmin
from portal.volumes.models import Volume


@admin.register(Volume)
class VolumeAdmin(ReadOnlyAdmin):
    list_display = ("name", "project", "host", "size_gib", "status", "task", "created_at")
    list_filter = ("status", "host")
    list_select_related = ("project", "host")
    search_fields = ("name", "id", "project__name")
