"""Reads about volumes. Fetching and authorising are one call."""

from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, QuerySet, Sum

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.errors import NotFoundError
from portal.volumes.models import Volume
from portal.volumes.states import CAN_ATTACH, Status, Task

_RELATED = ("project", "host", "created_by", "attachment__machine")


def volume_for(user: User | AnonymousUser, pk: UUID | str, permission: Permission = Permission.MACHINE_VIEW) -> Volume:
    """The volume, if `user` holds `permission`. NotFoundError if unseen or deleted, ForbiddenError if only seen."""
    volume = Volume.objects.visible_to(user).live().select_related(*_RELATED).filter(pk=pk).first()
    if volume is None:
        raise NotFoundError
    require(user, volume.project_id, permission)
    return volume


def volumes_for(
    user: User | AnonymousUser, *, search: str = "", status: str = "", project: str = ""
) -> QuerySet[Volume]:
    """Rows for the list page, newest first. Filters that mean nothing are ignored."""
    volumes = Volume.objects.visible_to(user).live().select_related(*_RELATED)
    if search:
        volumes = volumes.filter(name__icontains=search)
    if status in Status.values:
        volumes = volumes.filter(status=status)
    if project:
        volumes = volumes.filter(project__name=project)
    return volumes


def free_volumes(project: Project) -> QuerySet[Volume]:
    """Which of them a machine can have depends on the host: it reaches only those in its own host's pool."""
    free = Volume.objects.filter(project=project, status__in=CAN_ATTACH, task=Task.NONE, personal=False)
    return free.order_by("name")


@dataclass(frozen=True, slots=True)
class Counted:
    """What a project's volumes take of its quota together."""

    number: int
    gib: int


def volumes_counted_in(project: Project) -> Counted:
    sums = Volume.objects.filter(project=project, holds_quota=True).aggregate(number=Count("pk"), gib=Sum("size_gib"))
    return Counted(sums["number"], sums["gib"] or 0)


def volume_by_id(pk: UUID | str) -> Volume:
    """For workers, which act for the portal itself. NotFoundError if there is none."""
    volume = Volume.objects.select_related(*_RELATED).filter(pk=pk).first()
    if volume is None:
        raise NotFoundError
    return volume


def suggest_name(project: Project) -> str:
    """A name that is free in the project, such as disk-3."""
    taken = set(Volume.objects.live().filter(project=project, name__startswith="disk-").values_list("name", flat=True))
    return next(name for number in range(1, len(taken) + 2) if (name := f"disk-{number}") not in taken)
