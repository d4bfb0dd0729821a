"""A machine's disk as a whole: cloned, made an image of, replaced."""

from typing import Final, Literal
from uuid import UUID, uuid5

from django.http import HttpRequest
from django.utils.translation import gettext as _
from pydantic import Field

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.api import idempotency
from portal.api.auth import token_in
from portal.api.core import operation
from portal.api.operations.machines import GUARD, TAG, job_of, newest_version
from portal.api.schemas import Input, JobOut, Text
from portal.copies import capturing, cloning, rebuilding
from portal.copies.capturing import CaptureRequest
from portal.copies.cloning import CloneRequest
from portal.copies.selectors import images_for_capture, snapshots_to_copy, suggest_clone_name
from portal.copies.states import Identity
from portal.errors import InvalidError
from portal.images.models import Image
from portal.jobs.models import Job
from portal.jobs.selectors import active_job_of, jobs_of
from portal.machines.models import Machine
from portal.machines.selectors import machine_for
from portal.snapshots.models import Snapshot

IDENTITY: Final = (
    "`new`: what makes the original known is removed from the copy. `kept`: everything stays, for systems that are not "
    "known here."
)


class CopyIn(Input):
    identity: Identity = Field(default=Identity.NEW, description=IDENTITY)
    snapshot: UUID | None = Field(default=None, description="One of the machine's; left out, its disk as it is now.")


class CloneIn(CopyIn):
    name: Text | None = Field(default=None, max_length=63, description="Left out, a free one is chosen.")
    kind: Literal["linked", "full"] = Field(
        default="linked", description="`linked` reads from the original's disk as it was; `full` stands alone."
    )


@operation(
    "POST",
    "machines/{uuid:pk}/clone",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("copies:clone",),
    guards=GUARD,
    links={"show_job": {"pk": "id"}, "show_machine": {"pk": "target/id"}, "delete_machine": {"pk": "target/id"}},
)
def clone_machine(request: HttpRequest, pk: UUID, body: CloneIn) -> Job:
    """Have a machine made of another one's disk, of the same size and beside it. The job's target is the clone."""
    machine = machine_for(person(request), pk, Permission.MACHINE_CREATE)
    wanted = CloneRequest(
        name=body.name or suggest_clone_name(machine),
        linked=body.kind == "linked",
        identity=body.identity,
        snapshot=_snapshot_of(machine, body),
    )
    clone = cloning.request_clone(
        machine, actor=person(request), wanted=wanted, request_key=_key_of(request), request_ip=client_ip(request)
    )
    return job_of(clone)


class CaptureIn(CopyIn):
    """Either `image`, which gets another version, or `title` of a new one."""

    image: UUID | None = Field(default=None, description="An image that is not built by a recipe.")
    title: Text | None = Field(default=None, min_length=1, max_length=100, pattern=r"\S")
    everyone: bool = Field(default=False, description="A new image is for everyone, and not for the project alone.")


@operation(
    "POST",
    "machines/{uuid:pk}/image",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("copies:capture",),
    guards=GUARD,
    links={"show_job": {"pk": "id"}},
)
def capture_machine(request: HttpRequest, pk: UUID, body: CaptureIn) -> Job:
    """Have an image made of a machine's disk. The job's target is the image's version."""
    machine = machine_for(person(request), pk, Permission.IMAGE_CREATE)
    wanted = CaptureRequest(
        image=_image_of(request, machine, body),
        title=body.title or "",
        for_everyone=body.everyone,
        identity=body.identity,
        snapshot=_snapshot_of(machine, body),
    )
    version = capturing.request_capture(
        machine, actor=person(request), wanted=wanted, request_key=_key_of(request), request_ip=client_ip(request)
    )
    return active_job_of(version) or jobs_of(version, limit=1)[0]


def _snapshot_of(machine: Machine, body: CopyIn) -> Snapshot | None:
    if body.snapshot is None:
        return None
    found = snapshots_to_copy(machine).filter(pk=body.snapshot).first()
    if found is None:
        raise InvalidError(_("The machine has no such snapshot."), field="snapshot")
    return found


def _image_of(request: HttpRequest, machine: Machine, body: CaptureIn) -> Image | None:
    if (body.image is None) == (body.title is None):
        raise InvalidError(
            _("Say either which image gets another version, or what a new one is called."), field="image"
        )
    if body.image is None:
        return None
    found = next((one for one in images_for_capture(person(request), machine) if one.pk == body.image), None)
    if found is None:
        raise InvalidError(_("This image cannot get a version of this machine."), field="image")
    return found


class RebuildIn(Input):
    image: UUID | None = Field(
        default=None,
        description="Its newest version that is ready; left out, of the image that the machine is made of.",
    )
    confirm: Text = Field(max_length=63, description="The machine's name: what its root disk holds will be lost.")


@operation(
    "POST",
    "machines/{uuid:pk}/rebuild",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("copies:rebuild",),
    guards=GUARD,
    links={"show_job": {"pk": "id"}},
)
def rebuild_machine(request: HttpRequest, pk: UUID, body: RebuildIn) -> Job:
    """Have a machine's root disk replaced by a new one of an image. Name, MAC address, size and volumes stay."""
    machine = machine_for(person(request), pk, Permission.MACHINE_DELETE)
    image = body.image or (machine.image_version.image_id if machine.image_version else None)
    if image is None:
        raise InvalidError(_("It is not known what the machine was made of: say which image."), field="image")
    return rebuilding.request_rebuild(
        machine,
        actor=person(request),
        version=newest_version(request, machine.project, image),
        confirmed=body.confirm,
        request_ip=client_ip(request),
    )


def _key_of(request: HttpRequest) -> UUID | None:
    key = idempotency.key_of(request)
    return uuid5(token_in(request).pk, key) if key else None
