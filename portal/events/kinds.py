"""Every kind of event. Programs of other people know these words: one that is here stays, and keeps its meaning.

README.md, "Events and webhooks", says what the `data` of each holds.
"""

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class Kind(TextChoices):
    MACHINE_REQUESTED = "machine.requested", _("A machine was asked for")
    MACHINE_BUILT = "machine.built", _("A machine is ready")
    MACHINE_BUILD_FAILED = "machine.build_failed", _("A machine could not be built")
    MACHINE_ADOPTED = "machine.adopted", _("A machine was taken over")
    MACHINE_STATE = "machine.state", _("A machine's power changed")
    MACHINE_CHANGED = "machine.changed", _("A machine's settings changed")
    MACHINE_DELETED = "machine.deleted", _("A machine was deleted")
    MACHINE_RESCUED = "machine.rescued", _("A machine was started from a rescue system")
    MACHINE_BACK = "machine.back", _("A machine is back from rescue")
    JOB_QUEUED = "job.queued", _("A job was asked for")
    JOB_DONE = "job.done", _("A job is done")
    JOB_FAILED = "job.failed", _("A job failed")
    JOB_CANCELLED = "job.cancelled", _("A job was cancelled")
    VOLUME_READY = "volume.ready", _("A volume is ready")
    VOLUME_FAILED = "volume.failed", _("A volume could not be made")
    VOLUME_ATTACHED = "volume.attached", _("A volume was attached")
    VOLUME_DETACHED = "volume.detached", _("A volume was detached")
    VOLUME_GROWN = "volume.grown", _("A volume has grown")
    VOLUME_DELETED = "volume.deleted", _("A volume was deleted")
    CONSOLE_BEGAN = "console.began", _("Somebody came to a screen")
    CONSOLE_ENDED = "console.ended", _("Somebody left a screen")
    IMAGE_READY = "image.ready", _("An image version is ready")
    IMAGE_FAILED = "image.failed", _("An image version could not be made")
    IMAGE_DELETED = "image.deleted", _("An image version was deleted")
    SNAPSHOT_TAKEN = "snapshot.taken", _("A snapshot was taken")
    SNAPSHOT_RESTORED = "snapshot.restored", _("A snapshot was restored")
    SNAPSHOT_DELETED = "snapshot.deleted", _("A snapshot was deleted")
    ISO_READY = "iso.ready", _("An ISO is ready")
    ISO_FAILED = "iso.failed", _("An ISO could not be used")
    ISO_DELETED = "iso.deleted", _("An ISO was deleted")
    DESKTOP_TAKEN = "desktop.taken", _("Somebody was given a desktop")
    DESKTOP_LEFT = "desktop.left", _("Somebody's desktop session ended")
    DESKTOP_FAILED = "desktop.failed", _("A pool's desktop could not be built")
    WEBHOOK_TEST = "webhook.test", _("A webhook was tried")
    WEBHOOK_STOPPED = "webhook.stopped", _("A webhook was switched off after failing for long")


# They go to the one webhook that they are about, whatever that has chosen.
NOT_CHOSEN = (Kind.WEBHOOK_TEST, Kind.WEBHOOK_STOPPED)
CHOICES = [(kind.value, kind.label) for kind in Kind if kind not in NOT_CHOSEN]

AREAS = {
    "machine": _("Machines"),
    "volume": _("Volumes"),
    "job": _("Jobs"),
    "console": _("Screens"),
    "image": _("Images"),
    "snapshot": _("Snapshots"),
    "iso": _("ISOs"),
    "desktop": _("Desktop pools"),
    "webhook": _("Webhooks"),
}
"""What a kind begins with."""
