from django.contrib import admin

from portal.lib.admin import ReadOnlyAdmin
from portal.profiles.models import Profile


@admin.register(Profile)
class ProfileAdmin(ReadOnlyAdmin):
    list_display = ("person", "project", "state", "machine", "next_machine", "volume", "is_read_only", "state_since")
    list_filter = ("state", "is_read_only")
    list_select_related = ("person", "project", "machine", "next_machine", "volume")
    search_fields = ("id", "person__username", "project__name", "machine__name")
