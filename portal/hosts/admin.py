from typing import Any

from django.contrib import admin
from django.db import transaction
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User
from portal.audit import services as audit
from portal.hosts.models import Difference, Host
from portal.lib.admin import ModelAdmin, ReadOnlyAdmin


@admin.register(Host)
class HostAdmin(ModelAdmin):
    """Where hosts are registered and their limits set. What a host reports of itself is only looked at."""

    list_display = ("name", "enabled", "accelerator", "cpus", "memory_mib", "last_seen_at", "last_error")
    list_filter = ("enabled", "accelerator")
    search_fields = ("name", "uri")
    readonly_fields = (
        "reserved_vcpus",
        "reserved_memory_mib",
        "reserved_disk_gib",
        "cpus",
        "memory_mib",
        "storage_total_bytes",
        "storage_free_bytes",
        "load",
        "memory_used_mib",
        "accelerator",
        "accelerator_reason",
        "network_mode",
        "hypervisor_version",
        "libvirt_version",
        "last_seen_at",
        "last_error",
    )
    fieldsets = (
        (None, {"fields": ("name", "uri", "pool_dir", "network", "enabled")}),
        (
            _("How much is promised"),
            {"fields": ("vcpu_overcommit", "memory_overcommit", "disk_overcommit", "memory_kept_mib")},
        ),
        (_("What it reported"), {"fields": readonly_fields}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """A host that is not there yet has reported nothing."""
        return self.fieldsets if obj is not None else self.fieldsets[:2]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """A host keeps its name: its queue and the workers that listen there are called by it."""
        return [*self.readonly_fields, *(["name"] if obj is not None else [])]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Off: its machines would be nowhere, and rows that name it keep it anyway. Take no new machines instead."""
        return False

    def save_model(self, request: HttpRequest, obj: Host, form: Any, change: bool) -> None:
        """Only what was changed is written: reserved and reported columns move while the page is open."""
        actor = request.user if isinstance(request.user, User) else None
        with transaction.atomic():
            if change and not form.changed_data:
                return
            obj.save(update_fields=form.changed_data if change else None)
            audit.record(
                actor, "host.changed" if change else "host.registered", obj, detail={"fields": list(form.changed_data)}
            )


@admin.register(Difference)
class DifferenceAdmin(ReadOnlyAdmin):
    """What to do about one is decided on its host's page."""

    list_display = ("name", "kind", "host", "object_id", "found_at")
    list_filter = ("kind", "host")
    search_fields = ("name", "object_id")
