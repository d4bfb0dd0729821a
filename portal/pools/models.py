"""Pools of desktops, who may use them, and who has which one."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import Project
from portal.pools.querysets import PlaceQuerySet, SessionQuerySet
from portal.pools.states import (
    LIVE_DESKTOP,
    LIVE_SESSION,
    DesktopState,
    EndReason,
    PlaceState,
    PoolKind,
    Recompose,
    SessionState,
)


class Pool(models.Model):
    """Desktops that are all alike. Its machines are its project's, and count against that project's quota.

    Each of the times is a number of seconds, 0 for never. `idle_disconnect_s` counts from the warning (or, without one,
    from the last sign of life), `idle_sign_out_s` from the disconnect. `recompose_at` is when those who still have
    another version than `image_version` are signed out; `next_version` takes its place at that time.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.SlugField(_("short name"), max_length=40, unique=True)
    title = models.CharField(_("name"), max_length=100)
    kind = models.CharField(_("kind"), max_length=10, choices=PoolKind.choices, default=PoolKind.FLOATING)
    project = models.ForeignKey(
        "accounts.Project", on_delete=models.PROTECT, related_name="pools", verbose_name=_("project")
    )
    image_version = models.ForeignKey(
        "images.ImageVersion", on_delete=models.PROTECT, related_name="pools", verbose_name=_("image version")
    )
    previous_version = models.ForeignKey(
        "images.ImageVersion",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("image version before"),
    )
    next_version = models.ForeignKey(
        "images.ImageVersion",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="pools_to_come",
        verbose_name=_("image version to come"),
    )
    flavour = models.ForeignKey("machines.Flavour", on_delete=models.PROTECT, verbose_name=_("size"))
    minimum = models.PositiveIntegerField(_("at least"), default=0)
    maximum = models.PositiveIntegerField(_("at most"), default=10)
    spare = models.PositiveIntegerField(_("spare"), default=1)
    time_zone = models.CharField(_("time zone"), max_length=60, default="UTC")
    name_pattern = models.CharField(_("names"), max_length=50, default="desktop-{n}")
    desktops_per_person = models.PositiveSmallIntegerField(
        _("desktops per person"), default=1, validators=[MinValueValidator(1), MaxValueValidator(10)]
    )
    keeps_files = models.BooleanField(_("people's files follow them"), default=True)
    enabled = models.BooleanField(_("offered"), default=True)
    maintenance = models.BooleanField(_("maintenance"), default=False)
    message = models.TextField(_("message to all"), blank=True, max_length=500)
    message_at = models.DateTimeField(_("message since"), null=True, blank=True)
    idle_warn_s = models.PositiveIntegerField(_("warn when idle for (s)"), default=0)
    idle_disconnect_s = models.PositiveIntegerField(_("disconnect after the warning (s)"), default=0)
    idle_sign_out_s = models.PositiveIntegerField(_("sign out when disconnected for (s)"), default=0)
    limit_s = models.PositiveIntegerField(_("longest session (s)"), default=0)
    recompose = models.CharField(_("new versions"), max_length=10, choices=Recompose.choices, default=Recompose.ROLLING)
    recompose_at = models.DateTimeField(_("new version for all at"), null=True, blank=True)
    # Why no more desktops can be made just now, and when that is tried again; empty when nothing is wrong.
    problem = models.TextField(_("problem"), blank=True)
    build_after = models.DateTimeField(_("builds again after"), null=True, blank=True, editable=False)
    forks_wanted_at = models.DateTimeField(_("forks wanted"), null=True, blank=True, editable=False)
    tended_until = models.DateTimeField(_("being tended until"), null=True, blank=True, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("desktop pool")
        verbose_name_plural = _("desktop pools")
        ordering = ["title"]
        constraints = [
            models.CheckConstraint(condition=Q(kind__in=PoolKind.values), name="pool_kind_known"),
            models.CheckConstraint(condition=Q(recompose__in=Recompose.values), name="pool_recompose_known"),
        ]

    def __str__(self) -> str:
        return self.title

    def name_of(self, number: int) -> str:
        """Of its desktop with this number, and of the machine in it."""
        return self.name_pattern.replace("{n}", str(number))

    @property
    def hands_out(self) -> bool:
        """Whether new people get a desktop of it now; those who have one keep it."""
        return self.enabled and not self.maintenance


class SpareHours(models.Model):
    """How many are to be free at some hours of a weekday (0 is Monday), in the pool's time zone; else `Pool.spare`.

    `to_minute` is not among them; 1440 is the end of the day.
    """

    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="hours", verbose_name=_("pool"))
    weekday = models.PositiveSmallIntegerField(_("weekday"))
    from_minute = models.PositiveSmallIntegerField(_("from (minute of the day)"))
    to_minute = models.PositiveSmallIntegerField(_("to (minute of the day)"))
    spare = models.PositiveIntegerField(_("spare"))

    class Meta:
        verbose_name = _("hours of a pool")
        verbose_name_plural = _("hours of pools")
        ordering = ["pool", "weekday", "from_minute"]
        constraints = [
            models.UniqueConstraint(fields=["pool", "weekday", "from_minute"], name="hours_once_per_pool"),
        ]

    def __str__(self) -> str:
        return f"{self.weekday} {self.from_minute}-{self.to_minute}: {self.spare}"


