"""Deployments: one desktop for each person of a list."""

import datetime as dt
from collections.abc import Iterable
from typing import Annotated, Final, Literal, Self
from uuid import UUID, uuid4, uuid5

from django.conf import settings
from django.db.models import prefetch_related_objects
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import BaseModel, Field, StringConstraints

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import project_for
from portal.api import idempotency
from portal.api.auth import token_in
from portal.api.core import Guard, operation
from portal.api.operations.console import below_prefix
from portal.api.operations.machines import flavour_named, newest_version
from portal.api.operations.many import BatchOut, batch_shown
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import Input, JobOut, MachineImageOut, MachineOut, Named, Text
from portal.console.notices import MOST as MOST_MESSAGE
from portal.deployments import access, acting, lists, services
from portal.deployments.acting import ACTS
from portal.deployments.forecast import forecast
from portal.deployments.lists import MOST_PEOPLE, Entry
from portal.deployments.models import Deployment, Seat
from portal.deployments.selectors import (
    Pane,
    chosen_of,
    counts_of,
    deployment_for,
    deployments_for,
    own_seat,
    own_seats,
    panes_of,
    seat_for,
    seats_of,
)
from portal.errors import InvalidError
from portal.jobs.models import Job

TAG: Final = "Deployments"
Sort = Literal["-created_at", "created_at", "name", "-name"]
State = Literal["", "running", "off", "busy", "failed", "none", "watched"]
Word = Literal["start", "stop", "reset", "remove"]
LONGEST_S: Final = int(access.LONGEST.total_seconds())
Name = Annotated[Text, StringConstraints(max_length=lists.MOST_LABEL)]


class DeploymentOut(BaseModel):
    """`desktops_are_called` with a number is what each machine is called."""

    id: UUID
    name: str
    project: Named
    desktops_are_called: str
    image: MachineImageOut
    flavour: str
    people: int
    running: int
    created_by: str | None
    created_at: dt.datetime

    @classmethod
    def of(cls, deployment: Deployment, *, people: int, running: int) -> Self:
        return cls(
            id=deployment.pk,
            name=deployment.name,
            project=Named(id=deployment.project_id, name=deployment.project.name),
            desktops_are_called=deployment.prefix,
            image=MachineImageOut.of(deployment.image_version),
            flavour=deployment.flavour.name,
            people=people,
            running=running,
            created_by=deployment.created_by.get_username() if deployment.created_by else None,
            created_at=deployment.created_at,
        )


class HereOut(BaseModel):
    """Somebody at the screen just now. `own`: it is the person whose desktop it is."""

    username: str
    own: bool


class SeatOut(BaseModel):
    """A person of the list and their desktop. `person` is as the list names them, `account` empty without one."""

    id: UUID
    deployment: Named
    number: int
    person: str
    account: str | None
    machine: MachineOut | None
    refused: str = Field(description="Why there is no desktop.")
    link_expires_at: dt.datetime | None = Field(description="Until when their link works; only for who has no account.")
    here: list[HereOut]

    @classmethod
    def of(cls, pane: Pane, *, operator: bool) -> Self:
        seat = pane.seat
        return cls(
            id=seat.pk,
            deployment=Named(id=seat.deployment_id, name=seat.deployment.name),
            number=seat.number,
            person=seat.label,
            account=seat.person.get_username() if seat.person else None,
            machine=MachineOut.of(pane.row, operator=operator) if pane.row else None,
            refused=seat.refusal,
            link_expires_at=seat.link_expires_at,
            here=[HereOut(username=one.name, own=one.own) for one in pane.here],
        )


def _shown(request: HttpRequest, seats: Iterable[Seat]) -> list[SeatOut]:
    user, listed = person(request), list(seats)
    prefetch_related_objects(listed, "machine__labels")
    return [SeatOut.of(pane, operator=user.is_staff) for pane in panes_of(user, listed)]


@operation(
    "GET",
    "deployments",
    tag=TAG,
    answers=Listed[DeploymentOut],
    pages=("deployments:list",),
    links={"show_deployment": {"pk": "items/0/id"}},
)
def list_deployments(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    q: Text = "",
    project: UUID | None = None,
    name: Text = "",
    sort: Sort = "-created_at",
) -> Listed[DeploymentOut]:
    """Deployments of your projects. `q` looks in names of them and of projects, `name` is one whole name."""
    found = deployments_for(person(request), search=q)
    if project:
        found = found.filter(project=project)
    if name:
        found = found.filter(name=name)
    rows = page_of(found, page, sort)
    items = [DeploymentOut.of(row, people=_number(row, "people"), running=_number(row, "running")) for row in rows.rows]
    return Listed[DeploymentOut](items=items, next=rows.next)


