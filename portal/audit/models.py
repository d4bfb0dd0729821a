"""Append-only: who did what to which object, from where."""

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class Event(models.Model):
    """One thing that was done. The actor's name is kept beside the link, so the row outlives the account."""

    at = models.DateTimeField(_("at"), auto_now_add=True, db_index=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("who")
    )
    actor_name = models.CharField(_("name of who"), max_length=150, blank=True)
    action = models.CharField(_("action"), max_length=60)
    target_type = models.CharField(_("type of target"), max_length=30)
    target_id = models.CharField(_("id of target"), max_length=40)
    target_name = models.CharField(_("name of target"), max_length=150, blank=True)
    project = models.ForeignKey(
        "accounts.Project", on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("project")
    )
    detail = models.JSONField(_("detail"), default=dict, blank=True)
    request_ip = models.GenericIPAddressField(_("from"), null=True, blank=True)

    class Meta:
        verbose_name = _("audit event")
        verbose_name_plural = _("audit events")
        ordering = ["-at", "-pk"]
        indexes = [models.Index(fields=["target_type", "target_id", "-at"], name="audit_target")]

    def __str__(self) -> str:
        return f"{self.actor_name or '-'} {self.action} {self.target_name or self.target_id}"
