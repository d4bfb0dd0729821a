"""Projects: who is in them, what they may use."""

from typing import Final, Literal
from uuid import UUID

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Field, Query

from portal.accounts import services
from portal.accounts.http import client_ip, person
from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Permission
from portal.accounts.quota import Amount
from portal.accounts.selectors import members_of, membership_for, project_for, project_rows, roles_of
from portal.api.core import Guard, operation
from portal.api.operations.parts import operators_only
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import EventOut, Input, MemberIn, MemberOut, ProjectIn, ProjectOut, QuotaIn, RoleIn, Text
from portal.audit.selectors import events_in
from portal.errors import InvalidError

TAG: Final = "Projects"
Sort = Literal["name", "-name", "-created_at", "created_at"]


@operation(
    "GET",
    "projects",
    tag=TAG,
    answers=Listed[ProjectOut],
    pages=("accounts:projects",),
    links={"show_project": {"pk": "items/0/id"}, "list_members": {"pk": "items/0/id"}},
)
def list_projects(
    request: HttpRequest, page: Query[PageQuery], q: Text = "", sort: Sort = "name"
) -> Listed[ProjectOut]:
    """Projects that you see, with your role and their quota."""
    projects = project_rows(person(request))
    found = page_of(projects.filter(name__icontains=q) if q else projects, page, sort)
    roles = roles_of(person(request))
    return found.shown(lambda project: ProjectOut.of(project, roles.get(project.pk)))


@operation(
    "GET",
    "projects/{uuid:pk}",
    tag=TAG,
    answers=ProjectOut,
    pages=("accounts:project",),
    links={"list_members": {"pk": "id"}, "set_quota": {"pk": "id"}},
)
def show_project(request: HttpRequest, pk: UUID) -> ProjectOut:
    """One project. Its quota says what is reserved and what may be."""
    project = project_for(person(request), pk)
    return ProjectOut.of(project, roles_of(person(request)).get(project.pk))


GUARD: Final = Guard(Project, show_project)


@operation(
    "POST",
    "projects",
    tag=TAG,
    answers=ProjectOut,
    status=201,
    pages=("accounts:project-new",),
    links={"show_project": {"pk": "id"}, "set_quota": {"pk": "id"}, "add_member": {"pk": "id"}},
)
def create_project(request: HttpRequest, body: ProjectIn) -> ProjectOut:
    """Add a project. For operators."""
    operators_only(request)
    project = services.create_project(
        body.name,
        actor=person(request),
        limits=_amount(body.quota),
        description=body.description,
        owner=_owner(body.owner),
        request_ip=client_ip(request),
    )
    return show_project(request, project.pk)


@operation(
    "PUT",
    "projects/{uuid:pk}/quota",
    tag=TAG,
    answers=ProjectOut,
    pages=("accounts:project-quota",),
    guards=GUARD,
)
def set_quota(request: HttpRequest, pk: UUID, body: QuotaIn) -> ProjectOut:
    """Set what a project may use. For operators. Less than it uses now is allowed: then nothing new fits."""
    operators_only(request)
    project = project_for(person(request), pk)
    services.update_quota(project, actor=person(request), limits=_amount(body), request_ip=client_ip(request))
    return show_project(request, pk)


class BinIn(Input):
    days: int = Field(ge=0, le=services.MOST_BIN_DAYS, description="0: what is deleted is gone at once.")


@operation(
    "PUT",
    "projects/{uuid:pk}/bin",
    tag=TAG,
    answers=ProjectOut,
    pages=("accounts:project-bin",),
    guards=GUARD,
)
def set_bin_days(request: HttpRequest, pk: UUID, body: BinIn) -> ProjectOut:
    """How many days deleted machines of a project can be taken back, from now on. For its owners and for operators."""
    project = project_for(person(request), pk, Permission.PROJECT_MANAGE)
    services.set_bin_days(project, actor=person(request), days=body.days, request_ip=client_ip(request))
    return show_project(request, pk)


@operation("GET", "projects/{uuid:pk}/activity", tag=TAG, answers=Listed[EventOut], pages=("accounts:project",))
def list_project_activity(request: HttpRequest, pk: UUID) -> Listed[EventOut]:
    """What people did lately in a project."""
    user = person(request)
    events = events_in(project_for(user, pk).pk)
    return Listed[EventOut](items=[EventOut.of(one, operator=user.is_staff) for one in events], next=None)


# --- members ------------------------------------------------------------------------------------------------------


@operation(
    "GET",
    "projects/{uuid:pk}/members",
    tag=TAG,
    answers=Listed[MemberOut],
    pages=("accounts:project",),
    links={"set_role": {"pk": "items/0/id"}, "remove_member": {"pk": "items/0/id"}},
)
def list_members(request: HttpRequest, pk: UUID) -> Listed[MemberOut]:
    """Who is in a project: owners, members, viewers."""
    members = members_of(project_for(person(request), pk))
    return Listed[MemberOut](items=[MemberOut.of(one) for one in members], next=None)


@operation(
    "POST",
    "projects/{uuid:pk}/members",
    tag=TAG,
    answers=MemberOut,
    status=201,
    pages=("accounts:project-people",),
    guards=GUARD,
    links={"set_role": {"pk": "id"}, "remove_member": {"pk": "id"}},
)
def add_member(request: HttpRequest, pk: UUID, body: MemberIn) -> MemberOut:
    """Give somebody a role in a project. For its owners and for operators."""
    project = project_for(person(request), pk, Permission.PROJECT_MANAGE)
    membership = services.add_member(
        project, actor=person(request), person=body.person, role=body.role, request_ip=client_ip(request)
    )
    return MemberOut.of(membership)


def show_member(request: HttpRequest, pk: int) -> MemberOut:
    return MemberOut.of(membership_for(person(request), pk))


MEMBER_GUARD: Final = Guard(Membership, show_member)


@operation(
    "PUT",
    "projects/members/{int:pk}/role",
    tag=TAG,
    answers=MemberOut,
    pages=("accounts:member-role",),
    guards=MEMBER_GUARD,
)
def set_role(request: HttpRequest, pk: int, body: RoleIn) -> MemberOut:
    """Give a member another role. The last owner keeps theirs."""
    membership = membership_for(person(request), pk)
    services.change_role(membership, actor=person(request), role=body.role, request_ip=client_ip(request))
    membership.refresh_from_db()
    return MemberOut.of(membership)


@operation(
    "DELETE",
    "projects/members/{int:pk}",
    tag=TAG,
    status=204,
    pages=("accounts:member-remove",),
    guards=MEMBER_GUARD,
)
def remove_member(request: HttpRequest, pk: int) -> None:
    """Take somebody out of a project; their machines stay in it."""
    services.remove_member(membership_for(person(request), pk), actor=person(request), request_ip=client_ip(request))


def _amount(quota: QuotaIn) -> Amount:
    return Amount(quota.machines, quota.vcpus, quota.memory_mib, quota.disk_gib)


def _owner(username: str | None) -> User | None:
    if not username:
        return None
    owner = User.objects.filter(username=username, is_active=True).first()
    if owner is None:
        raise InvalidError(_("Nobody here has this user name."), field="owner")
    return owner