class Entitlement(models.Model):
    """Who may use a pool: a person, everybody in a project, or everybody in a group."""

    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="entitlements", verbose_name=_("pool"))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="entitlements",
        verbose_name=_("person"),
    )
    project = models.ForeignKey(
        "accounts.Project",
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="entitlements",
        verbose_name=_("project"),
    )
    group = models.ForeignKey(
        "auth.Group", on_delete=models.CASCADE, null=True, blank=True, related_name="+", verbose_name=_("group")
    )

    class Meta:
        verbose_name = _("entitlement")
        verbose_name_plural = _("entitlements")
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["pool", "user"], name="person_once_per_pool"),
            models.UniqueConstraint(fields=["pool", "project"], name="project_once_per_pool"),
            models.UniqueConstraint(fields=["pool", "group"], name="group_once_per_pool"),
            models.CheckConstraint(
                condition=Q(user__isnull=False, project=None, group=None)
                | Q(user=None, project__isnull=False, group=None)
                | Q(user=None, project=None, group__isnull=False),
                name="entitlement_of_one",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.pool}: {self.user or self.project or self.group}"


class Desktop(models.Model):
    """One place for a machine in a pool. It keeps its number while machines come and go in it.

    `person` is who has it now; of an assigned or named one, whose it is also while nobody works on it. Its machine may
    belong to an older version of the pool: `image_version` is what it was made from.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="desktops", verbose_name=_("pool"))
    machine = models.OneToOneField(
        "machines.Machine",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="desktop",
        verbose_name=_("machine"),
    )
    number = models.PositiveIntegerField(_("number"))
    # Empty of one that went long ago, whose version was deleted since.
    image_version = models.ForeignKey(
        "images.ImageVersion",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("image version"),
    )
    state = models.CharField(_("state"), max_length=10, choices=DesktopState.choices, default=DesktopState.BUILDING)
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="desktops",
        verbose_name=_("person"),
    )
    state_since = models.DateTimeField(_("since"))
    error = models.TextField(_("error"), blank=True)
    tries = models.PositiveSmallIntegerField(_("failed tries"), default=0, editable=False)
    retry_at = models.DateTimeField(_("tried again at"), null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("desktop of a pool")
        verbose_name_plural = _("desktops of pools")
        ordering = ["pool", "number"]
        constraints = [
            models.UniqueConstraint(
                fields=["pool", "number"], condition=Q(state__in=LIVE_DESKTOP), name="desktop_number_once_per_pool"
            ),
            models.CheckConstraint(condition=Q(state__in=DesktopState.values), name="desktop_state_known"),
        ]
        indexes = [
            # What there is, by state and number; and what belongs to a person.
            models.Index(fields=["pool", "state", "person", "number"], name="desktop_pool_state"),
            # What the broker hands out, in order.
            models.Index(fields=["pool", "state", "person", "state_since"], name="desktop_pool_free"),
        ]

    def __str__(self) -> str:
        return self.pool.name_of(self.number)

    @property
    def project(self) -> Project:
        """For the audit trail."""
        return self.pool.project


class Session(models.Model):
    """A person on a desktop, from being handed one to signing out, through any number of browsers and screens.

    `slot` counts a person's sessions in a pool from 0: the constraint on it is what keeps anyone from having more than
    the pool allows, however many tabs ask at once.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="sessions", verbose_name=_("pool"))
    desktop = models.ForeignKey(
        Desktop, on_delete=models.CASCADE, related_name="sessions", verbose_name=_("desktop of a pool")
    )
    machine = models.ForeignKey(
        "machines.Machine", on_delete=models.SET_NULL, null=True, related_name="+", verbose_name=_("machine")
    )
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="desktop_sessions", verbose_name=_("person")
    )
    slot = models.PositiveSmallIntegerField(_("slot"), default=0, editable=False)
    state = models.CharField(_("state"), max_length=12, choices=SessionState.choices, default=SessionState.ACTIVE)
    asked_at = models.DateTimeField(_("asked"))
    started_at = models.DateTimeField(_("started"))
    on_screen_at = models.DateTimeField(_("on the screen"), null=True, blank=True)
    last_active_at = models.DateTimeField(_("last sign of life"))
    warned_at = models.DateTimeField(_("warned"), null=True, blank=True)
    disconnected_at = models.DateTimeField(_("disconnected"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    end_reason = models.CharField(_("reason"), max_length=12, choices=EndReason.choices, blank=True)
    # What the guest said last of who is signed in inside; empty until it has said something.
    seen_inside = models.CharField(_("signed in inside"), max_length=100, blank=True, editable=False)
    files_asked_at = models.DateTimeField(_("files asked for"), null=True, blank=True, editable=False)
    files_left_at = models.DateTimeField(_("files put away"), null=True, blank=True, editable=False)
    files_problem = models.TextField(_("why it has no files"), blank=True, editable=False)

    objects = SessionQuerySet.as_manager()

    class Meta:
        verbose_name = _("desktop session")
        verbose_name_plural = _("desktop sessions")
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["desktop"], condition=Q(state__in=LIVE_SESSION), name="one_live_session_per_desktop"
            ),
            models.UniqueConstraint(
                fields=["pool", "person", "slot"], condition=Q(state__in=LIVE_SESSION), name="sessions_per_person"
            ),
            models.CheckConstraint(condition=Q(state__in=SessionState.values), name="session_state_known"),
        ]
        indexes = [
            models.Index(fields=["person"], condition=Q(state__in=LIVE_SESSION), name="session_live_of"),
            models.Index(fields=["pool", "ended_at"], name="session_ended_in"),
            models.Index(
                fields=["pool"],
                condition=Q(files_asked_at__isnull=False, files_left_at=None),
                name="session_files_out",
            ),
            models.Index(fields=["pool", "-started_at"], name="session_newest_in"),
        ]

    def __str__(self) -> str:
        return f"{self.person}: {self.pool}"

    @property
    def project(self) -> Project:
        """For the audit trail."""
        return self.pool.project

    @property
    def is_live(self) -> bool:
        return self.state in LIVE_SESSION


class Place(models.Model):
    """A person's place in the line for a pool: one, however many tabs of theirs wait.

    `seen_at` is renewed by the tabs; a place that nobody renews is gone after a while.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="places", verbose_name=_("pool"))
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", verbose_name=_("person")
    )
    browser = models.CharField(_("browser"), max_length=64, blank=True, editable=False)
    asked_at = models.DateTimeField(_("asked"))
    seen_at = models.DateTimeField(_("last seen"))
    served_at = models.DateTimeField(_("served"), null=True, blank=True)
    state = models.CharField(_("state"), max_length=10, choices=PlaceState.choices, default=PlaceState.WAITING)

    objects = PlaceQuerySet.as_manager()

    class Meta:
        verbose_name = _("place in a line")
        verbose_name_plural = _("places in lines")
        ordering = ["asked_at", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["pool", "person"], condition=Q(state=PlaceState.WAITING), name="one_place_per_person"
            ),
            models.CheckConstraint(condition=Q(state__in=PlaceState.values), name="place_state_known"),
        ]
        indexes = [
            models.Index(fields=["pool", "asked_at"], condition=Q(state=PlaceState.WAITING), name="place_in_line"),
        ]

    def __str__(self) -> str:
        return f"{self.person}: {self.pool}"
