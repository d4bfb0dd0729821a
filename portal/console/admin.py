from django.contrib import admin

from portal.console.models import ConsoleGrant, ConsoleLink, ConsoleSession, ScreenBan, ScreenControl, ScreenNotice
from portal.lib.admin import ReadOnlyAdmin


@admin.register(ConsoleSession)
class ConsoleSessionAdmin(ReadOnlyAdmin):
    list_display = ("user_name", "machine_name", "kind", "mode", "started_at", "ended_at", "ended_reason", "request_ip")
    list_filter = ("kind", "mode", "door", "ended_reason")
    search_fields = ("user_name", "machine_name", "request_ip")
    date_hierarchy = "started_at"


@admin.register(ScreenControl)
class ScreenControlAdmin(ReadOnlyAdmin):
    list_display = ("machine", "user", "since")
    list_select_related = ("machine", "user")
    search_fields = ("machine__name", "user__username")


@admin.register(ScreenBan)
class ScreenBanAdmin(ReadOnlyAdmin):
    list_display = ("machine", "user", "by_name", "until")
    list_select_related = ("machine", "user")
    search_fields = ("machine__name", "user__username", "by_name")


@admin.register(ScreenNotice)
class ScreenNoticeAdmin(ReadOnlyAdmin):
    list_display = ("machine", "by_name", "posted_at", "text")
    list_select_related = ("machine",)
    search_fields = ("machine__name", "by_name", "text")


@admin.register(ConsoleLink)
class ConsoleLinkAdmin(ReadOnlyAdmin):
    list_display = ("machine", "mode", "created_by_name", "created_at", "expires_at", "revoked_at")
    list_select_related = ("machine",)
    list_filter = ("mode",)
    search_fields = ("machine__name", "created_by_name")


@admin.register(ConsoleGrant)
class ConsoleGrantAdmin(ReadOnlyAdmin):
    list_display = ("link", "membership", "opened_at")
    list_select_related = ("link__machine", "membership__user", "membership__project")
    search_fields = ("link__machine__name", "membership__user__username")
