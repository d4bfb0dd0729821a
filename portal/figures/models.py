"""What machines and hosts used, put by: a row for each of them and each level of detail, of a size that is bounded."""

from django.db import models
from django.utils.translation import gettext_lazy as _

from portal.figures.points import Level, Ring


class StoredLevel(models.TextChoices):
    """Those of `points.Level` that are in the database; the live one is in Redis."""

    HOUR = Level.HOUR.value, _("last hour")
    DAY = Level.DAY.value, _("last day")
    MONTH = Level.MONTH.value, _("last month")


class Series(models.Model):
    """The ring of one machine or host at one level: at most 0.8, 4 or 5.2 KB of `data`, as `points.Ring` packs it.

    `subject` is a machine's or a host's id and no foreign key: the figures of what was removed go away by the clock, so
    that removing waits for nothing.
    """

    subject = models.UUIDField(_("machine or host"))
    level = models.CharField(_("level of detail"), max_length=8, choices=StoredLevel.choices)
    end = models.BigIntegerField(_("slot of the newest point"))
    data = models.BinaryField(_("points, packed"))

    class Meta:
        verbose_name = _("series of figures")
        verbose_name_plural = _("series of figures")
        constraints = [
            models.UniqueConstraint(fields=["subject", "level"], name="series_once"),
            models.CheckConstraint(condition=models.Q(level__in=StoredLevel.values), name="series_level_known"),
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.level}"

    @property
    def ring(self) -> Ring:
        return Ring(Level(self.level), self.end, bytes(self.data))
