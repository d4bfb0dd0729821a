"""Who looked at which screen, when, from where, and how it ended."""

import uuid

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class ConsoleSession(models.Model):
    """One screen in one browser tab. The names are kept beside the links, so the row outlives person and machine."""

    class Mode(models.TextChoices):
        CONTROL = "control", _("Control")
        VIEW = "view", _("Watch only")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="console_sessions",
        verbose_name=_("person"),
    )
    user_name = models.CharField(_("name of person"), max_length=150)
    machine = models.ForeignKey(
        "machines.Machine",
        on_delete=models.SET_NULL,
        null=True,
        related_name="console_sessions",
        verbose_name=_("machine"),
    )
    machine_name = models.CharField(_("name of machine"), max_length=150)
    mode = models.CharField(_("mode"), max_length=10, choices=Mode.choices)
    request_ip = models.GenericIPAddressField(_("from"), null=True, blank=True)
    started_at = models.DateTimeField(_("started"), auto_now_add=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    bytes_up = models.PositiveBigIntegerField(_("bytes from the browser"), default=0)
    bytes_down = models.PositiveBigIntegerField(_("bytes to the browser"), default=0)
    ended_step = models.CharField(_("ended at"), max_length=20, blank=True)
    ended_reason = models.CharField(_("reason"), max_length=60, blank=True)

    class Meta:
        verbose_name = _("console session")
        verbose_name_plural = _("console sessions")
        ordering = ["-started_at"]
        indexes = [
            models.Index(fields=["machine", "-started_at"], name="console_machine"),
            models.Index(fields=["ended_at"], name="console_ended"),
        ]

    def __str__(self) -> str:
        return f"{self.user_name}: {self.machine_name}"
