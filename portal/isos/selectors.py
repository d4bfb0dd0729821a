"""Reads about ISOs. Fetching and authorising are one call."""

from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, QuerySet, Sum

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.errors import NotFoundError
from portal.isos.models import Iso, Role, Status

_RELATED = ("project", "created_by")


def isos_for(user: User | AnonymousUser) -> QuerySet[Iso]:
    """ISOs that the person sees, by name."""
    return Iso.objects.visible_to(user).select_related(*_RELATED)


def iso_for(user: User | AnonymousUser, pk: UUID | str) -> Iso:
    """NotFoundError if unseen."""
    iso = isos_for(user).filter(pk=pk).first()
    if iso is None:
        raise NotFoundError
    return iso


def iso_by_id(pk: UUID | str) -> Iso:
    """For workers, which act for the portal itself. NotFoundError if there is none."""
    iso = Iso.objects.select_related(*_RELATED).filter(pk=pk).first()
    if iso is None:
        raise NotFoundError
    return iso


def isos_in(user: User | AnonymousUser, project: Project, role: Role | None = None) -> QuerySet[Iso]:
    """What a machine of the project can have in its drive."""
    isos = Iso.objects.visible_to(user).usable_in(project)
    return isos.filter(role=role) if role else isos


def may_delete(user: User | AnonymousUser, iso: Iso) -> bool:
    """Operators everywhere, and the owners of the project that it belongs to."""
    if user.is_active and user.is_staff:
        return True
    return iso.project_id is not None and Permission.IMAGE_DELETE in permissions_in(user, iso.project_id)


def isos_counted_in(project: Project) -> tuple[int, int]:
    """How many of a project's ISOs count against its quota, and how many bytes they have together."""
    sums = Iso.objects.filter(project=project, holds_quota=True).aggregate(number=Count("pk"), size=Sum("size_bytes"))
    return sums["number"], sums["size"] or 0


def count_of(user: User | AnonymousUser) -> int:
    return Iso.objects.visible_to(user).exclude(status=Status.DELETING).count()
