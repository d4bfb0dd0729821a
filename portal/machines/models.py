"""A desktop or server, and the sizes it comes in."""

import uuid

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from portal.accounts.quota import Amount
from portal.images.models import Kind
from portal.machines.querysets import GrantQuerySet, MachineQuerySet
from portal.machines.states import HAS_SCREEN, LIVE, PowerState, Status, Task


class Flavour(models.Model):
    """A size that people choose from. Existing machines keep what they were made with."""

    name = models.SlugField(_("short name"), max_length=40, unique=True)
    title = models.CharField(_("name"), max_length=60)
    vcpus = models.PositiveSmallIntegerField(_("vCPUs"), validators=[MinValueValidator(1), MaxValueValidator(64)])
    memory_mib = models.PositiveIntegerField(_("memory (MiB)"), validators=[MinValueValidator(64)])
    disk_gib = models.PositiveIntegerField(_("disk (GiB)"), validators=[MinValueValidator(1)])
    position = models.PositiveSmallIntegerField(_("position"), default=0)
    enabled = models.BooleanField(_("offered"), default=True)

    class Meta:
        verbose_name = _("flavour")
        verbose_name_plural = _("flavours")
        ordering = ["position", "memory_mib"]

    def __str__(self) -> str:
        return self.title

    @property
    def amount(self) -> Amount:
        return Amount(machines=1, vcpus=self.vcpus, memory_mib=self.memory_mib, disk_gib=self.disk_gib)


class Firmware(models.TextChoices):
    """What a machine that is made from an ISO starts by; others go by their image. As the driver's words."""

    BIOS = "bios", _("BIOS")
    UEFI = "uefi", _("UEFI")
    UEFI_SECURE = "uefi_secure", _("UEFI with Secure Boot")


class MadeBy(models.TextChoices):
    """How a machine came to run first. Nothing is said of one for which no running copy was ever kept."""

    NOTHING = "", _("not told")
    FORK = "fork", _("Forked from a running one")
    RESTORE = "restore", _("Restored from a running one")
    BOOT = "boot", _("Booted from its image")


