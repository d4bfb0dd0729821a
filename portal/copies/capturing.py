"""Images made of machines: their disk without the machine's identity and without what people left in it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.copies import cloning
from portal.copies.states import Identity
from portal.errors import ConflictError, InvalidError
from portal.images import services as images
from portal.images.models import Firmware, Image, ImageVersion, Source
from portal.images.models import Kind as ImageKind
from portal.jobs import services as jobs
from portal.jobs.names import JobName
from portal.machines.models import Machine
from portal.snapshots.models import Snapshot

LEAST_MEMORY_MIB = 256


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """Either a version of `image`, or of a new one named `title`: of the machine's project, or for everyone.

    `snapshot` is one of the machine's; None is its disk as it is now.
    """

    image: Image | None = None
    title: str = ""
    for_everyone: bool = False
    identity: Identity = Identity.NEW
    snapshot: Snapshot | None = None


def request_capture(
    machine: Machine,
    *,
    actor: User,
    wanted: CaptureRequest,
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> ImageVersion:
    """Have a version of an image made of the machine's disk. The same `request_key` gives the same version again."""
    require(actor, machine.project_id, Permission.IMAGE_CREATE)
    earlier = _version_of_request(machine, wanted, request_key)
    if earlier is not None:
        return earlier
    _check(machine, wanted)
    try:
        with transaction.atomic():
            return _add(machine, actor=actor, wanted=wanted, request_key=request_key, request_ip=request_ip)
    except IntegrityError as error:
        earlier = _version_of_request(machine, wanted, request_key)
        if earlier is not None:
            return earlier
        raise ConflictError(_("This form has been sent already. Open the page anew to make another image.")) from error


def _add(
    machine: Machine, *, actor: User, wanted: CaptureRequest, request_key: UUID | None, request_ip: str | None
) -> ImageVersion:
    copy = cloning.begin(machine, wanted.snapshot, wanted.identity)
    made_from = machine.image_version.image if machine.image_version else None
    version = images.add_captured(
        actor=actor,
        kind=ImageKind(machine.kind),
        firmware=_firmware_of(machine),
        has_agent=made_from is not None and made_from.has_agent,
        min_memory_mib=made_from.min_memory_mib if made_from else LEAST_MEMORY_MIB,
        image=wanted.image,
        title=wanted.title.strip(),
        project=_project_of(machine, wanted),
        request_key=request_key,
    )
    copy.version = version
    copy.save()
    detail = {"image": str(version), "identity": str(wanted.identity)}
    audit.record(actor, "machine.captured", machine, detail=detail, request_ip=request_ip)
    audit.record(actor, "image.capture", version.image, detail={"machine": machine.name}, request_ip=request_ip)
    jobs.enqueue(JobName.IMAGE_CAPTURE, version, queue=machine.host.queue, actor=actor, project=version.image.project)
    return version


def _firmware_of(machine: Machine) -> Firmware:
    """Of an image there are two kinds: whether keys are checked is the machine's own."""
    own = machine.firmware or (machine.image_version.firmware if machine.image_version else Firmware.BIOS)
    return Firmware.BIOS if own == Firmware.BIOS else Firmware.UEFI


def _project_of(machine: Machine, wanted: CaptureRequest) -> Project | None:
    return None if wanted.for_everyone else machine.project


def _check(machine: Machine, wanted: CaptureRequest) -> None:
    if wanted.image is None and not wanted.title.strip():
        raise InvalidError(_("Say what the image is called."), field="title")
    if wanted.image is not None and wanted.image.project_id not in (None, machine.project_id):
        raise InvalidError(_("This image belongs to another project."), field="image")
    shared = wanted.for_everyone if wanted.image is None else wanted.image.project_id is None
    if shared and wanted.identity == Identity.KEPT:
        raise InvalidError(_("What everyone may use cannot have this machine's keys and logs in it."), field="identity")


def _version_of_request(machine: Machine, wanted: CaptureRequest, request_key: UUID | None) -> ImageVersion | None:
    """Of an image that is there already: the version that is being made of this machine."""
    versions = ImageVersion.objects.filter(copy__source=machine).select_related("image")
    if wanted.image is not None:
        return versions.filter(image=wanted.image, status="building").first()
    return versions.filter(image=request_key, image__source=Source.MACHINE).first() if request_key else None


# --- what workers found out ---------------------------------------------------------------------------------------


@transaction.atomic
def record_captured(version: ImageVersion) -> None:
    cloning.release_source(cloning.copy_behind(version))
    images.record_version_ready(version)


@transaction.atomic
def record_capture_failed(version: ImageVersion, *, message: str) -> None:
    cloning.release_source(cloning.copy_behind(version))
    images.record_version_failed(version, message=message)