def _number(row: Deployment, name: str) -> int:
    return int(getattr(row, name))


@operation(
    "GET",
    "deployments/{uuid:pk}",
    tag=TAG,
    answers=DeploymentOut,
    pages=("deployments:detail",),
    links={name: {"pk": "id"} for name in ("list_seats", "act_on_deployment", "delete_deployment")},
)
def show_deployment(request: HttpRequest, pk: UUID) -> DeploymentOut:
    """One deployment. Its people and their desktops are its seats."""
    return _one(deployment_for(person(request), pk))


def _one(deployment: Deployment) -> DeploymentOut:
    counts = counts_of(deployment)
    return DeploymentOut.of(deployment, people=counts.total, running=counts.running)


GUARD: Final = Guard(Deployment, show_deployment)

# --- a new one ----------------------------------------------------------------------------------------------------


class PeopleIn(Input):
    """Either names or a table, or both together."""

    people: list[Name] = Field(
        default_factory=list, max_length=MOST_PEOPLE, description="User names, e-mail addresses, or names alone."
    )
    table: Text = Field(
        default="",
        max_length=lists.MOST_BYTES,
        description="A list as text: one person a line, or CSV with a column such as username, e-mail or name.",
    )
    group: Text | None = Field(default=None, max_length=150, description="All members of this group of the portal's.")
    partly: bool = Field(
        default=False, description="Without room for all: as many as there is room for, rather than none."
    )


def _entries(request: HttpRequest, body: PeopleIn) -> list[Entry]:
    grouped: list[str] = []
    if body.group is not None:
        group = lists.groups_for(person(request)).filter(name=body.group).first()
        if group is None:
            raise InvalidError(_("There is no such group, or you are not in it."), field="group")
        grouped = lists.members_of(group)
    typed = lists.names_in(lists.as_text(body.people))
    return lists.entries_of(lists.together([*typed, *lists.names_in(body.table), *grouped]))


class ForecastIn(PeopleIn):
    project: UUID
    flavour: Text = Field(max_length=40)


class EntryOut(BaseModel):
    person: str
    account: str | None = Field(description="Empty: this person comes in by a link.")


class ForecastOut(BaseModel):
    """Who is meant, what their desktops take together, and for how many there is room in the project's quota."""

    people: list[EntryOut]
    machines: int
    vcpus: int
    memory_mib: int
    disk_gib: int
    fitting: int
    shortfalls: list[str]


@operation("POST", "deployments/check", tag=TAG, answers=ForecastOut, pages=("deployments:new",))
def check_deployment(request: HttpRequest, body: ForecastIn) -> ForecastOut:
    """What a deployment would be and take. Nothing is made."""
    project = project_for(person(request), body.project, Permission.PROJECT_MANAGE)
    entries = _entries(request, body)
    told = forecast(project, flavour_named(body.flavour), len(entries))
    return ForecastOut(
        people=[
            EntryOut(person=one.label, account=one.person.get_username() if one.person else None) for one in entries
        ],
        machines=told.amount.machines,
        vcpus=told.amount.vcpus,
        memory_mib=told.amount.memory_mib,
        disk_gib=told.amount.disk_gib,
        fitting=told.fitting,
        shortfalls=told.shortfalls,
    )


class DeploymentIn(ForecastIn):
    name: Text = Field(min_length=1, max_length=services.MOST_NAME)
    image: UUID = Field(description="Its newest version that is ready.")
    desktops_are_called: Text = Field(default="desktop", max_length=services.MOST_PREFIX)


@operation(
    "POST",
    "deployments",
    tag=TAG,
    answers=DeploymentOut,
    status=201,
    pages=("deployments:new",),
    links={"show_deployment": {"pk": "id"}, "list_seats": {"pk": "id"}, "delete_deployment": {"pk": "id"}},
)
def create_deployment(request: HttpRequest, body: DeploymentIn) -> DeploymentOut:
    """Have a desktop made for each of these people. For the project's owners. Links are made afterwards."""
    user = person(request)
    project = project_for(user, body.project, Permission.PROJECT_MANAGE)
    plan = services.Plan(
        body.name, body.desktops_are_called, newest_version(request, project, body.image), flavour_named(body.flavour)
    )
    made = services.make_deployment(
        project,
        actor=user,
        plan=plan,
        people=_entries(request, body),
        whole=not body.partly,
        request_key=_key_of(request),
        request_ip=client_ip(request),
    )
    return _one(deployment_for(user, made.pk))


