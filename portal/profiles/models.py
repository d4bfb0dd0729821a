"""A person's own files in a project: a volume that follows them from desktop to desktop."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from portal.profiles.querysets import ProfileQuerySet
from portal.profiles.states import State
from portal.volumes.models import Volume
from portal.volumes.states import HAS_FILE, LIVE


class Profile(models.Model):
    """One for each person and project. Its volume is made when the files are needed first, beside that machine.

    `machine` has them, or is about to, or had them until its host says that it has not; whoever changes `state` does so
    by a conditional UPDATE that names the state before, so that one machine has them at most. `next_machine` asked for
    them and waits. `formatted_at`: there is a file system on the volume, so none is ever made on it again. `opened_at`:
    since then they may be open in `machine`'s guest. `is_read_only`: their file system is damaged, so nothing is
    written to it. `used_bytes` is what was on it when they were opened or closed last.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="profiles", verbose_name=_("person")
    )
    project = models.ForeignKey(
        "accounts.Project", on_delete=models.PROTECT, related_name="profiles", verbose_name=_("project")
    )
    volume = models.OneToOneField(
        Volume, on_delete=models.PROTECT, null=True, blank=True, related_name="profile", verbose_name=_("volume")
    )
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.FREE)
    state_since = models.DateTimeField(_("since"), auto_now_add=True)
    machine = models.ForeignKey(
        "machines.Machine",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="profiles",
        verbose_name=_("machine"),
    )
    next_machine = models.ForeignKey(
        "machines.Machine",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="awaited_profiles",
        verbose_name=_("wanted on"),
    )
    formatted_at = models.DateTimeField(_("formatted"), null=True, blank=True, editable=False)
    opened_at = models.DateTimeField(_("opened"), null=True, blank=True, editable=False)
    is_read_only = models.BooleanField(_("read-only"), default=False, editable=False)
    used_bytes = models.BigIntegerField(_("used (bytes)"), null=True, blank=True, editable=False)
    message = models.TextField(_("what is wrong"), blank=True, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    objects = ProfileQuerySet.as_manager()

    class Meta:
        verbose_name = _("person's files")
        verbose_name_plural = _("people's files")
        ordering = ["person", "project"]
        constraints = [
            models.UniqueConstraint(fields=["person", "project"], name="one_profile_per_person_and_project"),
            models.UniqueConstraint(fields=["machine"], name="one_profile_per_machine"),
            models.UniqueConstraint(fields=["next_machine"], name="one_profile_awaited_per_machine"),
            models.CheckConstraint(condition=Q(state__in=State.values), name="profile_state_known"),
        ]
        # Each host is asked about these every few seconds.
        indexes = [models.Index(fields=["state"], condition=~Q(state=State.FREE), name="profile_held")]

    def __str__(self) -> str:
        return str(_("Files of %(person)s") % {"person": self.person.get_username()})

    @property
    def has_files(self) -> bool:
        """There is a volume with something on it."""
        return self.volume is not None and self.volume.status in HAS_FILE and self.formatted_at is not None

    @property
    def size_gib(self) -> int:
        """What it has, or will have been given once it is needed first."""
        kept = self.volume is not None and self.volume.status in LIVE
        return self.volume.size_gib if self.volume is not None and kept else settings.PROFILE_GIB