class Machine(models.Model):
    """The id is the libvirt domain's UUID as well. `console_secret` and `login_password` are sealed.

    `holds_quota` is true while the machine counts against its project's quota and its host's capacity; whoever turns it
    off by a conditional UPDATE gives both back, exactly once.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(
        "accounts.Project", on_delete=models.PROTECT, related_name="machines", verbose_name=_("project")
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("owner")
    )
    name = models.CharField(_("name"), max_length=63)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices)
    # Neither is known of a machine that was found on a host and taken over.
    image_version = models.ForeignKey(
        "images.ImageVersion",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="machines",
        verbose_name=_("image version"),
    )
    # What it is being rebuilt from, until its disk is made of that.
    next_version = models.ForeignKey(
        "images.ImageVersion",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="rebuilding",
        verbose_name=_("image version to come"),
    )
    # Whose memory it began with, and whose disk its own reads from. `forked_at` is when it was let begin.
    parent = models.ForeignKey(
        "parents.Parent",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="machines",
        editable=False,
        verbose_name=_("forked from"),
    )
    made_by = models.CharField(
        _("made by"), max_length=10, choices=MadeBy.choices, default=MadeBy.NOTHING, blank=True, editable=False
    )
    made_by_reason = models.TextField(_("why so"), blank=True, editable=False)
    forked_at = models.DateTimeField(_("forked"), null=True, blank=True, editable=False)
    cloned_from = models.ForeignKey(
        "self", on_delete=models.SET_NULL, null=True, blank=True, related_name="+", verbose_name=_("cloned from")
    )
    flavour = models.ForeignKey(Flavour, on_delete=models.PROTECT, null=True, blank=True, verbose_name=_("flavour"))
    vcpus = models.PositiveSmallIntegerField(_("vCPUs"))
    memory_mib = models.PositiveIntegerField(_("memory (MiB)"))
    disk_gib = models.PositiveIntegerField(_("disk (GiB)"))
    host = models.ForeignKey("hosts.Host", on_delete=models.PROTECT, related_name="machines", verbose_name=_("host"))
    holds_quota = models.BooleanField(_("counts against the quota"), default=True, editable=False)
    # What makes a request unique, so that a double click or a retry makes one machine; empty machines have none.
    request_key = models.UUIDField(_("request key"), unique=True, default=uuid.uuid4, editable=False)

    # Somebody else made its definition; it is used as it is and never written anew.
    keeps_definition = models.BooleanField(_("keeps its own definition"), default=False, editable=False)

    status = models.CharField(_("status"), max_length=12, choices=Status.choices, default=Status.REQUESTED)
    task = models.CharField(_("task"), max_length=12, choices=Task.choices, default=Task.NONE, blank=True)
    task_since = models.DateTimeField(_("busy since"), null=True, blank=True)
    power_state = models.CharField(_("power"), max_length=10, choices=PowerState.choices, default=PowerState.SHUT_OFF)
    power_state_at = models.DateTimeField(_("power as of"), null=True, blank=True)
    # Its host answers, and does not have it.
    missing_since = models.DateTimeField(_("missing since"), null=True, blank=True, editable=False)
    error_message = models.TextField(_("error"), blank=True)
    description = models.TextField(_("description"), blank=True, max_length=2000)
    protected = models.BooleanField(_("protected from deletion"), default=False)

    # The size that was asked for and is not there yet: of a resize under way, or of the next start.
    wanted_flavour = models.ForeignKey(
        Flavour, on_delete=models.PROTECT, null=True, blank=True, related_name="+", editable=False
    )
    wanted_vcpus = models.PositiveSmallIntegerField(_("vCPUs to come"), null=True, blank=True, editable=False)
    wanted_memory_mib = models.PositiveIntegerField(_("memory to come (MiB)"), null=True, blank=True, editable=False)
    # The most that its definition lets it have while it runs; 0 where that is not known.
    room_vcpus = models.PositiveSmallIntegerField(_("room for vCPUs"), default=0, editable=False)
    room_memory_mib = models.PositiveIntegerField(_("room for memory (MiB)"), default=0, editable=False)
    # Its memory lies in a file of its host, for which so much disk is reserved.
    saved_at = models.DateTimeField(_("hibernated"), null=True, blank=True, editable=False)
    saved_gib = models.PositiveIntegerField(_("disk for its memory (GiB)"), default=0, editable=False)

    login_user = models.CharField(_("user in the guest"), max_length=32)
    login_password = models.TextField(_("first password (sealed)"), blank=True, editable=False)
    ssh_key = models.TextField(_("SSH key"), blank=True)
    # What is on its way into the guest.
    next_password = models.TextField(_("next password (sealed)"), blank=True, editable=False)
    next_ssh_key = models.TextField(_("next SSH key"), blank=True, editable=False)
    password_changed_at = models.DateTimeField(_("password set anew"), null=True, blank=True, editable=False)
    user_data = models.TextField(_("cloud-config of its owner (sealed)"), blank=True, editable=False)
    mac = models.CharField(_("MAC address"), max_length=17, unique=True)
    addresses = models.JSONField(_("addresses"), default=list, blank=True)
    genid = models.UUIDField(_("generation id"), default=uuid.uuid4, editable=False)
    console_socket = models.CharField(_("console socket"), max_length=255, blank=True, editable=False)
    console_secret = models.TextField(_("console secret (sealed)"), blank=True, editable=False)
    # Of the run that `console_socket` is of; a machine without a screen to show has no serial console either.
    serial_socket = models.CharField(_("serial port's socket"), max_length=255, blank=True, editable=False)
    # Waiting for a slow guest ends here; set anew at each start.
    boot_deadline = models.DateTimeField(_("must be up by"), null=True, blank=True, editable=False)

    # Empty: as its image says. `iso_name` is that of the disc which it was to be installed from.
    firmware = models.CharField(_("firmware"), max_length=12, choices=Firmware.choices, blank=True)
    tpm = models.BooleanField(_("TPM 2.0"), default=False, editable=False)
    iso_name = models.CharField(_("installed from"), max_length=100, blank=True, editable=False)
    boot_disc = models.BooleanField(_("starts from its disc"), default=False, editable=False)
    # It starts from one of these instead of its own disk. The password is sealed; the key is that of the guest's seed.
    rescue_version = models.ForeignKey(
        "images.ImageVersion",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="rescues",
        editable=False,
        verbose_name=_("rescued by image"),
    )
    rescue_iso = models.ForeignKey(
        "isos.Iso",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="rescues",
        editable=False,
        verbose_name=_("rescued by ISO"),
    )
    rescue_key = models.UUIDField(_("rescue id"), null=True, blank=True, editable=False)
    rescue_password = models.TextField(_("rescue system's password (sealed)"), blank=True, editable=False)
    rescued_at = models.DateTimeField(_("in rescue since"), null=True, blank=True, editable=False)

    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    ready_at = models.DateTimeField(_("ready"), null=True, blank=True)
    deleted_at = models.DateTimeField(_("deleted"), null=True, blank=True)
    binned_at = models.DateTimeField(_("in the bin since"), null=True, blank=True, editable=False)
    purge_at = models.DateTimeField(_("deleted for good on"), null=True, blank=True, editable=False)

    objects = MachineQuerySet.as_manager()

    class Meta:
        verbose_name = _("machine")
        verbose_name_plural = _("machines")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "name"], condition=~Q(status=Status.DELETED), name="machine_name_once_per_project"
            ),
            models.CheckConstraint(condition=Q(status__in=Status.values), name="machine_status_known"),
            models.CheckConstraint(condition=Q(task__in=Task.values), name="machine_task_known"),
            models.CheckConstraint(condition=Q(power_state__in=PowerState.values), name="machine_power_known"),
            models.CheckConstraint(condition=Q(made_by__in=MadeBy.values), name="machine_made_by_known"),
        ]
        indexes = [
            models.Index(fields=["project", "status", "-created_at"], name="machine_project_status"),
            models.Index(fields=["host", "status"], name="machine_host_status"),
            # The list of everyone's machines, newest first; and of those in a state.
            models.Index(fields=["-created_at"], name="machine_newest"),
            models.Index(fields=["status", "power_state", "-created_at"], name="machine_state_newest"),
            # The same by name, for who asks for that order.
            models.Index(fields=["name", "id"], name="machine_by_name"),
            # What lists are filtered by, so that counting what matches reads no whole rows.
            models.Index(fields=["status", "kind", "task", "name", "owner"], name="machine_filters"),
            models.Index(fields=["purge_at"], condition=Q(status=Status.BINNED), name="machine_purge_due"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def amount(self) -> Amount:
        """What it holds: the larger of the size that it has and the one to come; in the bin, its disk alone."""
        if self.status == Status.BINNED:
            return Amount(machines=0, vcpus=0, memory_mib=0, disk_gib=self.disk_gib)
        return Amount(
            machines=1,
            vcpus=max(self.vcpus, self.wanted_vcpus or 0),
            memory_mib=max(self.memory_mib, self.wanted_memory_mib or 0),
            disk_gib=self.disk_gib + self.saved_gib,
        )

    @property
    def is_live(self) -> bool:
        return self.status in LIVE

    @property
    def is_hibernated(self) -> bool:
        return self.saved_at is not None

    @property
    def is_in_rescue(self) -> bool:
        """From the request on: its definition may be that of the rescue system."""
        return self.rescue_version_id is not None or self.rescue_iso_id is not None

    @property
    def rescue_name(self) -> str:
        """What it is rescued by."""
        system = self.rescue_version or self.rescue_iso
        return str(system) if system else ""

    @property
    def rescue_user(self) -> str:
        """As whom one signs in to the rescue system, if it is an image."""
        return self.login_user or "rescue"

    @property
    def waits_for_restart(self) -> bool:
        """Another size comes with its next start."""
        return self.wanted_vcpus is not None and self.task == Task.NONE

    @property
    def domain_name(self) -> str:
        """What host tools show: made from the id, never from what a person typed."""
        return f"casement-{self.pk}"

    @property
    def has_screen(self) -> bool:
        return self.power_state in HAS_SCREEN and bool(self.console_socket)


class Grant(models.Model):
    """Lets a person see one machine and work on its screen, whether or not they are in its project; nothing else.

    Without an `until` it lasts until it is deleted. Open screens of who has lost it end within two seconds.
    """

    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="grants", verbose_name=_("machine"))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="machine_grants", verbose_name=_("person")
    )
    until = models.DateTimeField(_("until"), null=True, blank=True)
    created_at = models.DateTimeField(_("given"), auto_now_add=True)

    objects = GrantQuerySet.as_manager()

    class Meta:
        verbose_name = _("grant of a machine")
        verbose_name_plural = _("grants of machines")
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["machine", "user"], name="one_grant_per_person_and_machine")]

    def __str__(self) -> str:
        return f"{self.user}: {self.machine}"


class MachineLabel(models.Model):
    """A word that people sort machines by."""

    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="labels", verbose_name=_("machine"))
    name = models.CharField(_("label"), max_length=40)

    class Meta:
        verbose_name = _("label")
        verbose_name_plural = _("labels")
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["machine", "name"], name="label_once_per_machine")]
        indexes = [models.Index(fields=["name"], name="label_name")]

    def __str__(self) -> str:
        return self.name


class Batch(models.Model):
    """The same asked of many machines at once, and who asked. The id is that of the form: sent twice, done once."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, verbose_name=_("asked by"))
    action = models.CharField(_("action"), max_length=20)
    created_at = models.DateTimeField(_("asked"), auto_now_add=True)

    class Meta:
        verbose_name = _("request for many")
        verbose_name_plural = _("requests for many")
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.action} {self.pk}"


class BatchItem(models.Model):
    """What became of it at one machine: the job that does it, or why it was refused."""

    batch = models.ForeignKey(Batch, on_delete=models.CASCADE, related_name="items", verbose_name=_("request"))
    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="+", verbose_name=_("machine"))
    job = models.ForeignKey(
        "jobs.Job", on_delete=models.SET_NULL, null=True, blank=True, related_name="+", verbose_name=_("job")
    )
    refusal = models.TextField(_("why not"), blank=True)

    class Meta:
        verbose_name = _("machine of a request")
        verbose_name_plural = _("machines of requests")
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["batch", "machine"], name="machine_once_per_batch")]

    def __str__(self) -> str:
        return str(self.machine)


# Disks and network cards are models of this app, in a file of their own.
from portal.machines.devices import Attachment as Attachment  # noqa: E402, PLC0414 - they refer to the above by name
from portal.machines.devices import Disc as Disc  # noqa: E402, PLC0414 - as above
from portal.machines.devices import NetworkCard as NetworkCard  # noqa: E402, PLC0414
