from django.contrib import admin

from portal.lib.admin import ReadOnlyAdmin
from portal.uploads.models import Upload


@admin.register(Upload)
class UploadAdmin(ReadOnlyAdmin):
    list_display = ("name", "user", "size_bytes", "created_at", "touched_at")
    list_select_related = ("user",)
    search_fields = ("name", "user__username")
