"""Reads about people and projects. Fetching and authorising are one call."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Case, Count, IntegerField, QuerySet, Value, When
from django.utils.translation import gettext as _

from portal.accounts.models import Membership, Project, SshKey, User
from portal.accounts.permissions import ROLE_PERMISSIONS, Permission, Role
from portal.errors import ForbiddenError, NotFoundError
from portal.lib.units import format_mib, percent


def project_for(
    user: User | AnonymousUser, pk: UUID | str, permission: Permission = Permission.PROJECT_VIEW
) -> Project:
    """The project, if `user` holds `permission` in it. NotFoundError if unseen, ForbiddenError if only seen."""
    project = Project.objects.visible_to(user).filter(pk=pk).first()
    if project is None:
        raise NotFoundError
    require(user, project.pk, permission)
    return project


def projects_for(user: User | AnonymousUser, permission: Permission = Permission.PROJECT_VIEW) -> QuerySet[Project]:
    return Project.objects.with_permission(user, permission).order_by("name").distinct()


def permissions_in(user: User | AnonymousUser, project_id: UUID) -> frozenset[Permission]:
    """Everything that `user` may do in a project."""
    return permissions_of([(user, project_id)])[user.pk, project_id] if isinstance(user, User) else frozenset()


def permissions_of(pairs: Collection[tuple[User, UUID]]) -> dict[tuple[int, UUID], frozenset[Permission]]:
    """As `permissions_in`, for many pairs of a person and a project's id, in one query.

    Who is among them twice, once by a token that is limited, is granted what both of them have.
    """
    by_role = [(user.pk, project) for user, project in pairs if user.is_active and not user.is_staff]
    people, projects = {user for user, _project in by_role}, {project for _user, project in by_role}
    # Django asks nothing when a list is empty.
    memberships = Membership.objects.filter(user__in=people, project__in=projects)
    roles = {(user, project): role for user, project, role in memberships.values_list("user_id", "project_id", "role")}
    granted: dict[tuple[int, UUID], frozenset[Permission]] = {}
    for user, project in pairs:
        found = _granted(user, project, roles.get((user.pk, project)))
        granted[user.pk, project] = granted.get((user.pk, project), found) & found
    return granted


def _granted(user: User, project: UUID, role: str | None) -> frozenset[Permission]:
    if not user.is_active or user.limited_to not in {None, project}:
        return frozenset()
    if user.is_staff:
        return frozenset(Permission)
    return ROLE_PERMISSIONS[Role(role)] if role else frozenset()


def require(user: User | AnonymousUser, project_id: UUID, permission: Permission) -> None:
    """Raise ForbiddenError unless `user` holds `permission` in the project."""
    if permission not in permissions_in(user, project_id):
        raise ForbiddenError


def operators() -> QuerySet[User]:
    return User.objects.filter(is_active=True, is_staff=True)


@dataclass(frozen=True, slots=True)
class QuotaLine:
    """One limit of a project, ready for a bar: numbers for the bar, texts with units for people."""

    label: str
    used: int
    limit: int
    used_text: str
    limit_text: str
    free_text: str

    @property
    def percent(self) -> int:
        return percent(self.used, self.limit)

    @property
    def is_full(self) -> bool:
        return self.used >= self.limit

    @property
    def is_nearly_full(self) -> bool:
        return not self.is_full and self.percent >= 80


def quota_lines(project: Project) -> list[QuotaLine]:
    return [
        _quota_line(_("Machines"), project.used_machines, project.max_machines, str),
        _quota_line(_("vCPUs"), project.used_vcpus, project.max_vcpus, str),
        _quota_line(_("Memory"), project.used_memory_mib, project.max_memory_mib, format_mib),
        _quota_line(_("Disk"), project.used_disk_gib, project.max_disk_gib, lambda gib: format_mib(gib * 1024)),
    ]


def _quota_line(label: str, used: int, limit: int, text: Callable[[int], str]) -> QuotaLine:
    return QuotaLine(label, used, limit, text(used), text(limit), text(max(limit - used, 0)))


def project_rows(user: User | AnonymousUser) -> QuerySet[Project]:
    """Projects that the person sees, each with the number of its `members`; their own roles come from `roles_of`."""
    projects = Project.objects.filter(pk__in=Project.objects.visible_to(user).values("pk"))
    return projects.annotate(members=Count("memberships")).order_by("name")


def roles_of(user: User | AnonymousUser) -> dict[UUID, Role]:
    """The person's role in each of their projects."""
    if not isinstance(user, User):
        return {}
    memberships = Membership.objects.filter(user=user)
    if user.limited_to:
        memberships = memberships.filter(project=user.limited_to)
    return {project_id: Role(role) for project_id, role in memberships.values_list("project_id", "role")}


def members_of(project: Project) -> QuerySet[Membership]:
    """Owners first, then members, then viewers, each by name."""
    rank = Case(*(When(role=role, then=Value(place)) for place, role in enumerate(Role)), output_field=IntegerField())
    return project.memberships.select_related("user", "project").order_by(rank, "user__username")


def membership_for(
    user: User | AnonymousUser, pk: int, permission: Permission = Permission.PROJECT_MANAGE
) -> Membership:
    """A membership of a project in which `user` holds `permission`. NotFoundError where the project is unseen."""
    membership = Membership.objects.select_related("user", "project").filter(pk=pk).first()
    if membership is None:
        raise NotFoundError
    project_for(user, membership.project_id, permission)
    return membership


def keys_of(user: User | AnonymousUser) -> QuerySet[SshKey]:
    return SshKey.objects.filter(user=user) if isinstance(user, User) else SshKey.objects.none()


def key_for(user: User | AnonymousUser, pk: int) -> SshKey:
    key = keys_of(user).select_related("user").filter(pk=pk).first()
    if key is None:
        raise NotFoundError
    return key
