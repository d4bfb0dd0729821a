"""Hypervisor hosts: how to reach them, what they have, what is promised of it, and how they were last seen."""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class DifferenceKind(models.TextChoices):
    """What does not agree between a host and the rows, where only a person can say which of them is right."""

    MISSING = "missing", _("Machine without its definition on the host")
    NO_DISK = "no_disk", _("Machine without its disk")
    SIZE = "size", _("Machine of another size than asked for")
    ELSEWHERE = "elsewhere", _("Copy of a machine that belongs on another host")
    FOREIGN = "foreign", _("Machine that Casement did not make")
    STRAY = "stray", _("Disk of no known machine")
    NO_VOLUME = "no_volume", _("Volume without its file")
    VOLUME = "volume", _("Volume that the portal does not know")
    IMAGE = "image", _("Base image that the portal does not know")
    PARENT = "parent", _("Running copy that the portal does not know")


class Host(models.Model):
    """A libvirt host. `reserved_*` is what was promised to machines; the observed columns are what the host said."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(_("name"), max_length=60, unique=True)
    uri = models.CharField(_("libvirt address"), max_length=255, help_text=_("for example qemu:///system"))
    pool_dir = models.CharField(_("folder for disks"), max_length=255)
    network = models.CharField(_("libvirt network"), max_length=60, default="casement")
    enabled = models.BooleanField(_("takes new machines"), default=True)
    vcpu_overcommit = models.FloatField(_("vCPUs promised per CPU"), default=4.0, validators=[MinValueValidator(0.1)])
    memory_overcommit = models.FloatField(
        _("memory promised per memory"), default=1.0, validators=[MinValueValidator(0.1)]
    )
    disk_overcommit = models.FloatField(
        _("disk promised per disk"),
        default=2.0,
        validators=[MinValueValidator(0.1)],
        help_text=_("disks grow only as they are written, so more may be promised than there is"),
    )
    memory_kept_mib = models.PositiveIntegerField(_("memory kept for the host (MiB)"), default=1024)
    reserved_vcpus = models.PositiveIntegerField(_("vCPUs promised"), default=0, editable=False)
    reserved_memory_mib = models.PositiveIntegerField(_("memory promised (MiB)"), default=0, editable=False)
    reserved_disk_gib = models.PositiveIntegerField(_("disk promised (GiB)"), default=0, editable=False)

    cpus = models.PositiveIntegerField(_("CPUs"), default=0, editable=False)
    memory_mib = models.PositiveIntegerField(_("memory (MiB)"), default=0, editable=False)
    storage_total_bytes = models.BigIntegerField(_("storage (bytes)"), default=0, editable=False)
    storage_free_bytes = models.BigIntegerField(_("storage free (bytes)"), default=0, editable=False)
    load = models.FloatField(_("load"), default=0.0, editable=False)
    memory_used_mib = models.PositiveIntegerField(_("memory in use (MiB)"), default=0, editable=False)
    accelerator = models.CharField(_("accelerator"), max_length=10, blank=True, editable=False)
    accelerator_reason = models.CharField(_("why this accelerator"), max_length=300, blank=True, editable=False)
    network_mode = models.CharField(_("network mode"), max_length=10, blank=True, editable=False)
    hypervisor_version = models.CharField(_("hypervisor"), max_length=60, blank=True, editable=False)
    libvirt_version = models.CharField(_("libvirt"), max_length=60, blank=True, editable=False)
    last_seen_at = models.DateTimeField(_("last seen"), null=True, editable=False)
    last_error = models.CharField(_("last error"), max_length=300, blank=True, editable=False)

    class Meta:
        verbose_name = _("host")
        verbose_name_plural = _("hosts")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def queue(self) -> str:
        """The Celery queue of work that needs this host: one that hangs stops no other."""
        return f"host.{self.name}"

    @property
    def vcpus_promisable(self) -> int:
        return int(self.cpus * self.vcpu_overcommit)

    @property
    def memory_promisable_mib(self) -> int:
        return max(int((self.memory_mib - self.memory_kept_mib) * self.memory_overcommit), 0)

    @property
    def disk_promisable_gib(self) -> int:
        return int(self.storage_total_bytes / 1024**3 * self.disk_overcommit)


class Difference(models.Model):
    """One thing on a host that does not agree with the rows. Found, kept and removed by reconciliation alone.

    `object_id` is the domain's or the image version's UUID. `detail` is what the host says of it: vcpus, memory_mib,
    disk_gib, power_state, image, owned, as far as they are known.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="differences", verbose_name=_("host"))
    kind = models.CharField(_("kind"), max_length=10, choices=DifferenceKind.choices)
    object_id = models.UUIDField(_("id on the host"))
    name = models.CharField(_("name on the host"), max_length=255, blank=True)
    detail = models.JSONField(_("what the host says"), default=dict, blank=True)
    found_at = models.DateTimeField(_("found"), auto_now_add=True)

    class Meta:
        verbose_name = _("difference")
        verbose_name_plural = _("differences")
        ordering = ["host", "kind", "name"]
        constraints = [
            models.UniqueConstraint(fields=["host", "kind", "object_id"], name="difference_once"),
            models.CheckConstraint(condition=Q(kind__in=DifferenceKind.values), name="difference_kind_known"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.name or self.object_id}"