def _key_of(request: HttpRequest) -> UUID | None:
    key = idempotency.key_of(request)
    return uuid5(token_in(request).pk, key) if key else None


# --- its people ---------------------------------------------------------------------------------------------------


@operation(
    "GET",
    "deployments/{uuid:pk}/seats",
    tag=TAG,
    answers=Listed[SeatOut],
    pages=("deployments:detail", "deployments:links"),
    links={"show_seat": {"pk": "items/0/id"}},
)
def list_seats(
    request: HttpRequest, pk: UUID, *, page: Query[PageQuery], q: Text = "", state: State = ""
) -> Listed[SeatOut]:
    """The people of a deployment with their desktops. `q` looks in names; `watched` are those whose screen is open."""
    deployment = deployment_for(person(request), pk)
    found = page_of(seats_of(deployment, search=q, state=state), page, "number")
    return Listed[SeatOut](items=_shown(request, found.rows), next=found.next)


@operation("GET", "seats/{uuid:pk}", tag=TAG, answers=SeatOut, pages=("deployments:seat-pane",))
def show_seat(request: HttpRequest, pk: UUID) -> SeatOut:
    """One person of a deployment with their desktop."""
    [shown] = _shown(request, [seat_for(person(request), pk)])
    return shown


SEAT_GUARD: Final = Guard(Seat, show_seat)


@operation(
    "POST",
    "deployments/{uuid:pk}/people",
    tag=TAG,
    answers=Listed[SeatOut],
    status=201,
    pages=("deployments:people",),
    guards=GUARD,
    links={"show_seat": {"pk": "items/0/id"}},
)
def add_people(request: HttpRequest, pk: UUID, body: PeopleIn) -> Listed[SeatOut]:
    """Add people to a deployment. Those who are new are answered; who has a desktop there is left out."""
    user = person(request)
    deployment = deployment_for(user, pk, Permission.PROJECT_MANAGE)
    new = services.add_people(
        deployment, actor=user, people=_entries(request, body), whole=not body.partly, request_ip=client_ip(request)
    )
    seats = seats_of(deployment).filter(pk__in=[seat.pk for seat in new])
    return Listed[SeatOut](items=_shown(request, seats), next=None)


class SeatsIn(Input):
    seats: list[UUID] = Field(default_factory=list, max_length=MOST_PEOPLE, description="Left out, all of them.")


def _chosen(deployment: Deployment, body: SeatsIn) -> list[Seat]:
    return chosen_of(deployment, [str(pk) for pk in body.seats])


class ActIn(SeatsIn):
    action: Word


@operation(
    "POST",
    "deployments/{uuid:pk}/act",
    tag=TAG,
    answers=BatchOut,
    status=201,
    pages=("deployments:act",),
    guards=GUARD,
    links={"show_batch": {"pk": "id"}},
)
def act_on_deployment(request: HttpRequest, pk: UUID, body: ActIn) -> BatchOut:
    """Start, shut down, reset or remove the desktops of all or some. A refusal of one stops no other.

    `reset` makes each anew from the image: what people saved on it is lost. `remove` takes the people from the list and
    deletes their desktops. `start` and `reset` make a desktop for who has none."""
    user = person(request)
    deployment = deployment_for(user, pk, ACTS[body.action].permission)
    batch = acting.act(
        deployment,
        body.action,
        _chosen(deployment, body),
        actor=user,
        request_id=_key_of(request) or uuid4(),
        request_ip=client_ip(request),
    )
    return batch_shown(request, batch)


class DeletedOut(BaseModel):
    """`gone` is false where some desktop could not be deleted, as its item says: the deployment is left with those."""

    gone: bool
    desktops: BatchOut


@operation(
    "DELETE",
    "deployments/{uuid:pk}",
    tag=TAG,
    answers=DeletedOut,
    status=202,
    pages=("deployments:delete",),
    guards=GUARD,
    links={"show_batch": {"pk": "desktops/id"}},
)
def delete_deployment(request: HttpRequest, pk: UUID) -> DeletedOut:
    """Delete all its desktops, into the project's bin if it has one, and then the deployment."""
    user = person(request)
    deployment = deployment_for(user, pk, Permission.MACHINE_DELETE)
    batch, gone = acting.delete_all(
        deployment, list(seats_of(deployment)), actor=user, request_id=uuid4(), request_ip=client_ip(request)
    )
    return DeletedOut(gone=gone, desktops=batch_shown(request, batch))


class MessageIn(SeatsIn):
    text: Text = Field(max_length=MOST_MESSAGE, description="Empty takes the last one away.")


