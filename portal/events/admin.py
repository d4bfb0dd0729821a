from django.contrib import admin

from portal.events.models import Delivery, Event, Webhook
from portal.lib.admin import ReadOnlyAdmin


@admin.register(Event)
class EventAdmin(ReadOnlyAdmin):
    list_display = ("at", "kind", "subject_type", "subject_name", "project", "actor_name")
    list_filter = ("kind", "subject_type")
    list_select_related = ("project",)
    search_fields = ("subject_name", "subject_id", "actor_name", "project__name")


@admin.register(Webhook)
class WebhookAdmin(ReadOnlyAdmin):
    list_display = ("name", "project", "url", "enabled", "failing_since")
    list_filter = ("enabled",)
    list_select_related = ("project",)
    search_fields = ("name", "url", "project__name")
    exclude = ("secret",)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("webhook", "event", "status", "attempts", "answer_status", "tried_at", "due_at")
    list_filter = ("status",)
    list_select_related = ("webhook", "event")
    search_fields = ("webhook__name", "event__subject_name")
