"""Reads about images."""

from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, Prefetch, Q, QuerySet

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.errors import NotFoundError
from portal.images.models import Image, ImageVersion, VersionStatus


def images_for(user: User | AnonymousUser) -> QuerySet[Image]:
    """Images that the person sees, each with its versions, newest first."""
    versions = Prefetch("versions", ImageVersion.objects.exclude(status=VersionStatus.DELETING).order_by("-number"))
    return Image.objects.visible_to(user).select_related("project", "created_by").prefetch_related(versions)


def image_for(user: User | AnonymousUser, pk: UUID | str) -> Image:
    image = images_for(user).filter(pk=pk).first()
    if image is None:
        raise NotFoundError
    return image


def version_for(user: User | AnonymousUser, pk: UUID | str) -> ImageVersion:
    version = (
        ImageVersion.objects.filter(pk=pk, image__in=Image.objects.visible_to(user)).select_related("image").first()
    )
    if version is None:
        raise NotFoundError
    return version


def versions_of(image: Image) -> QuerySet[ImageVersion]:
    """The image's versions, newest first, each with the number of machines that are based on it: `machine_count`."""
    count = Count("machines", filter=~Q(machines__status="deleted"))
    # Not `image.versions`: on an image of `images_for` that leaves out the versions that are being deleted.
    versions = ImageVersion.objects.filter(image=image)
    return versions.annotate(machine_count=count).select_related("image").order_by("-number")


def machine_count_of(version: ImageVersion) -> int:
    """How many machines, deleted ones not counted, are based on the version."""
    return version.machines.exclude(status="deleted").count()


def may_delete(user: User | AnonymousUser, image: Image) -> bool:
    """Operators everywhere, and the owners of the project that the image belongs to."""
    if user.is_active and user.is_staff:
        return True
    return image.project_id is not None and Permission.IMAGE_DELETE in permissions_in(user, image.project_id)


def may_add(user: User | AnonymousUser, image: Image) -> bool:
    """Another version of it: operators everywhere, members to what belongs to their project."""
    if user.is_active and user.is_staff:
        return True
    return image.project_id is not None and Permission.IMAGE_CREATE in permissions_in(user, image.project_id)


def catalogue_for(user: User | AnonymousUser, project: Project) -> list[tuple[Image, ImageVersion | None]]:
    """What can be launched in the project: each image with its newest ready version, or None while it is being made."""
    images = images_for(user).usable_in(project)  # type: ignore[attr-defined]  # images_for keeps the queryset's class
    pairs = [(image, _newest_ready(image)) for image in images]
    return [(image, version) for image, version in pairs if version is not None or _is_coming(image)]


def _newest_ready(image: Image) -> ImageVersion | None:
    return next((version for version in image.versions.all() if version.status == VersionStatus.READY), None)


def _is_coming(image: Image) -> bool:
    return any(version.status == VersionStatus.BUILDING for version in image.versions.all())


def images_of(project: Project) -> QuerySet[Image]:
    """Images that belong to the project, each with its versions, newest first."""
    versions = Prefetch("versions", ImageVersion.objects.exclude(status=VersionStatus.DELETING).order_by("-number"))
    return project.images.select_related("created_by").prefetch_related(versions)
