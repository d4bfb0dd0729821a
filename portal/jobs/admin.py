from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import TabularInline

from portal.jobs.models import Job, JobStep
from portal.lib.admin import ReadOnlyAdmin


class JobStepInline(TabularInline):  # type: ignore[misc]  # Unfold has no annotations.
    model = JobStep
    fields = ("position", "name", "status", "progress", "detail", "started_at", "finished_at")
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("name", "target_name", "status", "project", "actor", "queue", "created_at", "finished_at")
    list_filter = ("status", "name", "queue")
    list_select_related = ("project", "actor")
    search_fields = ("target_name", "target_id", "actor__username", "project__name", "error_message")
    inlines = (JobStepInline,)


@admin.register(JobStep)
class JobStepAdmin(ReadOnlyAdmin):
    list_display = ("job", "position", "name", "status", "progress", "started_at", "finished_at")
    list_filter = ("status", "name")
    list_select_related = ("job",)
    search_fields = ("job__target_name", "detail")
