"""Every kind of background work and the names of its steps, in order.

The web side shows the steps of a job before a worker touched it, so their names live here; what each step does is in
`workers/workflows/`. A test holds the two together.
"""

from __future__ import annotations

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _


class JobName(TextChoices):
    MACHINE_CREATE = "machine.create", _("Create machine")
    MACHINE_CLONE = "machine.clone", _("Clone machine")
    MACHINE_REBUILD = "machine.rebuild", _("Rebuild from an image")
    MACHINE_START = "machine.start", _("Start")
    MACHINE_STOP = "machine.stop", _("Shut down")
    MACHINE_REBOOT = "machine.reboot", _("Restart")
    MACHINE_RESET = "machine.reset", _("Reset")
    MACHINE_FORCE_OFF = "machine.force_off", _("Force off")
    MACHINE_PAUSE = "machine.pause", _("Pause")
    MACHINE_RESUME = "machine.resume", _("Resume")
    MACHINE_HIBERNATE = "machine.hibernate", _("Hibernate")
    MACHINE_DISCARD = "machine.discard", _("Forget saved memory")
    MACHINE_RESIZE = "machine.resize", _("Resize")
    MACHINE_PASSWORD = "machine.password", _("Set a new password")
    MACHINE_SSH_KEY = "machine.ssh_key", _("Add an SSH key")
    MACHINE_BIN = "machine.bin", _("Put into the bin")
    MACHINE_DELETE = "machine.delete", _("Delete machine")
    MACHINE_ADOPT = "machine.adopt", _("Take machine over")
    MACHINE_REPAIR = "machine.repair", _("Define machine again")
    DISK_ATTACH = "disk.attach", _("Attach disk")
    DISK_DETACH = "disk.detach", _("Detach disk")
    DISK_GROW = "disk.grow", _("Grow disk")
    DISK_LIMITS = "disk.limits", _("Limit disk")
    CARD_ADD = "card.add", _("Add network card")
    CARD_REMOVE = "card.remove", _("Remove network card")
    PROFILE_ATTACH = "profile.attach", _("Bring a person's files")
    PROFILE_DETACH = "profile.detach", _("Put a person's files away")
    VOLUME_CREATE = "volume.create", _("Create volume")
    VOLUME_GROW = "volume.grow", _("Grow volume")
    VOLUME_DELETE = "volume.delete", _("Delete volume")
    SNAPSHOT_TAKE = "snapshot.take", _("Take a snapshot")
    SNAPSHOT_RESTORE = "snapshot.restore", _("Restore a snapshot")
    SNAPSHOT_DELETE = "snapshot.delete", _("Delete a snapshot")
    COPY_REMOVE = "copy.remove", _("Remove a copy from a host")
    IMAGE_BUILD = "image.build", _("Build image")
    IMAGE_IMPORT = "image.import", _("Check and import image")
    IMAGE_FETCH = "image.fetch", _("Fetch image from an address")
    IMAGE_CAPTURE = "image.capture", _("Make an image of a machine")
    IMAGE_DELETE = "image.delete", _("Delete image version")
    MACHINE_INSTALL = "machine.install", _("Create machine from an ISO")
    DISC_INSERT = "disc.insert", _("Insert disc")
    DISC_EJECT = "disc.eject", _("Eject disc")
    MACHINE_RESCUE = "machine.rescue", _("Rescue")
    MACHINE_UNRESCUE = "machine.unrescue", _("Back from rescue")
    ISO_IMPORT = "iso.import", _("Check ISO")
    ISO_DELETE = "iso.delete", _("Delete ISO")
    PARENT_BUILD = "parent.build", _("Make a running copy to fork from")
    PARENT_DELETE = "parent.delete", _("Remove a running copy")


