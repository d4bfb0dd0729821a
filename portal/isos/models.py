"""ISOs: discs that machines are installed or rescued from. One is an immutable file."""

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from portal.accounts.quota import Amount
from portal.isos.querysets import IsoQuerySet
from portal.uploads.models import upload_path


class Role(models.TextChoices):
    """What it is for: offered as the first disc of a new machine, or as the second one beside it."""

    INSTALLER = "installer", _("Installer or live system")
    DRIVERS = "drivers", _("Drivers, such as virtio for Windows")


class Status(models.TextChoices):
    CHECKING = "checking", _("Being checked")
    READY = "ready", _("Ready")
    FAILED = "failed", _("Failed")
    DELETING = "deleting", _("Being deleted")


class Iso(models.Model):
    """`project` is empty for one that everyone may use. The id is that of the upload it came as, and names its file.

    `holds_quota` is true while it counts as disk against its project's quota; whoever turns it off by a conditional
    UPDATE gives that back, exactly once. `expected_sha256` is what its sender said that it has.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(
        "accounts.Project",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="isos",
        verbose_name=_("project"),
    )
    name = models.CharField(_("name"), max_length=100)
    role = models.CharField(_("what it is for"), max_length=10, choices=Role.choices, default=Role.INSTALLER)
    status = models.CharField(_("status"), max_length=10, choices=Status.choices, default=Status.CHECKING)
    size_bytes = models.BigIntegerField(_("size (bytes)"), default=0)
    sha256 = models.CharField(_("SHA-256"), max_length=64, blank=True)
    expected_sha256 = models.CharField(_("expected SHA-256"), max_length=64, blank=True)
    upload_name = models.CharField(_("name of the upload"), max_length=255, blank=True)
    holds_quota = models.BooleanField(_("counts against the quota"), default=False, editable=False)
    error = models.TextField(_("error"), blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("added by")
    )
    created_at = models.DateTimeField(_("added"), auto_now_add=True)

    objects = IsoQuerySet.as_manager()

    class Meta:
        verbose_name = _("ISO")
        verbose_name_plural = _("ISOs")
        ordering = ["name", "created_at"]
        constraints = [
            models.CheckConstraint(condition=Q(status__in=Status.values), name="iso_status_known"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="iso_role_known"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> Path:
        return Path(settings.ISOS_DIR) / f"{self.pk}.iso"

    @property
    def upload_path(self) -> Path:
        return upload_path(self.pk)

    @property
    def amount(self) -> Amount:
        """As disk, in whole GiB."""
        return Amount(machines=0, vcpus=0, memory_mib=0, disk_gib=-(-self.size_bytes // 1024**3))
