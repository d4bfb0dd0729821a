"""A disk as an object of its own, in the pool of one host."""

import uuid

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from portal.accounts.quota import Amount
from portal.volumes.querysets import VolumeQuerySet
from portal.volumes.states import Status, Task


class Format(models.TextChoices):
    """How its bytes lie in the pool. What is read is never guessed from the bytes: a guest could write others."""

    QCOW2 = "qcow2", _("qcow2 file")


class Volume(models.Model):
    """The id names its file on the host. Which machine has it is the machine's to say (`attachment`).

    `holds_quota` is true while it counts against its project's quota and its host's capacity; whoever turns it off by
    a conditional UPDATE gives both back, exactly once. `wanted_gib` is the size that it grows to just now.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(
        "accounts.Project", on_delete=models.PROTECT, related_name="volumes", verbose_name=_("project")
    )
    name = models.CharField(_("name"), max_length=63)
    host = models.ForeignKey("hosts.Host", on_delete=models.PROTECT, related_name="volumes", verbose_name=_("host"))
    size_gib = models.PositiveIntegerField(_("size (GiB)"), validators=[MinValueValidator(1)])
    wanted_gib = models.PositiveIntegerField(_("grows to (GiB)"), null=True, blank=True, editable=False)
    format = models.CharField(_("format"), max_length=10, choices=Format.choices, default=Format.QCOW2)
    holds_quota = models.BooleanField(_("counts against the quota"), default=True, editable=False)
    # One person's own files: only they are shown it, and only the portal attaches, detaches and deletes it.
    personal = models.BooleanField(_("somebody's own"), default=False, editable=False)
    # What makes a request unique, so that a double click or a retry makes one volume.
    request_key = models.UUIDField(_("request key"), unique=True, default=uuid.uuid4, editable=False)
    status = models.CharField(_("status"), max_length=12, choices=Status.choices, default=Status.CREATING)
    task = models.CharField(_("task"), max_length=12, choices=Task.choices, default=Task.NONE, blank=True)
    task_since = models.DateTimeField(_("busy since"), null=True, blank=True)
    error_message = models.TextField(_("error"), blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("created by")
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    deleted_at = models.DateTimeField(_("deleted"), null=True, blank=True)

    objects = VolumeQuerySet.as_manager()

    class Meta:
        verbose_name = _("volume")
        verbose_name_plural = _("volumes")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name"], condition=~Q(status=Status.DELETED), name="volume_name_once_per_project"
            ),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="volume_status_known"),
            models.CheckConstraint(condition=Q(task__in=Task.values), name="volume_task_known"),
        ]
        indexes = [
            models.Index(fields=["project", "status", "-created_at"], name="volume_project_status"),
            models.Index(fields=["host", "status"], name="volume_host_status"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def amount(self) -> Amount:
        return disk_amount(self.size_gib)

    @property
    def serial(self) -> str:
        """How the guest inside tells it from others: /dev/disk/by-id/virtio-<serial>. Virtio has room for 20."""
        return self.pk.hex[:20]


def disk_amount(gib: int) -> Amount:
    """What so much of disk takes of a quota."""
    return Amount(machines=0, vcpus=0, memory_mib=0, disk_gib=gib)
