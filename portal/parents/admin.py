from django.contrib import admin

from portal.lib.admin import ReadOnlyAdmin
from portal.parents.models import Parent, ParentWish


@admin.register(Parent)
class ParentAdmin(ReadOnlyAdmin):
    list_display = ("image_version", "host", "vcpus", "memory_mib", "disk_gib", "state", "captured_at")
    list_filter = ("state",)
    list_select_related = ("image_version__image", "host")
    search_fields = ("image_version__image__title", "host__name", "reason")


@admin.register(ParentWish)
class ParentWishAdmin(ReadOnlyAdmin):
    list_display = ("image", "vcpus", "memory_mib", "disk_gib", "created_by", "created_at")
    list_select_related = ("image", "created_by")
    search_fields = ("image__title",)
