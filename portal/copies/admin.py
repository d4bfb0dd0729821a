from django.contrib import admin

from portal.copies.models import DiskBase, DiskCopy
from portal.lib.admin import ReadOnlyAdmin


@admin.register(DiskBase)
class DiskBaseAdmin(ReadOnlyAdmin):
    list_display = ("source", "host", "identity", "status", "parent", "created_at")
    list_filter = ("status", "host")
    list_select_related = ("source", "host", "parent__source")
    search_fields = ("id", "source__name")


@admin.register(DiskCopy)
class DiskCopyAdmin(ReadOnlyAdmin):
    list_display = ("source", "machine", "version", "identity", "base", "holds_source", "is_frozen", "created_at")
    list_select_related = ("source", "machine", "version__image", "base__source")
    search_fields = ("id", "source__name", "machine__name")