class StepName(TextChoices):
    IMAGE = "image", _("Put the image on the host")
    DISK = "disk", _("Create the disk")
    SEED = "seed", _("Write name, user and keys")
    DEFINE = "define", _("Define the machine")
    START = "start", _("Switch it on")
    BOOT = "boot", _("Wait for the guest to start")
    ADDRESS = "address", _("Ask for its address")
    ASK_SHUT_DOWN = "ask_shut_down", _("Ask the guest to shut down")
    WAIT_OFF = "wait_off", _("Wait until it is off")
    RESTART = "restart", _("Ask the guest to restart")
    RESET = "reset", _("Reset")
    CUT_POWER = "cut_power", _("Cut the power")
    WAIT_WORK = "wait_work", _("Wait for other work to end")
    UNDEFINE = "undefine", _("Remove the machine")
    DELETE_STORAGE = "delete_storage", _("Delete its disks")
    FREE_VOLUMES = "free_volumes", _("Delete or free its volumes")
    VOLUME = "volume", _("Create the volume")
    ATTACH = "attach", _("Attach the disk")
    DETACH = "detach", _("Wait until the guest lets it go")
    FIND_FILES = "find_files", _("Find the person's files")
    PREPARE_FILES = "prepare_files", _("Prepare the disk for files")
    OPEN_FILES = "open_files", _("Open the files in the guest")
    CLOSE_FILES = "close_files", _("Close the files in the guest")
    GROW = "grow", _("Grow the disk")
    LIMIT = "limit", _("Limit the disk")
    ADD_CARD = "add_card", _("Add the network card")
    REMOVE_CARD = "remove_card", _("Wait until the guest lets the card go")
    DELETE_VOLUME = "delete_volume", _("Delete the volume")
    RELEASE = "release", _("Give the quota back")
    SUSPEND = "suspend", _("Stop it where it is")
    RESUME = "resume", _("Let it go on")
    SAVE = "save", _("Write its memory to disk")
    DISCARD = "discard", _("Forget its saved memory")
    DEFINE_SIZE = "define_size", _("Write its size down for its next start")
    RESIZE_LIVE = "resize_live", _("Give it what it takes while it runs")
    SET_PASSWORD = "set_password", _("Set the password in the guest")
    ADD_KEY = "add_key", _("Add the key in the guest")
    TAKE_SNAPSHOT = "take_snapshot", _("Take the snapshot")
    RESTORE_DISKS = "restore_disks", _("Bring back what there was")
    DELETE_SNAPSHOT = "delete_snapshot", _("Delete the snapshot")
    ADOPT = "adopt", _("Take it over")
    BUILD = "build", _("Build the disk")
    FETCH = "fetch", _("Fetch the file")
    IMPORT = "import", _("Inspect and convert")
    PUBLISH = "publish", _("Offer it in the catalogue")
    DELETE_FILES = "delete_files", _("Delete its files")
    FREEZE = "freeze", _("Hold the original's disk as it is now")
    COPY = "copy", _("Copy the disk")
    LET_GO = "let_go", _("Release the original")
    IDENTITY = "identity", _("Remove the identity that was copied")
    EXPORT = "export", _("Store the image in the portal")
    RENEW_DISK = "renew_disk", _("Replace its disk by a new one")
    ISO = "iso", _("Put the disc on the host")
    INSERT = "insert", _("Put the disc into the drive")
    EJECT = "eject", _("Wait until the guest opens the drive")
    RESCUE_SYSTEM = "rescue_system", _("Put the rescue system on the host")
    END_RESCUE = "end_rescue", _("Remove the rescue system")
    CHECK_ISO = "check_iso", _("Look at what has arrived")
    KEEP_ISO = "keep_iso", _("Put it into the library")
    FORK = "fork", _("Fork it from a running one")
    FORK_IDENTITY = "fork_identity", _("Give it its own identity")
    PARENT_IMAGE = "parent_image", _("Put the image on the host")
    PARENT_BOOT = "parent_boot", _("Start the template")
    PARENT_SETTLE = "parent_settle", _("Wait until it is idle")
    PARENT_CAPTURE = "parent_capture", _("Capture it and try one fork")
    DELETE_PARENT = "delete_parent", _("Remove it when nothing uses it")


