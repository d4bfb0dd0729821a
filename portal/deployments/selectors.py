"""Reads about deployments. Fetching and authorising are one call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, Q, QuerySet
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in, require
from portal.console.models import ConsoleSession
from portal.deployments.models import Deployment, Seat
from portal.errors import NotFoundError
from portal.jobs.models import Job
from portal.machines.models import Machine
from portal.machines.selectors import Row, rows_for
from portal.machines.states import LIVE, PowerState, Status, Task

_RELATED: Final = ("project", "image_version__image", "flavour", "created_by")
_SEAT_RELATED: Final = (
    *(f"deployment__{name}" for name in _RELATED),
    *("person", "guest", "machine__project", "machine__owner", "machine__flavour"),
    *("machine__host", "machine__image_version__image"),
)
CONDITIONS: Final = {
    "running": Q(machine__status=Status.READY, machine__power_state=PowerState.RUNNING, machine__task=Task.NONE),
    "off": Q(machine__status=Status.READY, machine__power_state=PowerState.SHUT_OFF, machine__task=Task.NONE),
    "busy": Q(machine__status__in=LIVE) & ~Q(machine__task=Task.NONE),
    "failed": Q(machine__status=Status.ERROR),
    "none": ~Q(machine__status__in=LIVE) | Q(machine=None),
}
"""What people mean by a state: the filter of the wall, beside `watched`."""

CONDITION_WORDS: Final = {
    "running": _("Running"),
    "off": _("Shut off"),
    "busy": _("Busy"),
    "failed": _("Failed"),
    "none": _("Without a desktop"),
    "watched": _("Screen open"),
}


def deployments_for(user: User | AnonymousUser, *, search: str = "") -> QuerySet[Deployment]:
    """For the list, newest first, each with its number of `people` and of those whose desktop runs: `running`."""
    found = Deployment.objects.visible_to(user).select_related(*_RELATED)
    if search:
        found = found.filter(Q(name__icontains=search) | Q(project__name__icontains=search))
    running = Q(seats__machine__status=Status.READY, seats__machine__power_state=PowerState.RUNNING)
    found = found.annotate(people=Count("seats"), running=Count("seats", filter=running))
    return found.order_by("-created_at", "pk")


def deployment_for(
    user: User | AnonymousUser, pk: UUID | str, permission: Permission = Permission.MACHINE_CONSOLE_VIEW
) -> Deployment:
    """NotFoundError if unseen, ForbiddenError if only seen."""
    found = Deployment.objects.visible_to(user).select_related(*_RELATED).filter(pk=pk).first()
    if found is None:
        raise NotFoundError
    require(user, found.project_id, permission)
    return found


def seat_for(
    user: User | AnonymousUser, pk: UUID | str, permission: Permission = Permission.MACHINE_CONSOLE_VIEW
) -> Seat:
    """A seat of a deployment that the person sees."""
    visible = Deployment.objects.visible_to(user)
    seat = Seat.objects.filter(pk=pk, deployment__in=visible).select_related(*_SEAT_RELATED).first()
    if seat is None:
        raise NotFoundError
    require(user, seat.deployment.project_id, permission)
    return seat


def own_seat(user: User | AnonymousUser, pk: UUID | str) -> Seat:
    """The person's own; NotFoundError for everybody else's."""
    seat = Seat.objects.of(user).filter(pk=pk).select_related(*_SEAT_RELATED).first()
    if seat is None:
        raise NotFoundError
    return seat


def own_seats(user: User | AnonymousUser) -> QuerySet[Seat]:
    return Seat.objects.of(user).select_related(*_SEAT_RELATED).order_by("deployment__name", "number")


def seats_of(deployment: Deployment, *, search: str = "", state: str = "") -> QuerySet[Seat]:
    """In the order of the list. Filters that mean nothing are ignored."""
    seats = deployment.seats.select_related(*_SEAT_RELATED).order_by("number")
    if search:
        people = Q(person__username__icontains=search) | Q(person__email__icontains=search)
        seats = seats.filter(Q(label__icontains=search) | Q(machine__name__contains=search.lower()) | people)
    if state in CONDITIONS:
        seats = seats.filter(CONDITIONS[state])
    elif state == "watched":
        open_rows = ConsoleSession.objects.filter(ended_at=None, end_ordered_by="").exclude(machine=None)
        seats = seats.filter(machine__in=open_rows.values("machine"))
    return seats


def chosen_of(deployment: Deployment, keys: Iterable[str]) -> list[Seat]:
    """Those that are named, by their ids; all of them if none is. NotFoundError if one is not of this deployment."""
    wanted = set(map(_uuid, keys))
    seats = list(seats_of(deployment).filter(pk__in=wanted) if wanted else seats_of(deployment))
    if wanted and len(seats) != len(wanted):
        raise NotFoundError
    return seats


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise NotFoundError from error


@dataclass(frozen=True, slots=True)
class Guest:
    """Somebody at a screen. `own`: it is the person whose desktop it is."""

    name: str
    own: bool


@dataclass(frozen=True, slots=True)
class Pane:
    """A seat as the wall shows it: its machine with what may be done to it and what happens to it; who is at it."""

    seat: Seat
    row: Row | None
    here: list[Guest]

    @property
    def machine(self) -> Machine | None:
        return self.row.machine if self.row else None

    @property
    def job(self) -> Job | None:
        return self.row.job if self.row else None

    @property
    def is_here(self) -> bool:
        return any(one.own for one in self.here)

    @property
    def others(self) -> list[Guest]:
        return [one for one in self.here if not one.own]

    @property
    def topics(self) -> str:
        """What the card listens to."""
        machine = f" machine:{self.machine.pk} console:{self.machine.pk}" if self.machine else ""
        return f"seat:{self.seat.pk}{machine}"


def panes_of(user: User | AnonymousUser, seats: Iterable[Seat]) -> list[Pane]:
    """The number of queries does not depend on how many they are."""
    listed = list(seats)
    machines = [seat.machine for seat in listed if seat.machine and seat.machine.status in LIVE]
    rows = {row.machine.pk: row for row in rows_for(user, machines)}
    people = _people_at([machine.pk for machine in machines])
    return [
        Pane(seat, rows.get(seat.machine_id) if seat.machine_id else None, _guests(seat, people)) for seat in listed
    ]


def _people_at(machines: list[UUID]) -> dict[UUID, dict[int, str]]:
    """Who has which screen open, by the machine, each once."""
    here = ConsoleSession.objects.filter(machine__in=machines, ended_at=None, end_ordered_by="").exclude(user=None)
    found: dict[UUID, dict[int, str]] = {}
    for machine, user, name in here.order_by("started_at").values_list("machine_id", "user_id", "user_name"):
        found.setdefault(machine, {})[user] = name
    return found


def _guests(seat: Seat, people: dict[UUID, dict[int, str]]) -> list[Guest]:
    own = {pk for pk in (seat.person_id, seat.guest_id) if pk is not None}
    here = people.get(seat.machine_id, {}) if seat.machine_id else {}
    return [Guest(name, pk in own) for pk, name in here.items()]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many seats of a deployment are in which condition. `here`: their own people are at the screen."""

    total: int
    running: int
    off: int
    busy: int
    failed: int
    none: int


def counts_of(deployment: Deployment) -> Counts:
    filters = {name: Count("pk", filter=condition) for name, condition in CONDITIONS.items()}
    return Counts(**deployment.seats.aggregate(total=Count("pk"), **filters))


def may(user: User | AnonymousUser, deployment: Deployment) -> frozenset[str]:
    """Words of buttons to show: manage (people and links), operate, reset, message, control."""
    granted = permissions_in(user, deployment.project_id)
    rules = {
        "manage": Permission.PROJECT_MANAGE,
        "operate": Permission.MACHINE_OPERATE,
        "reset": Permission.MACHINE_DELETE,
        "message": Permission.MACHINE_CONSOLE,
        "control": Permission.MACHINE_CONSOLE,
    }
    return frozenset(word for word, permission in rules.items() if permission in granted)
