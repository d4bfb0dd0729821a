from django.contrib import admin

from portal.lib.admin import LookedAtInline, ModelAdmin, ReadOnlyAdmin
from portal.machines.models import (
    Attachment,
    Batch,
    BatchItem,
    Disc,
    Flavour,
    Grant,
    Machine,
    MachineLabel,
    NetworkCard,
)


@admin.register(Flavour)
class FlavourAdmin(ModelAdmin):
    """Sizes are made and changed here. One that machines were made in is no longer offered rather than deleted."""

    list_display = ("title", "name", "vcpus", "memory_mib", "disk_gib", "position", "enabled")
    list_filter = ("enabled",)
    search_fields = ("title", "name")


@admin.register(Attachment)
class AttachmentAdmin(ReadOnlyAdmin):
    list_display = ("machine", "volume", "boot", "iops", "bytes_per_s", "delete_with_machine", "task")
    list_select_related = ("machine", "volume")
    search_fields = ("machine__name", "volume__name")


@admin.register(NetworkCard)
class NetworkCardAdmin(ReadOnlyAdmin):
    list_display = ("machine", "mac", "network", "task", "created_at")
    list_select_related = ("machine",)
    search_fields = ("machine__name", "mac")


@admin.register(Disc)
class DiscAdmin(ReadOnlyAdmin):
    list_display = ("iso", "machine", "slot", "task", "created_at")
    list_select_related = ("machine", "iso")
    search_fields = ("machine__name", "iso__name")


@admin.register(Machine)
class MachineAdmin(ReadOnlyAdmin):
    list_display = ("name", "project", "owner", "host", "status", "task", "power_state", "created_at")
    list_filter = ("status", "power_state", "host")
    list_select_related = ("project", "owner", "host")
    search_fields = ("name", "id", "project__name", "owner__username", "mac")
    # Sealed or not, what opens a guest is shown nowhere but on the machine's own page, where looking leaves a trace.
    exclude = ("login_password", "next_password", "console_secret", "user_data", "rescue_password")


@admin.register(Grant)
class GrantAdmin(ReadOnlyAdmin):
    list_display = ("machine", "user", "until", "created_at")
    list_select_related = ("machine", "user")
    search_fields = ("machine__name", "user__username")


@admin.register(MachineLabel)
class MachineLabelAdmin(ReadOnlyAdmin):
    list_display = ("name", "machine")
    list_select_related = ("machine",)
    search_fields = ("name", "machine__name")


class BatchItemInline(LookedAtInline):
    model = BatchItem
    fields = ("machine", "job", "refusal")


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    list_display = ("action", "actor", "created_at")
    list_filter = ("action",)
    list_select_related = ("actor",)
    search_fields = ("actor__username", "items__machine__name")
    inlines = (BatchItemInline,)


@admin.register(BatchItem)
class BatchItemAdmin(ReadOnlyAdmin):
    list_display = ("machine", "batch", "job", "refusal")
    list_select_related = ("machine", "batch", "job")
    search_fields = ("machine__name", "refusal")
