"""What happened, as rows that are only added; and to whom outside it is told."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.events.kinds import Kind


class Event(models.Model):
    """One thing that happened. It is never changed, and goes after EVENTS_KEEP_DAYS.

    `uid` is its name outside. The subject is named by type, id and name, so that the row outlives it and knows no model
    above. `data` holds no secret. Without a project it concerns everyone, such as an image for all.
    """

    uid = models.UUIDField(_("id"), unique=True, default=uuid.uuid4, editable=False)
    at = models.DateTimeField(_("at"), default=timezone.now, db_index=True)
    kind = models.CharField(_("kind"), max_length=40)
    project = models.ForeignKey(
        "accounts.Project", on_delete=models.CASCADE, null=True, blank=True, related_name="+", verbose_name=_("project")
    )
    subject_type = models.CharField(_("type of subject"), max_length=30)
    subject_id = models.UUIDField(_("id of subject"))
    subject_name = models.CharField(_("name of subject"), max_length=150, blank=True)
    actor_name = models.CharField(_("who"), max_length=150, blank=True)
    data = models.JSONField(_("data"), default=dict, blank=True)

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["project", "-id"], name="event_project_newest"),
            models.Index(fields=["subject_type", "subject_id", "-id"], name="event_subject"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.subject_name}"

    @property
    def words(self) -> str:
        return str(Kind(self.kind).label) if self.kind in Kind.values else self.kind


class Webhook(models.Model):
    """An address that a project's events are sent to. `kinds` that is empty means all of them.

    `old_secret` signs beside `secret` until `old_secret_until`, so that a receiver can change over in between.
    `failing_since`: nothing that was sent has arrived since then. `stopped_reason` is set when the portal, and not a
    person, switched it off; it is safe to show.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(
        "accounts.Project", on_delete=models.CASCADE, related_name="webhooks", verbose_name=_("project")
    )
    name = models.CharField(_("name"), max_length=100)
    url = models.CharField(_("address"), max_length=2000)
    secret = models.TextField(_("secret (sealed)"), editable=False)
    old_secret = models.TextField(_("secret before (sealed)"), blank=True, editable=False)
    old_secret_until = models.DateTimeField(_("secret before signs until"), null=True, blank=True, editable=False)
    kinds = models.JSONField(_("kinds"), default=list, blank=True)
    enabled = models.BooleanField(_("on"), default=True)
    failing_since = models.DateTimeField(_("failing since"), null=True, blank=True)
    stopped_reason = models.CharField(_("why it was stopped"), max_length=300, blank=True)
    created_at = models.DateTimeField(_("added"), auto_now_add=True)
    created_by_name = models.CharField(_("added by"), max_length=150, blank=True)

    class Meta:
        verbose_name = _("webhook")
        verbose_name_plural = _("webhooks")
        ordering = ["name", "created_at"]
        indexes = [models.Index(fields=["project", "enabled"], name="webhook_project_enabled")]

    def __str__(self) -> str:
        return self.name

    @property
    def changes_over(self) -> bool:
        """Both secrets sign now."""
        return self.old_secret_until is not None and self.old_secret_until > timezone.now()


class DeliveryStatus(models.TextChoices):
    PENDING = "pending", _("To be sent")
    DONE = "done", _("Arrived")
    FAILED = "failed", _("Given up")


class Delivery(models.Model):
    """One event for one webhook. A worker holds it while `lease_owner` is its name and `lease_until` lies ahead.

    `due_at` says when it is tried next. `answer` is the beginning of what came back last, as text.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries", verbose_name=_("webhook"))
    event = models.ForeignKey(Event, on_delete=models.CASCADE, related_name="deliveries", verbose_name=_("event"))
    status = models.CharField(
        _("status"), max_length=10, choices=DeliveryStatus.choices, default=DeliveryStatus.PENDING
    )
    attempts = models.PositiveIntegerField(_("attempts"), default=0)
    due_at = models.DateTimeField(_("due"), default=timezone.now)
    lease_owner = models.CharField(_("held by"), max_length=100, blank=True)
    lease_until = models.DateTimeField(_("held until"), null=True, blank=True)
    tried_at = models.DateTimeField(_("tried last"), null=True, blank=True)
    took_ms = models.PositiveIntegerField(_("took (ms)"), default=0)
    answer_status = models.PositiveIntegerField(_("answer's status"), null=True, blank=True)
    answer = models.TextField(_("answer"), blank=True)
    error = models.CharField(_("error"), max_length=300, blank=True)

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ["-event_id"]
        constraints = [
            models.UniqueConstraint(fields=["webhook", "event"], name="one_delivery_per_event"),
            models.CheckConstraint(condition=Q(status__in=DeliveryStatus.values), name="delivery_status_known"),
        ]
        indexes = [
            models.Index(fields=["status", "due_at"], name="delivery_due"),
            models.Index(fields=["webhook", "status", "due_at"], name="delivery_webhook_due"),
        ]

    def __str__(self) -> str:
        return f"{self.event} → {self.webhook}"

    @property
    def is_waiting(self) -> bool:
        return self.status == DeliveryStatus.PENDING
