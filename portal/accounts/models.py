"""People, projects, and who belongs where."""

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from portal.accounts.permissions import Role
from portal.accounts.querysets import ProjectQuerySet


class User(AbstractUser):
    """A person. `is_staff` makes an operator, who sees every project; `is_superuser` an administrator."""

    class Meta:
        verbose_name = _("person")
        verbose_name_plural = _("people")


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
