from django.contrib import admin

from portal.lib.admin import ReadOnlyAdmin
from portal.pools.models import Desktop, Entitlement, Place, Pool, Session, SpareHours


@admin.register(Pool)
class PoolAdmin(ReadOnlyAdmin):
    list_display = ("title", "name", "kind", "project", "image_version", "enabled", "maintenance")
    list_filter = ("kind", "enabled", "maintenance")
    list_select_related = ("project", "image_version__image")
    search_fields = ("title", "name", "project__name")


@admin.register(SpareHours)
class SpareHoursAdmin(ReadOnlyAdmin):
    list_display = ("pool", "weekday", "from_minute", "to_minute", "spare")
    list_select_related = ("pool",)
    search_fields = ("pool__name",)


@admin.register(Entitlement)
class EntitlementAdmin(ReadOnlyAdmin):
    list_display = ("pool", "user", "project", "group")
    list_select_related = ("pool", "user", "project", "group")
    search_fields = ("pool__name", "user__username", "project__name", "group__name")


@admin.register(Desktop)
class DesktopAdmin(ReadOnlyAdmin):
    list_display = ("pool", "number", "state", "person", "machine", "state_since", "error")
    list_filter = ("state",)
    list_select_related = ("pool", "person", "machine")
    search_fields = ("pool__name", "person__username", "machine__name")


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    list_display = ("person", "pool", "machine", "state", "started_at", "ended_at", "end_reason")
    list_filter = ("state", "end_reason")
    list_select_related = ("person", "pool", "machine")
    search_fields = ("person__username", "pool__name", "machine__name")


@admin.register(Place)
class PlaceAdmin(ReadOnlyAdmin):
    list_display = ("person", "pool", "state", "asked_at", "seen_at", "served_at")
    list_filter = ("state",)
    list_select_related = ("person", "pool")
    search_fields = ("person__username", "pool__name")
