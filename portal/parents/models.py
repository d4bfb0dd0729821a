"""Parents: running systems that were captured once, and which new machines are forked from in a moment."""

import uuid

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts.quota import Amount
from portal.parents.states import CURRENT, State


class Parent(models.Model):
    """A captured system of an image version, in one size, on one host. The id is that of its folder there.

    `holds_capacity` is true while its memory and disk count on the host; whoever turns it off by a conditional UPDATE
    gives both back, exactly once. `wanted_at`: who wants it says so again and again; when nobody has for a while it
    goes. `made_for` is what it was captured by: another QEMU may not be able to take its memory up. `failures` are
    those in a row, and `retry_at` is when it is tried again. `settling` is what was seen of the starting guest last.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    image_version = models.ForeignKey(
        "images.ImageVersion", on_delete=models.PROTECT, related_name="parents", verbose_name=_("image version")
    )
    host = models.ForeignKey("hosts.Host", on_delete=models.PROTECT, related_name="parents", verbose_name=_("host"))
    vcpus = models.PositiveSmallIntegerField(_("vCPUs"))
    memory_mib = models.PositiveIntegerField(_("memory (MiB)"))
    disk_gib = models.PositiveIntegerField(_("disk (GiB)"))
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.WANTED)
    reason = models.TextField(_("why"), blank=True)
    holds_capacity = models.BooleanField(_("counts on the host"), default=False, editable=False)
    made_for = models.CharField(_("captured by"), max_length=120, blank=True)
    memory_bytes = models.BigIntegerField(_("memory file (bytes)"), default=0, editable=False)
    failures = models.PositiveSmallIntegerField(_("failures in a row"), default=0, editable=False)
    retry_at = models.DateTimeField(_("tried again"), null=True, blank=True, editable=False)
    settling = models.JSONField(_("what was seen last"), default=dict, blank=True, editable=False)
    wanted_at = models.DateTimeField(_("wanted last"), default=timezone.now)
    captured_at = models.DateTimeField(_("captured"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("used last"), null=True, blank=True)
    deleted_at = models.DateTimeField(_("deleted"), null=True, blank=True)
    created_at = models.DateTimeField(_("asked for"), auto_now_add=True)

    class Meta:
        verbose_name = _("running copy to fork from")
        verbose_name_plural = _("running copies to fork from")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["image_version", "host", "vcpus", "memory_mib", "disk_gib"],
                condition=Q(state__in=CURRENT),
                name="parent_once_per_host",
            ),
            models.CheckConstraint(condition=Q(state__in=State.values), name="parent_state_known"),
        ]
        indexes = [models.Index(fields=["host", "state"], name="parent_host_state")]

    def __str__(self) -> str:
        return f"{self.image_version} on {self.host}"

    @property
    def amount(self) -> Amount:
        """What it takes of its host: its memory, and as files its disk, its memory and that once more as libvirt has
        it, for a host where the fork does not work. Its processors stand still."""
        return Amount(
            machines=0,
            vcpus=0,
            memory_mib=self.memory_mib,
            disk_gib=self.disk_gib + 2 * -(-self.memory_mib // 1024),
        )


class ParentWish(models.Model):
    """An operator wants machines of an image, in one size, to be forked: of its newest version, on the hosts that run
    machines of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    image = models.ForeignKey(
        "images.Image", on_delete=models.CASCADE, related_name="parent_wishes", verbose_name=_("image")
    )
    vcpus = models.PositiveSmallIntegerField(_("vCPUs"), validators=[MinValueValidator(1)])
    memory_mib = models.PositiveIntegerField(_("memory (MiB)"), validators=[MinValueValidator(64)])
    disk_gib = models.PositiveIntegerField(_("disk (GiB)"), validators=[MinValueValidator(1)])
    # Why a host that should have one has none: it has no room. Empty while all is as it should be.
    note = models.TextField(_("what stands in the way"), blank=True, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("asked by")
    )
    created_at = models.DateTimeField(_("asked for"), auto_now_add=True)

    class Meta:
        verbose_name = _("wish for a running copy")
        verbose_name_plural = _("wishes for running copies")
        ordering = ["image", "memory_mib"]
        constraints = [
            models.UniqueConstraint(fields=["image", "vcpus", "memory_mib", "disk_gib"], name="parent_wish_once")
        ]

    def __str__(self) -> str:
        return f"{self.image} {self.vcpus}/{self.memory_mib}/{self.disk_gib}"
