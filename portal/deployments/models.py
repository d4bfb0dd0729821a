"""One desktop for each person of a list."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project
from portal.deployments.querysets import DeploymentQuerySet, SeatQuerySet


class Deployment(models.Model):
    """What its desktops are made of, and whose project they are in and count against.

    `prefix` with the number of a seat is what the seat's machine is called.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(
        Project, on_delete=models.PROTECT, related_name="deployments", verbose_name=_("project")
    )
    name = models.CharField(_("name"), max_length=100)
    prefix = models.CharField(_("desktops are called"), max_length=50)
    image_version = models.ForeignKey(
        "images.ImageVersion", on_delete=models.PROTECT, related_name="deployments", verbose_name=_("image version")
    )
    flavour = models.ForeignKey("machines.Flavour", on_delete=models.PROTECT, verbose_name=_("flavour"))
    # What makes a request unique, so that a double click or a retry makes one deployment.
    request_key = models.UUIDField(_("request key"), unique=True, default=uuid.uuid4, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("made by")
    )
    created_at = models.DateTimeField(_("made"), auto_now_add=True)

    objects = DeploymentQuerySet.as_manager()

    class Meta:
        verbose_name = _("deployment")
        verbose_name_plural = _("deployments")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="deployment_name_once_per_project"),
        ]

    def __str__(self) -> str:
        return self.name


class Seat(models.Model):
    """A person of the list and their desktop. `label` is how the list names them, whether they have an account or not.

    Whoever has one is `person`. Whoever has none comes in by a link as `guest`; only the hash of its token is here.
    `refusal` says why there is no desktop.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deployment = models.ForeignKey(
        Deployment, on_delete=models.CASCADE, related_name="seats", verbose_name=_("deployment")
    )
    number = models.PositiveIntegerField(_("number"))
    label = models.CharField(_("as the list names them"), max_length=150)
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="seats",
        verbose_name=_("person"),
    )
    machine = models.OneToOneField(
        "machines.Machine",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="seat",
        verbose_name=_("machine"),
    )
    refusal = models.TextField(_("why there is none"), blank=True)
    guest = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="guest_seat",
        verbose_name=_("guest"),
    )
    token_hash = models.CharField(
        _("hash of the link's token"), max_length=64, unique=True, null=True, blank=True, editable=False
    )
    link_expires_at = models.DateTimeField(_("link expires"), null=True, blank=True)
    created_at = models.DateTimeField(_("added"), auto_now_add=True)

    objects = SeatQuerySet.as_manager()

    class Meta:
        verbose_name = _("seat")
        verbose_name_plural = _("seats")
        ordering = ["deployment", "number"]
        constraints = [
            models.UniqueConstraint(fields=["deployment", "number"], name="seat_number_once_per_deployment"),
            models.UniqueConstraint(fields=["deployment", "label"], name="seat_label_once_per_deployment"),
            models.UniqueConstraint(
                fields=["deployment", "person"], condition=Q(person__isnull=False), name="one_seat_per_person"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.deployment}: {self.label}"

    @property
    def project(self) -> Project:
        """For the audit trail."""
        return self.deployment.project

    @property
    def machine_name(self) -> str:
        return f"{self.deployment.prefix}-{self.number}"

    @property
    def has_link(self) -> bool:
        return self.token_hash is not None and self.link_expires_at is not None and not self.link_is_over

    @property
    def link_is_over(self) -> bool:
        return self.link_expires_at is not None and self.link_expires_at <= timezone.now()
