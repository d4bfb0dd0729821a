"""People, projects, who belongs where, and what lets programs act for people."""

import uuid
from uuid import UUID

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from portal.accounts.permissions import Role
from portal.accounts.querysets import ProjectQuerySet


class User(AbstractUser):
    """A person. `is_staff` makes an operator, who sees every project; `is_superuser` an administrator.

    `limited_to` is no column: it is set for one request, by a token for one project, beyond which nothing is granted.
    """

    limited_to: UUID | None = None
    # Only guests have it, whom a link lets in until then; see guests.py.
    guest_until = models.DateTimeField(_("guest until"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("person")
        verbose_name_plural = _("people")

    @property
    def is_guest(self) -> bool:
        return self.guest_until is not None


class SshKey(models.Model):
    """A public key of a person's; the one used last is offered first."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="ssh_keys", verbose_name=_("person"))
    name = models.CharField(_("name"), max_length=100)
    public_key = models.TextField(_("public key"))
    used_at = models.DateTimeField(_("last used"), null=True, blank=True)

    class Meta:
        verbose_name = _("SSH key")
        verbose_name_plural = _("SSH keys")
        ordering = [F("used_at").desc(nulls_last=True), "name"]
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="sshkey_name_once_per_user")]

    def __str__(self) -> str:
        return self.name


class Project(models.Model):
    """What machines belong to, with its quota and what of it is reserved. Disk is in GiB, memory in MiB."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(_("name"), max_length=100, unique=True)
    description = models.TextField(_("description"), blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    max_machines = models.PositiveIntegerField(_("machines allowed"), default=10)
    max_vcpus = models.PositiveIntegerField(_("vCPUs allowed"), default=20)
    max_memory_mib = models.PositiveIntegerField(_("memory allowed (MiB)"), default=20480)
    max_disk_gib = models.PositiveIntegerField(_("disk allowed (GiB)"), default=200)
    # 0 deletes at once.
    bin_days = models.PositiveSmallIntegerField(_("days in the bin"), default=7)
    used_machines = models.PositiveIntegerField(_("machines reserved"), default=0, editable=False)
    used_vcpus = models.PositiveIntegerField(_("vCPUs reserved"), default=0, editable=False)
    used_memory_mib = models.PositiveIntegerField(_("memory reserved (MiB)"), default=0, editable=False)
    used_disk_gib = models.PositiveIntegerField(_("disk reserved (GiB)"), default=0, editable=False)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        verbose_name = _("project")
        verbose_name_plural = _("projects")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships", verbose_name=_("person"))
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, related_name="memberships", verbose_name=_("project")
    )
    role = models.CharField(_("role"), max_length=10, choices=Role.choices, default=Role.MEMBER)

    class Meta:
        verbose_name = _("membership")
        verbose_name_plural = _("memberships")
        constraints = [
            models.UniqueConstraint(fields=["user", "project"], name="one_membership_per_project"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="membership_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} - {self.project} ({self.get_role_display()})"


class ApiToken(models.Model):
    """What lets a program act as a person. Only the hash of its 256 bits is here; `hint` is how it begins."""

    class Scope(models.TextChoices):
        READ = "read", _("Read only")
        WRITE = "write", _("Read and change")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens", verbose_name=_("person"))
    name = models.CharField(_("name"), max_length=100)
    token_hash = models.CharField(_("hash of the token"), max_length=64, unique=True, editable=False)
    hint = models.CharField(_("begins with"), max_length=20)
    scope = models.CharField(_("may"), max_length=5, choices=Scope.choices, default=Scope.READ)
    # Empty for one that may whatever its person may.
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, null=True, blank=True, verbose_name=_("only in the project")
    )
    created_at = models.DateTimeField(_("made"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"))
    used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    used_ip = models.GenericIPAddressField(_("last used from"), null=True, blank=True)

    class Meta:
        verbose_name = _("API token")
        verbose_name_plural = _("API tokens")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["user", "name"], name="token_name_once_per_user"),
            models.CheckConstraint(condition=Q(scope__in=["read", "write"]), name="token_scope_known"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def may_write(self) -> bool:
        return self.scope == self.Scope.WRITE
