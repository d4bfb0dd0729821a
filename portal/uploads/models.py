"""A file on its way here, in pieces."""

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Upload(models.Model):
    """The file's size says how much has arrived: bytes are only ever added at its end.

    What becomes of it takes over its id and with that its file, in the transaction that removes this row.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, verbose_name=_("person"))
    name = models.CharField(_("name of the file"), max_length=255)
    size_bytes = models.BigIntegerField(_("size (bytes)"))
    created_at = models.DateTimeField(_("begun"), auto_now_add=True)
    touched_at = models.DateTimeField(_("last piece"), default=timezone.now, db_index=True)

    class Meta:
        verbose_name = _("upload")
        verbose_name_plural = _("uploads")
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        return upload_path(self.pk)

    @property
    def offset(self) -> int:
        """How many bytes have arrived."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def percent(self) -> int:
        return self.offset * 100 // max(self.size_bytes, 1)

    @property
    def is_whole(self) -> bool:
        return self.offset == self.size_bytes


def upload_path(pk: uuid.UUID) -> Path:
    """Made from the id alone, never from what the file was called where it came from."""
    return Path(settings.UPLOADS_DIR) / f"{pk}.upload"