class ToldOut(BaseModel):
    desktops: int


@operation(
    "POST",
    "deployments/{uuid:pk}/message",
    tag=TAG,
    answers=ToldOut,
    pages=("deployments:message",),
    guards=GUARD,
)
def tell_deployment(request: HttpRequest, pk: UUID, body: MessageIn) -> ToldOut:
    """Show a message on the screens of all or some, for an hour or until the next."""
    user = person(request)
    deployment = deployment_for(user, pk, Permission.MACHINE_CONSOLE)
    told = acting.tell(
        deployment, _chosen(deployment, body), actor=user, text=body.text.strip(), request_ip=client_ip(request)
    )
    return ToldOut(desktops=told)


# --- links --------------------------------------------------------------------------------------------------------


class LinksIn(SeatsIn):
    lifetime_s: int = Field(default=7 * 86_400, ge=60, le=LONGEST_S)


class SeatLinkOut(BaseModel):
    seat: UUID
    person: str
    url: str


class SeatLinksOut(BaseModel):
    """The addresses are shown this once."""

    expires_at: dt.datetime
    links: list[SeatLinkOut]


@operation(
    "POST",
    "deployments/{uuid:pk}/links",
    tag=TAG,
    answers=SeatLinksOut,
    status=201,
    pages=("deployments:links",),
    guards=GUARD,
)
def make_seat_links(request: HttpRequest, pk: UUID, body: LinksIn) -> SeatLinksOut:
    """A link for each person without an account, to their own desktop. One that there was before works no more."""
    user = person(request)
    deployment = deployment_for(user, pk, Permission.PROJECT_MANAGE)
    made = access.make_links(
        deployment,
        _chosen(deployment, body),
        actor=user,
        lifetime=dt.timedelta(seconds=body.lifetime_s),
        request_ip=client_ip(request),
    )
    return SeatLinksOut.model_validate(
        {
            "expires_at": made[0].seat.link_expires_at,
            "links": [SeatLinkOut(seat=link.seat.pk, person=link.seat.label, url=_url_of(link.token)) for link in made],
        }
    )


def _url_of(token: str) -> str:
    return f"{settings.CASEMENT_URL}{below_prefix(reverse('deployments:shared', args=[token]))}"


@operation(
    "DELETE",
    "seats/{uuid:pk}/link",
    tag=TAG,
    status=204,
    pages=("deployments:seat-unlink",),
    guards=SEAT_GUARD,
)
def revoke_seat_link(request: HttpRequest, pk: UUID) -> None:
    """Revoke a person's link. Whoever came by it is out within two seconds."""
    user = person(request)
    seat = seat_for(user, pk, Permission.PROJECT_MANAGE)
    access.revoke_link(seat, actor=user, request_ip=client_ip(request))


# --- one desktop --------------------------------------------------------------------------------------------------


class StepIn(Input):
    mode: Literal["view", "control"] = "view"


class StepOut(BaseModel):
    """The machine, for a ticket to its screen in this mode."""

    machine: UUID
    mode: Literal["view", "control"]


@operation(
    "POST",
    "seats/{uuid:pk}/step-in",
    tag=TAG,
    answers=StepOut,
    pages=("deployments:seat-step",),
    guards=SEAT_GUARD,
    links={"make_ticket": {"pk": "machine"}},
)
def step_in(request: HttpRequest, pk: UUID, body: StepIn) -> StepOut:
    """Say that you are about to look at a person's screen, or to work on it. It is written down, and they are told."""
    user = person(request)
    seat = seat_for(user, pk)
    machine = acting.step_in(seat, actor=user, control=body.mode == "control", request_ip=client_ip(request))
    return StepOut(machine=machine.pk, mode=body.mode)


@operation(
    "GET",
    "seats",
    tag=TAG,
    answers=Listed[SeatOut],
    pages=("deployments:list", "deployments:own"),
    links={"start_own_desktop": {"pk": "items/0/id"}},
)
def list_own_desktops(request: HttpRequest) -> Listed[SeatOut]:
    """The desktops that deployments have for you."""
    return Listed[SeatOut](items=_shown(request, own_seats(person(request))), next=None)


@operation(
    "POST",
    "seats/{uuid:pk}/start",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("deployments:own-start",),
    links={"show_job": {"pk": "id"}},
)
def start_own_desktop(request: HttpRequest, pk: UUID) -> Job:
    """Switch on the desktop that a deployment has for you."""
    user = person(request)
    seat = own_seat(user, pk)
    return acting.start_own(seat, actor=user, request_ip=client_ip(request))
