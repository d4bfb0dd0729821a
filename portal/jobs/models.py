"""Background work as rows. The row is the truth; the Celery message only wakes a worker."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from portal.jobs.names import ACTIVE, FINAL, JobName, JobStatus, StepName, StepStatus


class Job(models.Model):
    """`target_type` is a model's name and `target_id` its key, so that jobs know none of the models above them.

    A worker holds the job while `lease_owner` is its name and `lease_until` lies ahead. `due_at` says when a waiting
    job is to be looked at again, and when a queued one's next reminder is sent. `outcome` is decided before anything is
    taken back: whoever takes over a job that has one goes on taking back and never forward. `error_message` is safe to
    show. No secret is ever stored here.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("kind"), max_length=30, choices=JobName.choices)
    target_type = models.CharField(_("type of target"), max_length=30)
    target_id = models.UUIDField(_("id of target"))
    target_name = models.CharField(_("name of target"), max_length=150, blank=True)
    project = models.ForeignKey(
        "accounts.Project",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="jobs",
        verbose_name=_("project"),
    )
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("asked by")
    )
    queue = models.CharField(_("queue"), max_length=80)
    status = models.CharField(_("status"), max_length=10, choices=JobStatus.choices, default=JobStatus.QUEUED)
    outcome = models.CharField(_("decided to end as"), max_length=10, choices=JobStatus.choices, blank=True)
    cancel_requested = models.BooleanField(_("asked to stop"), default=False)
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    retries = models.PositiveIntegerField(_("retries after an error"), default=0)
    crashes = models.PositiveIntegerField(_("workers lost since the last step"), default=0)
    lease_owner = models.CharField(_("held by"), max_length=100, blank=True)
    lease_until = models.DateTimeField(_("held until"), null=True, blank=True)
    due_at = models.DateTimeField(_("due"), null=True, blank=True)
    error_code = models.CharField(_("error code"), max_length=60, blank=True)
    error_message = models.TextField(_("error"), blank=True)
    created_at = models.DateTimeField(_("asked"), auto_now_add=True)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["target_type", "target_id", "-created_at"], name="job_target"),
            models.Index(fields=["status", "due_at"], name="job_status_due"),
            models.Index(fields=["status", "-finished_at"], name="job_status_ended"),
            models.Index(fields=["-created_at"], name="job_newest"),
            models.Index(fields=["project", "-created_at"], name="job_project_newest"),
            models.Index(fields=["name", "status", "-finished_at"], name="job_last_done"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=JobStatus.values), name="job_status_known"),
            models.CheckConstraint(condition=Q(name__in=JobName.values), name="job_name_known"),
        ]

    def __str__(self) -> str:
        return f"{JobName(self.name).label}: {self.target_name}"

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE

    @property
    def is_final(self) -> bool:
        return self.status in FINAL

    @property
    def is_taken_back(self) -> bool:
        """It cannot succeed any more; what it made is being removed."""
        return self.is_active and bool(self.outcome)


class JobStep(models.Model):
    """One named step. `progress` is 0 to 100; `detail` a word on what is going on, safe to show."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="steps", verbose_name=_("job"))
    position = models.PositiveSmallIntegerField(_("position"))
    name = models.CharField(_("step"), max_length=20, choices=StepName.choices)
    status = models.CharField(_("status"), max_length=10, choices=StepStatus.choices, default=StepStatus.PENDING)
    progress = models.PositiveSmallIntegerField(_("progress"), default=0)
    detail = models.CharField(_("detail"), max_length=200, blank=True)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        verbose_name = _("step")
        verbose_name_plural = _("steps")
        ordering = ["job", "position"]
        constraints = [models.UniqueConstraint(fields=["job", "position"], name="one_step_per_position")]

    def __str__(self) -> str:
        return self.get_name_display()

    @property
    def seconds(self) -> float | None:
        """How long it took; None unless it has ended."""
        if self.started_at and self.finished_at:
            return (self.finished_at - self.started_at).total_seconds()
        return None
