"""Images: what machines are made from."""

from typing import Final, Literal
from uuid import UUID, uuid5

from django.http import HttpRequest
from ninja import Field, File, Form, Query, UploadedFile

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.api import idempotency
from portal.api.auth import token_in
from portal.api.core import Guard, operation
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import ImageOut, Input, JobOut, Text, VersionOut
from portal.errors import ForbiddenError, NotFoundError
from portal.images import services
from portal.images.models import Firmware, Image, ImageVersion, Kind
from portal.images.selectors import image_for, images_for, may_delete, version_for
from portal.jobs.models import Job
from portal.jobs.selectors import active_job_of, jobs_of

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
