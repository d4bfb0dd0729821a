"""What copies of machines' disks are known by."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.copies.states import BaseStatus, Identity


class DiskBase(models.Model):
    """A machine's disk as of one moment, kept on its host for linked clones, which read from it; nobody writes to it.

    The id is that of the host's image. It is there as long as a clone needs it, or another base that was made of such a
    clone: `parent` is the base that its own source reads from, and `is_flat` one that reads from nothing at all.
    `used_at` changes with each clone that takes it: who removes it must have seen the last one.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.ForeignKey("hosts.Host", on_delete=models.PROTECT, related_name="bases", verbose_name=_("host"))
    source = models.ForeignKey(
        "machines.Machine", on_delete=models.SET_NULL, null=True, related_name="bases", verbose_name=_("made of")
    )
    snapshot = models.UUIDField(_("snapshot"), null=True, blank=True, editable=False)
    identity = models.CharField(_("identity"), max_length=10, choices=Identity.choices)
    is_flat = models.BooleanField(_("stands alone"), default=False)
    parent = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="children", verbose_name=_("reads from")
    )
    status = models.CharField(_("status"), max_length=10, choices=BaseStatus.choices, default=BaseStatus.MAKING)
    used_at = models.DateTimeField(_("used last"), default=timezone.now)
    created_at = models.DateTimeField(_("made"), auto_now_add=True)

    class Meta:
        verbose_name = _("base of linked clones")
        verbose_name_plural = _("bases of linked clones")
        ordering = ["-created_at"]
        constraints = [models.CheckConstraint(condition=Q(status__in=BaseStatus.values), name="base_status_known")]

    def __str__(self) -> str:
        return f"{self.source} {self.created_at:%Y-%m-%d %H:%M}"


class DiskCopy(models.Model):
    """Where the disk of a machine, or of an image's version, was copied from.

    Its id is that of the snapshot which is taken of a running original for as long as it is read; `is_frozen`: there
    may be that snapshot. `holds_source`: the original is busy with being copied.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    source = models.ForeignKey(
        "machines.Machine", on_delete=models.CASCADE, related_name="copies", verbose_name=_("original")
    )
    machine = models.OneToOneField(
        "machines.Machine",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="copy",
        verbose_name=_("machine"),
    )
    version = models.OneToOneField(
        "images.ImageVersion",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="copy",
        verbose_name=_("image version"),
    )
    snapshot = models.UUIDField(_("snapshot"), null=True, blank=True, editable=False)
    identity = models.CharField(_("identity"), max_length=10, choices=Identity.choices, default=Identity.NEW)
    # Of a linked clone.
    base = models.ForeignKey(
        DiskBase, on_delete=models.PROTECT, null=True, blank=True, related_name="copies", verbose_name=_("base")
    )
    is_frozen = models.BooleanField(_("has a snapshot of its own"), default=False, editable=False)
    holds_source = models.BooleanField(_("is being read"), default=False, editable=False)
    created_at = models.DateTimeField(_("asked for"), auto_now_add=True)

    class Meta:
        verbose_name = _("copy of a disk")
        verbose_name_plural = _("copies of disks")
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.source} → {self.machine or self.version}"
