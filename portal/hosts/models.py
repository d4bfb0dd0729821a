"""Hypervisor hosts: how to reach them, what they have, what is promised of it, and how they were last seen."""

import uuid

from django.core.validators import MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _


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
