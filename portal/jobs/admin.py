from django.contrib import admin

from portal.jobs.models import Job, JobStep
from portal.lib.admin import LookedAtInline, ReadOnlyAdmin


class JobStepInline(LookedAtInline):
    model = JobStep
    fields = ("position", "name", "status", "progress", "detail", "started_at", "finished_at")


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
