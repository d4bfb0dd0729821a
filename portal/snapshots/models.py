"""A machine as it was at a moment, and when such moments are kept by themselves."""

import uuid

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from portal.snapshots.querysets import SnapshotQuerySet
from portal.snapshots.states import Every, Status, Task

MOST_KEPT = 50


class Snapshot(models.Model):
    """The id names it inside the machine's disks. Its sizes are those that the machine had then.

    `parent` is what the machine came from when this was taken: the snapshot that had been taken or restored last.
    `is_current` is where the machine is now: what it does since then is in no snapshot. `held_gib` is the disk that is
    reserved for its memory; whoever sets it to nothing by a conditional UPDATE gives it back, exactly once.
    `growth_gib` is what is reserved besides, while disks that are smaller now are being restored to a larger size.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    machine = models.ForeignKey(
        "machines.Machine", on_delete=models.CASCADE, related_name="snapshots", verbose_name=_("machine")
    )
    parent = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, blank=True, related_name="children", verbose_name=_("taken after")
    )
    is_current = models.BooleanField(_("where the machine is"), default=False, editable=False)
    name = models.CharField(_("name"), max_length=63)
    description = models.TextField(_("description"), blank=True, max_length=2000)
    with_memory = models.BooleanField(_("with memory"), default=False)
    # Whether the guest's file systems were still; not known before it is taken.
    quiesced = models.BooleanField(_("file systems were still"), null=True, editable=False)
    was_running = models.BooleanField(_("taken while it ran"), default=False, editable=False)
    memory_bytes = models.BigIntegerField(_("size of its memory (bytes)"), default=0, editable=False)

    flavour = models.ForeignKey(
        "machines.Flavour", on_delete=models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    vcpus = models.PositiveSmallIntegerField(_("vCPUs"))
    memory_mib = models.PositiveIntegerField(_("memory (MiB)"))
    disk_gib = models.PositiveIntegerField(_("disk (GiB)"))
    room_vcpus = models.PositiveSmallIntegerField(_("room for vCPUs"), default=0, editable=False)
    room_memory_mib = models.PositiveIntegerField(_("room for memory (MiB)"), default=0, editable=False)
    # The MAC addresses of its further network cards, which come back with its memory.
    cards = models.JSONField(_("network cards"), default=list, blank=True, editable=False)

    held_gib = models.PositiveIntegerField(_("disk for its memory (GiB)"), default=0, editable=False)
    growth_gib = models.PositiveIntegerField(_("disk for what it restores (GiB)"), default=0, editable=False)
    status = models.CharField(_("status"), max_length=12, choices=Status.choices, default=Status.CREATING)
    task = models.CharField(_("task"), max_length=12, choices=Task.choices, default=Task.TAKING, blank=True)
    task_since = models.DateTimeField(_("busy since"), null=True, blank=True)
    schedule = models.ForeignKey(
        "SnapshotSchedule",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="snapshots",
        verbose_name=_("schedule"),
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("created by")
    )
    created_at = models.DateTimeField(_("asked for"), auto_now_add=True)
    taken_at = models.DateTimeField(_("taken"), null=True, blank=True)
    deleted_at = models.DateTimeField(_("deleted"), null=True, blank=True)

    objects = SnapshotQuerySet.as_manager()

    class Meta:
        verbose_name = _("snapshot")
        verbose_name_plural = _("snapshots")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["machine", "name"], condition=~Q(status=Status.DELETED), name="snapshot_name_once_per_machine"
            ),
            models.UniqueConstraint(
                fields=["machine"], condition=Q(is_current=True), name="machine_is_at_one_snapshot"
            ),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="snapshot_status_known"),
            models.CheckConstraint(condition=Q(task__in=Task.values), name="snapshot_task_known"),
        ]
        indexes = [models.Index(fields=["machine", "status", "-created_at"], name="snapshot_machine_status")]

    def __str__(self) -> str:
        return self.name


class SnapshotVolume(models.Model):
    """A volume that is in a snapshot, in the size that it had."""

    snapshot = models.ForeignKey(Snapshot, on_delete=models.CASCADE, related_name="volumes", verbose_name=_("snapshot"))
    volume = models.ForeignKey(
        "volumes.Volume", on_delete=models.CASCADE, related_name="snapshot_volumes", verbose_name=_("volume")
    )
    size_gib = models.PositiveIntegerField(_("size (GiB)"))

    class Meta:
        verbose_name = _("volume of a snapshot")
        verbose_name_plural = _("volumes of snapshots")
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["snapshot", "volume"], name="volume_once_per_snapshot")]

    def __str__(self) -> str:
        return str(self.volume)


class SnapshotHold(models.Model):
    """Somebody reads from a snapshot, so it must not go: `holder` is the id of what is made from it."""

    snapshot = models.ForeignKey(Snapshot, on_delete=models.CASCADE, related_name="holds", verbose_name=_("snapshot"))
    holder = models.UUIDField(_("for"), unique=True)
    created_at = models.DateTimeField(_("since"), auto_now_add=True)

    class Meta:
        verbose_name = _("snapshot in use")
        verbose_name_plural = _("snapshots in use")
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"{self.snapshot} for {self.holder}"


class SnapshotSchedule(models.Model):
    """Takes a snapshot every so often and keeps the newest `keep` of those that it took. Times are UTC.

    `weekday` is 0 for Monday. `problem` is why the one that is due could not be taken so far.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    machine = models.ForeignKey(
        "machines.Machine", on_delete=models.CASCADE, related_name="snapshot_schedules", verbose_name=_("machine")
    )
    every = models.CharField(_("how often"), max_length=5, choices=Every.choices)
    minute = models.PositiveSmallIntegerField(_("minute"), default=0, validators=[MaxValueValidator(59)])
    hour = models.PositiveSmallIntegerField(_("hour"), default=3, validators=[MaxValueValidator(23)])
    weekday = models.PositiveSmallIntegerField(_("weekday"), default=0, validators=[MaxValueValidator(6)])
    keep = models.PositiveSmallIntegerField(
        _("how many are kept"), default=7, validators=[MinValueValidator(1), MaxValueValidator(MOST_KEPT)]
    )
    next_at = models.DateTimeField(_("next one"))
    problem = models.TextField(_("problem"), blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("created by")
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("snapshot schedule")
        verbose_name_plural = _("snapshot schedules")
        ordering = ["machine", "every"]
        constraints = [
            models.UniqueConstraint(fields=["machine", "every"], name="one_schedule_of_a_kind"),
            models.CheckConstraint(condition=Q(every__in=Every.values), name="schedule_every_known"),
        ]
        indexes = [models.Index(fields=["next_at"], name="schedule_due")]

    def __str__(self) -> str:
        return f"{self.machine}: {self.get_every_display()}"