STEPS: dict[JobName, tuple[StepName, ...]] = {
    JobName.MACHINE_CREATE: (
        StepName.FORK,
        StepName.FORK_IDENTITY,
        StepName.IMAGE,
        StepName.DISK,
        StepName.SEED,
        StepName.DEFINE,
        StepName.START,
        StepName.BOOT,
        StepName.ADDRESS,
    ),
    JobName.MACHINE_CLONE: (
        StepName.FREEZE,
        StepName.COPY,
        StepName.LET_GO,
        StepName.IDENTITY,
        StepName.DISK,
        StepName.SEED,
        StepName.DEFINE,
        StepName.START,
        StepName.BOOT,
        StepName.ADDRESS,
    ),
    JobName.MACHINE_REBUILD: (
        StepName.IMAGE,
        StepName.CUT_POWER,
        StepName.RENEW_DISK,
        StepName.SEED,
        StepName.DEFINE,
        StepName.START,
        StepName.BOOT,
        StepName.ADDRESS,
    ),
    JobName.MACHINE_START: (StepName.START,),
    JobName.MACHINE_STOP: (StepName.ASK_SHUT_DOWN, StepName.WAIT_OFF),
    JobName.MACHINE_REBOOT: (StepName.RESTART,),
    JobName.MACHINE_RESET: (StepName.RESET,),
    JobName.MACHINE_FORCE_OFF: (StepName.CUT_POWER,),
    JobName.MACHINE_PAUSE: (StepName.SUSPEND,),
    JobName.MACHINE_RESUME: (StepName.RESUME,),
    JobName.MACHINE_HIBERNATE: (StepName.SAVE,),
    JobName.MACHINE_DISCARD: (StepName.DISCARD,),
    JobName.MACHINE_RESIZE: (StepName.DEFINE_SIZE, StepName.RESIZE_LIVE),
    JobName.MACHINE_PASSWORD: (StepName.SET_PASSWORD,),
    JobName.MACHINE_SSH_KEY: (StepName.ADD_KEY,),
    JobName.MACHINE_BIN: (StepName.WAIT_WORK, StepName.CUT_POWER),
    JobName.MACHINE_DELETE: (
        StepName.WAIT_WORK,
        StepName.UNDEFINE,
        StepName.DELETE_STORAGE,
        StepName.FREE_VOLUMES,
        StepName.RELEASE,
    ),
    JobName.MACHINE_ADOPT: (StepName.ADOPT,),
    JobName.MACHINE_REPAIR: (StepName.SEED, StepName.DEFINE),
    JobName.DISK_ATTACH: (StepName.VOLUME, StepName.ATTACH),
    JobName.DISK_DETACH: (StepName.DETACH,),
    JobName.DISK_GROW: (StepName.GROW,),
    JobName.DISK_LIMITS: (StepName.LIMIT,),
    JobName.CARD_ADD: (StepName.ADD_CARD,),
    JobName.CARD_REMOVE: (StepName.REMOVE_CARD,),
    JobName.PROFILE_ATTACH: (
        StepName.FIND_FILES,
        StepName.VOLUME,
        StepName.ATTACH,
        StepName.PREPARE_FILES,
        StepName.OPEN_FILES,
    ),
    JobName.PROFILE_DETACH: (StepName.WAIT_WORK, StepName.CLOSE_FILES, StepName.DETACH),
    JobName.VOLUME_CREATE: (StepName.VOLUME,),
    JobName.VOLUME_GROW: (StepName.GROW,),
    JobName.VOLUME_DELETE: (StepName.DELETE_VOLUME, StepName.RELEASE),
    JobName.SNAPSHOT_TAKE: (StepName.TAKE_SNAPSHOT,),
    JobName.SNAPSHOT_RESTORE: (StepName.TAKE_SNAPSHOT, StepName.RESTORE_DISKS),
    JobName.SNAPSHOT_DELETE: (StepName.DELETE_SNAPSHOT,),
    JobName.COPY_REMOVE: (StepName.UNDEFINE, StepName.DELETE_STORAGE),
    JobName.IMAGE_BUILD: (StepName.BUILD, StepName.PUBLISH),
    JobName.IMAGE_IMPORT: (StepName.IMPORT, StepName.PUBLISH),
    JobName.IMAGE_FETCH: (StepName.FETCH, StepName.IMPORT, StepName.PUBLISH),
    JobName.IMAGE_CAPTURE: (
        StepName.FREEZE,
        StepName.COPY,
        StepName.LET_GO,
        StepName.IDENTITY,
        StepName.EXPORT,
        StepName.PUBLISH,
    ),
    JobName.IMAGE_DELETE: (StepName.DELETE_FILES,),
    JobName.MACHINE_INSTALL: (StepName.ISO, StepName.DISK, StepName.DEFINE, StepName.START),
    JobName.DISC_INSERT: (StepName.ISO, StepName.INSERT),
    JobName.DISC_EJECT: (StepName.EJECT,),
    JobName.MACHINE_RESCUE: (StepName.RESCUE_SYSTEM, StepName.CUT_POWER, StepName.START),
    JobName.MACHINE_UNRESCUE: (StepName.CUT_POWER, StepName.DEFINE, StepName.END_RESCUE, StepName.START),
    JobName.ISO_IMPORT: (StepName.CHECK_ISO, StepName.KEEP_ISO),
    JobName.ISO_DELETE: (StepName.DELETE_FILES,),
    JobName.PARENT_BUILD: (
        StepName.PARENT_IMAGE,
        StepName.PARENT_BOOT,
        StepName.PARENT_SETTLE,
        StepName.PARENT_CAPTURE,
    ),
    JobName.PARENT_DELETE: (StepName.WAIT_WORK, StepName.DELETE_PARENT),
}


