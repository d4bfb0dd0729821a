"""What the API itself keeps: answers to requests that may come again."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Answered(models.Model):
    """A POST that carried an Idempotency-Key, and its answer, which is given again when the same one comes again.

    The row is written in the transaction of what the request did, so there is never the one without the other. The body
    is sealed: it may hold a secret that is shown once.
    """

    token = models.ForeignKey("accounts.ApiToken", on_delete=models.CASCADE, verbose_name=_("token"))
    key = models.CharField(_("key"), max_length=255)
    fingerprint = models.CharField(_("hash of the request"), max_length=64)
    status = models.PositiveSmallIntegerField(_("status"), default=0)
    location = models.CharField(_("location"), max_length=255, blank=True)
    body = models.TextField(_("body (sealed)"), blank=True, editable=False)
    created_at = models.DateTimeField(_("at"), auto_now_add=True, db_index=True)

    class Meta:
        verbose_name = _("answered request")
        verbose_name_plural = _("answered requests")
        constraints = [models.UniqueConstraint(fields=["token", "key"], name="one_answer_per_key")]

    def __str__(self) -> str:
        return f"{self.key}: {self.status}"
