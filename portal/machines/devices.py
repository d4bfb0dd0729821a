"""What is plugged into a machine: disks and network cards, as rows. `models` brings them to Django."""

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class Plug(models.TextChoices):
    """What is being done to a device just now. The machine's own task says the same: one device at a time."""

    NONE = "", _("nothing")
    ADDING = "adding", _("being attached")
    REMOVING = "removing", _("being detached")
    GROWING = "growing", _("growing")
    LIMITING = "limiting", _("being limited")


class Attachment(models.Model):
    """A volume that a machine has; without a volume, what is set for the machine's root disk.

    The row is there from the request on, and goes only when the host has said that the machine has the volume no more.
    `boot` is the disk's turn at a start, 1 first; 0 everywhere is the root disk first. `iops` and `bytes_per_s` limit
    reading and writing together; 0 is no limit. `wanted_gib` is the size that it grows to just now. `leaving_since`:
    the guest was asked to let it go, and had not by then; it may still.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    machine = models.ForeignKey(
        "machines.Machine", on_delete=models.CASCADE, related_name="attachments", verbose_name=_("machine")
    )
    volume = models.OneToOneField(
        "volumes.Volume",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="attachment",
        verbose_name=_("volume"),
    )
    boot = models.PositiveSmallIntegerField(_("turn at a start"), default=0)
    delete_with_machine = models.BooleanField(_("deleted with the machine"), default=False)
    iops = models.PositiveIntegerField(_("operations per second at most"), default=0)
    bytes_per_s = models.BigIntegerField(_("bytes per second at most"), default=0)
    wanted_gib = models.PositiveIntegerField(_("grows to (GiB)"), null=True, blank=True, editable=False)
    leaving_since = models.DateTimeField(_("asked to go"), null=True, blank=True, editable=False)
    task = models.CharField(_("task"), max_length=10, choices=Plug.choices, default=Plug.NONE, blank=True)
    created_at = models.DateTimeField(_("attached"), auto_now_add=True)

    class Meta:
        verbose_name = _("attachment")
        verbose_name_plural = _("attachments")
        ordering = ["machine", "created_at"]
        constraints = [
            models.UniqueConstraint(fields=["machine"], condition=Q(volume=None), name="one_root_disk_per_machine"),
            models.CheckConstraint(condition=Q(task__in=Plug.values), name="attachment_task_known"),
        ]
        # Each host is asked about these every few seconds, and there is hardly ever one.
        indexes = [
            models.Index(fields=["machine"], condition=Q(leaving_since__isnull=False), name="attachment_leaving")
        ]

    def __str__(self) -> str:
        return str(self.volume) if self.volume is not None else str(_("Root disk"))


class Disc(models.Model):
    """An ISO in a disc drive of a machine; an empty drive has no row.

    The row is there from the request on, and goes only when the host has said that the drive is empty. `force`: the
    guest is not asked to let it go.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    machine = models.ForeignKey(
        "machines.Machine", on_delete=models.CASCADE, related_name="discs", verbose_name=_("machine")
    )
    slot = models.PositiveSmallIntegerField(_("drive"))
    iso = models.ForeignKey("isos.Iso", on_delete=models.PROTECT, related_name="discs", verbose_name=_("ISO"))
    force = models.BooleanField(_("by force"), default=False, editable=False)
    task = models.CharField(_("task"), max_length=10, choices=Plug.choices, default=Plug.NONE, blank=True)
    created_at = models.DateTimeField(_("inserted"), auto_now_add=True)

    class Meta:
        verbose_name = _("disc")
        verbose_name_plural = _("discs")
        ordering = ["machine", "slot"]
        constraints = [
            models.UniqueConstraint(fields=["machine", "slot"], name="one_disc_per_drive"),
            models.CheckConstraint(condition=Q(task__in=Plug.values), name="disc_task_known"),
        ]

    def __str__(self) -> str:
        return str(self.iso)


class NetworkCard(models.Model):
    """A network card besides the first one, whose address is the machine's own `mac`. `leaving_since`: as of disks."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    machine = models.ForeignKey(
        "machines.Machine", on_delete=models.CASCADE, related_name="cards", verbose_name=_("machine")
    )
    mac = models.CharField(_("MAC address"), max_length=17, unique=True)
    network = models.CharField(_("network"), max_length=60, blank=True)
    addresses = models.JSONField(_("addresses"), default=list, blank=True)
    leaving_since = models.DateTimeField(_("asked to go"), null=True, blank=True, editable=False)
    task = models.CharField(_("task"), max_length=10, choices=Plug.choices, default=Plug.NONE, blank=True)
    created_at = models.DateTimeField(_("added"), auto_now_add=True)

    class Meta:
        verbose_name = _("network card")
        verbose_name_plural = _("network cards")
        ordering = ["machine", "created_at"]
        constraints = [models.CheckConstraint(condition=Q(task__in=Plug.values), name="card_task_known")]
        indexes = [models.Index(fields=["machine"], condition=Q(leaving_since__isnull=False), name="card_leaving")]

    def __str__(self) -> str:
        return self.mac
