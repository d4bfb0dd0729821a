"""Images: what a machine's first disk is made from. An image has versions; a version is one immutable file."""

import uuid
from pathlib import Path

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from portal.images.querysets import ImageQuerySet


class Kind(models.TextChoices):
    SERVER = "server", _("Server")
    DESKTOP = "desktop", _("Desktop")


class Firmware(models.TextChoices):
    BIOS = "bios", _("BIOS")
    UEFI = "uefi", _("UEFI")


class Source(models.TextChoices):
    RECIPE = "recipe", _("Built by recipe")
    UPLOAD = "upload", _("Uploaded")
    URL = "url", _("Fetched from an address")
    MACHINE = "machine", _("Made of a machine")


class VersionStatus(models.TextChoices):
    BUILDING = "building", _("Being made")
    READY = "ready", _("Ready")
    FAILED = "failed", _("Failed")
    DELETING = "deleting", _("Being deleted")


class Image(models.Model):
    """`project` is empty for images that everyone may use. `recipe` names a file of `workers/imaging/recipes/`."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slug = models.SlugField(_("short name"), max_length=80, unique=True)
    title = models.CharField(_("name"), max_length=100)
    description = models.TextField(_("description"), blank=True)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices, default=Kind.SERVER)
    source = models.CharField(_("source"), max_length=10, choices=Source.choices)
    recipe = models.CharField(_("recipe"), max_length=80, blank=True)
    project = models.ForeignKey(
        "accounts.Project",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="images",
        verbose_name=_("project"),
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("added by")
    )
    created_at = models.DateTimeField(_("added"), auto_now_add=True)
    min_memory_mib = models.PositiveIntegerField(_("least memory (MiB)"), default=256)
    has_agent = models.BooleanField(
        _("has the guest agent"), default=True, help_text=_("then a machine counts as ready when its agent answers")
    )

    objects = ImageQuerySet.as_manager()

    class Meta:
        verbose_name = _("image")
        verbose_name_plural = _("images")
        ordering = ["title"]

    def __str__(self) -> str:
        return self.title


class ImageVersion(models.Model):
    """One build or upload. The file's name is made from the id; `sha256` is of the qcow2 file that machines use.

    One that is fetched has a `source_url`, and a `source_checksum` (`sha256:<hex>`) or the `checksums_url` of a file
    that names it. With a `signing_key` (portal.images.signing) that file must be signed: at `signature_url`, or, where
    that is empty, in itself.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    image = models.ForeignKey(Image, on_delete=models.CASCADE, related_name="versions", verbose_name=_("image"))
    number = models.PositiveIntegerField(_("version"))
    status = models.CharField(_("status"), max_length=10, choices=VersionStatus.choices, default=VersionStatus.BUILDING)
    firmware = models.CharField(_("firmware"), max_length=5, choices=Firmware.choices, default=Firmware.BIOS)
    size_bytes = models.BigIntegerField(_("size (bytes)"), default=0)
    virtual_size_bytes = models.BigIntegerField(_("disk size (bytes)"), default=0)
    sha256 = models.CharField(_("SHA-256"), max_length=64, blank=True)
    upload_sha256 = models.CharField(_("SHA-256 of the upload"), max_length=64, blank=True)
    upload_name = models.CharField(_("name of the upload"), max_length=255, blank=True)
    source_url = models.CharField(_("fetched from"), max_length=2000, blank=True)
    source_checksum = models.CharField(_("expected checksum"), max_length=200, blank=True)
    checksums_url = models.CharField(_("file of checksums"), max_length=2000, blank=True)
    signing_key = models.TextField(_("who signs the checksums"), blank=True)
    signature_url = models.CharField(_("signature of the checksums"), max_length=2000, blank=True)
    error = models.TextField(_("error"), blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("image version")
        verbose_name_plural = _("image versions")
        ordering = ["image", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["image", "number"], name="one_number_per_image"),
            models.CheckConstraint(condition=Q(status__in=VersionStatus.values), name="version_status_known"),
        ]

    def __str__(self) -> str:
        return f"{self.image} v{self.number}"

    @property
    def path(self) -> Path:
        return Path(settings.IMAGES_DIR) / f"{self.pk}.qcow2"

    @property
    def upload_path(self) -> Path:
        return Path(settings.UPLOADS_DIR) / f"{self.pk}.upload"

    @property
    def source_shown(self) -> str:
        """Where it is from, for everyone who sees the image: what comes after a "?" may be as good as a key."""
        return self.source_url.partition("?")[0]

    @property
    def part_path(self) -> Path:
        """What has been fetched so far."""
        return Path(settings.UPLOADS_DIR) / f"{self.pk}.part"
