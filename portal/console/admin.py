from django.contrib import admin

from portal.console.models import ConsoleSession
from portal.lib.admin import ReadOnlyAdmin


@admin.register(ConsoleSession)
class ConsoleSessionAdmin(ReadOnlyAdmin):
    list_display = ("user_name", "machine_name", "mode", "started_at", "ended_at", "ended_reason", "request_ip")
    list_filter = ("mode", "ended_reason")
    search_fields = ("user_name", "machine_name", "request_ip")
    date_hierarchy = "started_at"
