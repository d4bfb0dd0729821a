from django.contrib import admin

from portal.audit.models import Event
from portal.lib.admin import ReadOnlyAdmin


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("at", "actor_name", "action", "target_type", "target_name", "project", "request_ip")
    list_filter = ("action", "target_type")
    list_select_related = ("project",)
    search_fields = ("actor_name", "action", "target_name", "target_id", "project__name")
    date_hierarchy = "at"
