"""Images: what machines are made from."""

from typing import Any, Final, Literal, Self
from uuid import UUID, uuid5

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, File, Form, Query, UploadedFile
from pydantic import BaseModel

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.api import idempotency
from portal.api.auth import token_in
from portal.api.core import Guard, operation
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import ImageOut, Input, JobOut, Text, VersionOut
from portal.errors import ForbiddenError, InvalidError, NotFoundError
from portal.images import services
from portal.images.models import Firmware, Image, ImageVersion, Kind
from portal.images.official import OFFICIAL, Official
from portal.images.selectors import image_for, images_for, may_delete, version_for
from portal.images.signing import MOST_KEY_CHARACTERS
from portal.jobs.models import Job
from portal.jobs.selectors import active_job_of, jobs_of
from portal.lib.fetcher import URL_MAX

TAG: Final = "Images"
Sort = Literal["title", "-title", "-created_at", "created_at"]


@operation(
    "GET",
    "images",
    tag=TAG,
    answers=Listed[ImageOut],
    pages=("images:list",),
    links={"show_image": {"pk": "items/0/id"}},
)
def list_images(
    request: HttpRequest,
    page: Query[PageQuery],
    kind: Kind | None = None,
    q: Text = "",
    sort: Sort = "title",
) -> Listed[ImageOut]:
    """Images that you may use, each with its versions. `q` looks in titles."""
    images = images_for(person(request))
    if kind:
        images = images.filter(kind=kind)
    if q:
        images = images.filter(title__icontains=q)
    return page_of(images, page, sort).shown(ImageOut.of)


@operation("GET", "images/{uuid:pk}", tag=TAG, answers=ImageOut, pages=("images:detail",))
def show_image(request: HttpRequest, pk: UUID) -> ImageOut:
    """One image with its versions."""
    return ImageOut.of(image_for(person(request), pk))


@operation(
    "POST",
    "images/{uuid:pk}/build",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("images:build",),
    guards=Guard(Image, show_image),
)
def build_image(request: HttpRequest, pk: UUID) -> Job:
    """Build the next version by the image's recipe. For operators."""
    image = image_for(person(request), pk)
    return services.request_build(image, actor=person(request), request_ip=client_ip(request))


class UploadIn(Input):
    title: Text = Field(min_length=1, max_length=100, pattern=r"\S")
    kind: Kind = Kind.SERVER
    firmware: Firmware = Firmware.BIOS
    project: UUID | None = Field(default=None, description="Left out, it is for everyone; only operators may.")


@operation(
    "POST",
    "images",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("images:upload",),
    links={"show_job": {"pk": "id"}},
)
def upload_image(request: HttpRequest, form: Form[UploadIn], file: File[UploadedFile]) -> Job:
    """Upload a disk (qcow2 or raw). It is inspected and converted; the job's target is the image's first version."""
    user = person(request)
    project = project_for(user, form.project, Permission.IMAGE_CREATE) if form.project else None
    key = idempotency.key_of(request)
    version = services.add_upload(
        file,
        actor=user,
        title=form.title,
        kind=form.kind,
        firmware=form.firmware,
        project=project,
        request_key=uuid5(token_in(request).pk, key) if key else None,
        request_ip=client_ip(request),
    )
    return active_job_of(version) or jobs_of(version, limit=1)[0]


class FromUploadIn(UploadIn):
    upload: UUID = Field(description="A whole upload of yours. The image's first version takes over its id.")


@operation(
    "POST",
    "images/from-upload",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("images:upload",),
    links={"show_job": {"pk": "id"}},
)
def add_image(request: HttpRequest, body: FromUploadIn) -> Job:
    """Make an image of a disk that was uploaded in pieces. The job's target is the image's first version."""
    user = person(request)
    version = services.add_upload(
        body.upload,
        actor=user,
        title=body.title,
        kind=body.kind,
        firmware=body.firmware,
        project=project_for(user, body.project, Permission.IMAGE_CREATE) if body.project else None,
        request_key=uuid5(body.upload, str(user.pk)),
        request_ip=client_ip(request),
    )
    return active_job_of(version) or jobs_of(version, limit=1)[0]


# --- by address ---------------------------------------------------------------------------------------------------


