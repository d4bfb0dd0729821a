from django.contrib import admin

from portal.lib.admin import ReadOnlyAdmin
from portal.snapshots.models import Snapshot, SnapshotHold, SnapshotSchedule, SnapshotVolume


@admin.register(Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    list_display = ("name", "machine", "with_memory", "quiesced", "status", "task", "created_at")
    list_filter = ("status", "with_memory")
    list_select_related = ("machine",)
    search_fields = ("name", "id", "machine__name")


@admin.register(SnapshotVolume)
class SnapshotVolumeAdmin(ReadOnlyAdmin):
    list_display = ("snapshot", "volume", "size_gib")
    list_select_related = ("snapshot", "volume")
    search_fields = ("snapshot__name", "volume__name")


@admin.register(SnapshotHold)
class SnapshotHoldAdmin(ReadOnlyAdmin):
    list_display = ("snapshot", "holder", "created_at")
    list_select_related = ("snapshot",)
    search_fields = ("snapshot__name", "holder")


@admin.register(SnapshotSchedule)
class SnapshotScheduleAdmin(ReadOnlyAdmin):
    list_display = ("machine", "every", "keep", "next_at", "problem")
    list_filter = ("every",)
    list_select_related = ("machine",)
    search_fields = ("machine__name",)
