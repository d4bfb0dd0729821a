from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from portal.images.models import Image, ImageVersion
from portal.lib.admin import ModelAdmin, ReadOnlyAdmin


@admin.register(Image)
class ImageAdmin(ModelAdmin):
    """How an image is called and what it needs can be set here; it comes and goes by the portal's own pages."""

    list_display = ("title", "slug", "kind", "source", "project", "created_at")
    list_filter = ("kind", "source")
    list_select_related = ("project",)
    search_fields = ("title", "slug", "project__name")
    readonly_fields = ("slug", "kind", "source", "recipe", "project", "created_by", "created_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Off: its versions are files."""
        return False


@admin.register(ImageVersion)
class ImageVersionAdmin(ReadOnlyAdmin):
    list_display = ("image", "number", "status", "firmware", "size_bytes", "virtual_size_bytes", "created_at")
    list_filter = ("status", "firmware")
    list_select_related = ("image",)
    search_fields = ("image__title", "sha256", "upload_name")
