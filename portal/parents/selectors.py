"""Reads about parents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from portal.accounts.models import User
from portal.errors import NotFoundError
from portal.hosts.models import Host
from portal.images.models import Firmware, Image, ImageVersion, VersionStatus
from portal.parents.models import Parent, ParentWish
from portal.parents.states import BEING_MADE, CURRENT, SHOWN, State

# Of the machines above: those that have, or are about to have, something on a host.
_IN_USE = ~Q(machines__status="deleted") & Q(machines__isnull=False)


@dataclass(frozen=True, slots=True)
class Size:
    vcpus: int
    memory_mib: int
    disk_gib: int

    @property
    def columns(self) -> dict[str, int]:
        return asdict(self)


def can_be_forked(version: ImageVersion) -> bool:
    """Its copies can be told apart (that takes the agent), and its firmware's state is no file of its own."""
    return version.status == VersionStatus.READY and version.firmware == Firmware.BIOS and version.image.has_agent


def current(version: ImageVersion, host: Host, size: Size) -> Parent | None:
    """The one that is wanted there, in whatever state."""
    parents = Parent.objects.filter(image_version=version, host=host, state__in=CURRENT, **size.columns)
    return parents.select_related("image_version__image", "host").first()


def usable(image_version: ImageVersion, host: Host, vcpus: int, memory_mib: int, disk_gib: int) -> Parent | None:
    """One that a machine of this version and size can be forked from on this host now."""
    size = Size(vcpus, memory_mib, disk_gib)
    ready = Parent.objects.filter(image_version=image_version, host=host, state=State.READY, **size.columns)
    return ready.filter(made_for=maker_of(host)).select_related("host").first()


def why_none(image_version: ImageVersion, host: Host, vcpus: int, memory_mib: int, disk_gib: int) -> Parent | None:
    """The one that would have been used if it had been ready."""
    return current(image_version, host, Size(vcpus, memory_mib, disk_gib))


def maker_of(host: Host) -> str:
    """By what a parent is captured there: what was captured by something else is not taken up."""
    return f"{host.hypervisor_version} ({host.accelerator})"[:120]


def hosts_with(image_version: ImageVersion, size: Size) -> list[UUID]:
    """Where a machine of this version and size would be there in a moment."""
    ready = Parent.objects.filter(image_version=image_version, state=State.READY, **size.columns)
    return list(ready.order_by().values_list("host", flat=True))


def is_coming(image_version: ImageVersion, size: Size) -> bool:
    """The first one is just being made: soon there will be machines of this version and size in a moment."""
    there = Parent.objects.filter(image_version=image_version, host__enabled=True, **size.columns).order_by()
    states = set(there.filter(state__in=[State.READY, *BEING_MADE]).values_list("state", flat=True))
    return bool(states) and State.READY not in states


def is_used(parent: Parent) -> bool:
    """A machine's disk reads from it, or its memory."""
    return Parent.objects.filter(_IN_USE, pk=parent.pk).exists()


def parents_for(user: User | AnonymousUser) -> QuerySet[Parent]:
    """All that are on a host or should be, with the number of machines that use each (`fork_count`): for operators."""
    if not (user.is_active and user.is_staff):
        return Parent.objects.none()
    parents = Parent.objects.filter(state__in=SHOWN).select_related("image_version__image", "host")
    return parents.annotate(fork_count=Count("machines", filter=_IN_USE)).order_by(
        "image_version__image__title", "-image_version__number", "host__name", "memory_mib", "created_at"
    )


def parent_for(user: User | AnonymousUser, pk: UUID | str) -> Parent:
    parent = parents_for(user).filter(pk=pk).first()
    if parent is None:
        raise NotFoundError
    return parent


def parent_by_id(pk: UUID | str) -> Parent:
    """For workers."""
    parent = Parent.objects.select_related("image_version__image", "host").filter(pk=pk).first()
    if parent is None:
        raise NotFoundError
    return parent


def wishes_for(user: User | AnonymousUser) -> QuerySet[ParentWish]:
    if not (user.is_active and user.is_staff):
        return ParentWish.objects.none()
    return ParentWish.objects.select_related("image", "created_by").order_by("image__title", "memory_mib", "pk")


def wish_for(user: User | AnonymousUser, pk: UUID | str) -> ParentWish:
    wish = wishes_for(user).filter(pk=pk).first()
    if wish is None:
        raise NotFoundError
    return wish


def forkable_images() -> QuerySet[Image]:
    """Images of which a running copy can be kept."""
    ready = ImageVersion.objects.filter(image=OuterRef("pk"), status=VersionStatus.READY, firmware=Firmware.BIOS)
    return Image.objects.filter(Exists(ready), has_agent=True).select_related("project").order_by("title")


def newest_forkable(image: Image) -> ImageVersion | None:
    """The version that new machines are made of, if it can be forked."""
    newest = ImageVersion.objects.filter(image=image, status=VersionStatus.READY).order_by("-number")
    version = newest.select_related("image").first()
    return version if version is not None and can_be_forked(version) else None


def ready_on(host: Host) -> list[UUID]:
    return list(Parent.objects.filter(host=host, state=State.READY).values_list("pk", flat=True))


def left_on(ids: Iterable[UUID]) -> list[Parent]:
    """Those of these of which nothing should be on a host: neither being made, nor ready, nor going."""
    gone = Parent.objects.filter(pk__in=list(ids), holds_capacity=False).exclude(state__in=[*BEING_MADE, State.READY])
    return list(gone.select_related("host"))
