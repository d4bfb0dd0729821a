"""Who looked at which screen, when, from where, and how it ended; who controls it; who was let in or kept out."""

import uuid

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from portal.console.querysets import ConsoleLinkQuerySet


class ConsoleSession(models.Model):
    """One screen or serial console in one browser tab.

    The names are kept beside the links, so the row outlives person and machine.

    `mode` is what the tab came for; which of those who came to control does so is ScreenControl's. `asked_at` is set
    while its person waits for control, `end_ordered_by` (a name) once an operator has ended it, or its own person has
    from another browser.
    """

    class Mode(models.TextChoices):
        CONTROL = "control", _("Control")
        VIEW = "view", _("Watch only")

    class Kind(models.TextChoices):
        SCREEN = "screen", _("Screen")
        SERIAL = "serial", _("Serial console")

    class Door(models.TextChoices):
        PORTAL = "portal", _("Portal")
        GATEWAY = "gateway", _("Gateway")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        related_name="console_sessions",
        verbose_name=_("person"),
    )
    user_name = models.CharField(_("name of person"), max_length=150)
    machine = models.ForeignKey(
        "machines.Machine",
        on_delete=models.SET_NULL,
        null=True,
        related_name="console_sessions",
        verbose_name=_("machine"),
    )
    machine_name = models.CharField(_("name of machine"), max_length=150)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices, default=Kind.SCREEN)
    mode = models.CharField(_("mode"), max_length=10, choices=Mode.choices)
    door = models.CharField(_("door"), max_length=10, choices=Door.choices, default=Door.PORTAL)
    # Hash of the session key of the browser: which of a person's devices it is. Signing in anew is another one.
    browser = models.CharField(_("browser"), max_length=64, blank=True, editable=False)
    request_ip = models.GenericIPAddressField(_("from"), null=True, blank=True)
    asked_at = models.DateTimeField(_("asked for control"), null=True, blank=True)
    end_ordered_by = models.CharField(_("ended by"), max_length=150, blank=True)
    started_at = models.DateTimeField(_("started"), auto_now_add=True)
    # As of a few seconds ago: who only watches a film types nothing, and is idle.
    last_input_at = models.DateTimeField(_("last input"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    bytes_up = models.PositiveBigIntegerField(_("bytes from the browser"), default=0)
    bytes_down = models.PositiveBigIntegerField(_("bytes to the browser"), default=0)
    ended_step = models.CharField(_("ended at"), max_length=20, blank=True)
    ended_reason = models.CharField(_("reason"), max_length=60, blank=True)

    class Meta:
        verbose_name = _("console session")
        verbose_name_plural = _("console sessions")
        ordering = ["-started_at"]
        indexes = [
            models.Index(fields=["machine", "-started_at"], name="console_machine"),
            models.Index(fields=["ended_at"], name="console_ended"),
        ]

    def __str__(self) -> str:
        return f"{self.user_name}: {self.machine_name}"


class ScreenControl(models.Model):
    """Who controls a machine's screen: one person at most, whose tabs all may type. Changed by conditional UPDATE only.

    There is no row before the screen is opened for the first time.
    """

    machine = models.OneToOneField(
        "machines.Machine", on_delete=models.CASCADE, related_name="screen_control", verbose_name=_("machine")
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, verbose_name=_("person")
    )
    since = models.DateTimeField(_("since"))

    class Meta:
        verbose_name = _("control of a screen")
        verbose_name_plural = _("control of screens")

    def __str__(self) -> str:
        return f"{self.user or '-'}: {self.machine}"


class ScreenBan(models.Model):
    """A person who was removed from a screen, and until when they are kept out of it."""

    machine = models.ForeignKey("machines.Machine", on_delete=models.CASCADE, verbose_name=_("machine"))
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, verbose_name=_("person"))
    by_name = models.CharField(_("removed by"), max_length=150)
    until = models.DateTimeField(_("until"))

    class Meta:
        verbose_name = _("removal from a screen")
        verbose_name_plural = _("removals from screens")
        constraints = [models.UniqueConstraint(fields=["machine", "user"], name="one_ban_per_person_and_screen")]

    def __str__(self) -> str:
        return f"{self.user}: {self.machine}"


class ScreenNotice(models.Model):
    """A message to whoever is at the screen; a later one takes its place. See notices.py."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    machine = models.OneToOneField(
        "machines.Machine", on_delete=models.CASCADE, related_name="screen_notice", verbose_name=_("machine")
    )
    text = models.TextField(_("text"), max_length=500)
    by_name = models.CharField(_("from"), max_length=150)
    posted_at = models.DateTimeField(_("posted"))

    class Meta:
        verbose_name = _("message on a screen")
        verbose_name_plural = _("messages on screens")

    def __str__(self) -> str:
        return f"{self.machine}: {self.text[:40]}"


class ConsoleLink(models.Model):
    """An address that lets people of the machine's project on to its screen. Only the hash of its token is here."""

    class Mode(models.TextChoices):
        VIEW = "view", _("Watch only")
        CONTROL = "control", _("Control")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    machine = models.ForeignKey(
        "machines.Machine", on_delete=models.CASCADE, related_name="console_links", verbose_name=_("machine")
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, verbose_name=_("made by")
    )
    created_by_name = models.CharField(_("name of who made it"), max_length=150)
    token_hash = models.CharField(_("hash of the token"), max_length=64, unique=True, editable=False)
    mode = models.CharField(_("mode"), max_length=10, choices=Mode.choices)
    created_at = models.DateTimeField(_("made"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"))
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)

    objects = ConsoleLinkQuerySet.as_manager()

    class Meta:
        verbose_name = _("share link")
        verbose_name_plural = _("share links")
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.machine} ({self.get_mode_display()})"


class ConsoleGrant(models.Model):
    """Who opened a link. It hangs on the membership, so it is gone for good when the person leaves the project."""

    link = models.ForeignKey(ConsoleLink, on_delete=models.CASCADE, related_name="grants", verbose_name=_("link"))
    membership = models.ForeignKey("accounts.Membership", on_delete=models.CASCADE, verbose_name=_("member"))
    opened_at = models.DateTimeField(_("opened"), auto_now_add=True)

    class Meta:
        verbose_name = _("grant of a share link")
        verbose_name_plural = _("grants of share links")
        constraints = [models.UniqueConstraint(fields=["link", "membership"], name="one_grant_per_link_and_member")]

    def __str__(self) -> str:
        return f"{self.membership}: {self.link}"
