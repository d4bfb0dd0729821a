from django.contrib import admin

from portal.api.models import Answered
from portal.lib.admin import ReadOnlyAdmin


@admin.register(Answered)
class AnsweredAdmin(ReadOnlyAdmin):
    """What was answered is sealed, for it may hold a secret that is shown once."""

    list_display = ("key", "token", "status", "created_at")
    search_fields = ("key", "token__name", "token__user__username")
    fields = ("token", "key", "status", "location", "created_at")