class OfficialOut(BaseModel):
    """A distribution's own cloud image, known by name."""

    name: str
    title: str
    url: str
    checksums_url: str

    @classmethod
    def of(cls, one: Official) -> Self:
        return cls(name=one.slug, title=one.title, url=one.url, checksums_url=one.checksums_url)


@operation("GET", "images/official", tag=TAG, answers=Listed[OfficialOut], pages=("images:import",))
def list_official_images(request: HttpRequest) -> Listed[OfficialOut]:
    """The official images that can be imported by name."""
    return Listed[OfficialOut](items=[OfficialOut.of(one) for one in OFFICIAL.values()], next=None)


class ImportIn(Input):
    """Either `official`, or `url` with its `checksum`, `title`, `kind` and `firmware`."""

    official: Text | None = Field(default=None, max_length=60, description="The name of an official image.")
    url: Text | None = Field(default=None, max_length=URL_MAX, description="https:// address of a qcow2 or raw disk.")
    checksum: Text | None = Field(
        default=None, max_length=URL_MAX, description="SHA-256 or SHA-512, or the https:// address of a file with it."
    )
    signing_key: Text | None = Field(
        default=None, max_length=MOST_KEY_CHARACTERS, description="Public key of who signs the file of checksums."
    )
    signature_url: Text | None = Field(
        default=None, max_length=URL_MAX, description="https:// address of that signature; else it is in the file."
    )
    title: Text | None = Field(default=None, min_length=1, max_length=100, pattern=r"\S")
    kind: Kind = Kind.SERVER
    firmware: Firmware = Firmware.BIOS
    project: UUID | None = Field(default=None, description="Left out, it is for everyone; only operators may.")


@operation(
    "POST",
    "images/import",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("images:import",),
    links={"show_job": {"pk": "id"}},
)
def import_image(request: HttpRequest, body: ImportIn) -> Job:
    """Have a disk fetched from an address and checked; the job's target is the image's first version."""
    user = person(request)
    project = project_for(user, body.project, Permission.IMAGE_CREATE) if body.project else None
    key = idempotency.key_of(request)
    version = services.add_from_url(
        actor=user,
        project=project,
        request_key=uuid5(token_in(request).pk, key) if key else None,
        request_ip=client_ip(request),
        **(_official(body, body.official) if body.official is not None else _other(body)),
    )
    return active_job_of(version) or jobs_of(version, limit=1)[0]


def _official(body: ImportIn, name: str) -> dict[str, Any]:
    """Address, checksums, kind and firmware of an official image are ours to know."""
    official = OFFICIAL.get(name)
    if official is None:
        raise InvalidError(_("There is no official image of this name."), field="official")
    if any(value is not None for value in (body.url, body.checksum, body.signing_key, body.signature_url)):
        raise InvalidError(_("An official image has its own address and checksums."), field="url")
    return {
        "title": body.title or official.title,
        "kind": Kind.SERVER,
        "firmware": official.firmware,
        "min_memory_mib": official.min_memory_mib,
        "url": official.url,
        "checksum": official.checksums_url,
        "signing_key": official.signing_key,
        "signature_url": official.signature_url,
    }


def _other(body: ImportIn) -> dict[str, Any]:
    values = {"title": body.title, "url": body.url, "checksum": body.checksum}
    for name, value in values.items():
        if not value:
            raise InvalidError(_("This is needed for an image that is not imported by name."), field=name)
    signed = {"signing_key": body.signing_key or "", "signature_url": body.signature_url or ""}
    return {**values, **signed, "kind": body.kind, "firmware": body.firmware}


# --- versions -----------------------------------------------------------------------------------------------------


def show_version(request: HttpRequest, pk: UUID) -> VersionOut:
    return VersionOut.of(version_for(person(request), pk))


@operation(
    "DELETE",
    "images/versions/{uuid:pk}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("images:delete-version",),
    guards=Guard(ImageVersion, show_version),
)
def delete_image_version(request: HttpRequest, pk: UUID) -> Job:
    """Delete a version that no machine is based on; with its last version an uploaded image goes, too."""
    version = version_for(person(request), pk)
    if not may_delete(person(request), version.image):
        raise ForbiddenError
    try:
        return services.request_delete_version(version, actor=person(request), request_ip=client_ip(request))
    except ImageVersion.DoesNotExist as error:
        raise NotFoundError from error