_MINUTE_S = 60
LIMIT_S: dict[JobName, float] = {
    JobName.IMAGE_BUILD: 120 * _MINUTE_S,
    JobName.IMAGE_IMPORT: 120 * _MINUTE_S,
    JobName.IMAGE_FETCH: 240 * _MINUTE_S,
    JobName.MACHINE_CREATE: 90 * _MINUTE_S,
    JobName.MACHINE_CLONE: 8 * 60 * _MINUTE_S,
    JobName.MACHINE_REBUILD: 90 * _MINUTE_S,
    JobName.IMAGE_CAPTURE: 12 * 60 * _MINUTE_S,
    JobName.MACHINE_INSTALL: 90 * _MINUTE_S,
    JobName.DISC_INSERT: 60 * _MINUTE_S,
    JobName.ISO_IMPORT: 60 * _MINUTE_S,
    JobName.PARENT_BUILD: 120 * _MINUTE_S,
}
"""How long after its start a job counts as stuck, in seconds. The steps have closer limits of their own."""

LIMIT_OF_OTHERS_S = 30.0 * _MINUTE_S


class JobStatus(TextChoices):
    """`WAITING`: no worker holds it; it comes back by itself (a guest is booting, a retry is due)."""

    QUEUED = "queued", _("Queued")
    RUNNING = "running", _("Running")
    WAITING = "waiting", _("Waiting")
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")
    CANCELLED = "cancelled", _("Cancelled")


ACTIVE = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.WAITING)
FINAL = (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)


class StepStatus(TextChoices):
    PENDING = "pending", _("To come")
    RUNNING = "running", _("Running")
    DONE = "done", _("Done")
    FAILED = "failed", _("Failed")
    SKIPPED = "skipped", _("Not needed")
    UNDONE = "undone", _("Taken back")
