"""Writes about deployments: making one, its people, its end. What is asked of the desktops is in acting.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils.translation import gettext as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.deployments import access
from portal.deployments.events import deployment_changed
from portal.deployments.lists import MOST_PEOPLE, Entry
from portal.deployments.models import Deployment, Seat
from portal.errors import ConflictError, InvalidError, NoCapacityError, NotFoundError, PortalError, QuotaExceededError
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.machines import binning
from portal.machines import services as machines
from portal.machines.launch import login_user_for
from portal.machines.models import Flavour
from portal.machines.states import LIVE

MOST_NAME: Final = 100
MOST_PREFIX: Final = 50


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment's desktops are made of, and what they are called."""

    name: str
    prefix: str
    image_version: ImageVersion
    flavour: Flavour


def make_deployment(
    project: Project,
    *,
    actor: User,
    plan: Plan,
    people: Sequence[Entry],
    whole: bool,
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> Deployment:
    """A desktop for each of the people. The same `request_key` gives the same deployment again.

    It lets people into the project's machines who are not in the project, so it is for its owners. `whole`: all of the
    desktops or, where there is no room, nothing at all; else as many as there is room for, and each seat without one
    says why.
    """
    require(actor, project.pk, Permission.PROJECT_MANAGE)
    earlier = _of_request(project, request_key)
    if earlier is not None:
        return earlier
    _check(plan, people)
    machines.check_fits(plan.image_version, project, plan.flavour)
    try:
        with transaction.atomic():
            return _make(project, plan, people, whole, request_key or uuid4(), actor=actor, request_ip=request_ip)
    except IntegrityError as error:
        # The other of two requests at once may have been the same one, or one of the same name.
        earlier = _of_request(project, request_key)
        if earlier is not None:
            return earlier
        raise ConflictError(
            _("There is a deployment named %(name)s in this project already.") % {"name": plan.name}, field="name"
        ) from error


def _of_request(project: Project, request_key: UUID | None) -> Deployment | None:
    return Deployment.objects.filter(project=project, request_key=request_key).first() if request_key else None


def _check(plan: Plan, people: Sequence[Entry]) -> None:
    if not plan.name.strip() or len(plan.name) > MOST_NAME:
        raise InvalidError(_("Give it a name of at most %(most)s characters.") % {"most": MOST_NAME}, field="name")
    if not plan.prefix or len(plan.prefix) > MOST_PREFIX:
        raise InvalidError(_("At most %(most)s characters.") % {"most": MOST_PREFIX}, field="prefix")
    try:
        machines.check_name(f"{plan.prefix}-{MOST_PEOPLE}")
    except InvalidError as error:
        raise InvalidError(error.message, field="prefix") from error
    _check_number(people, already=0)


def _check_number(people: Sequence[Entry], *, already: int) -> None:
    if not people:
        raise InvalidError(_("Name at least one person."), field="people")
    if len(people) + already > MOST_PEOPLE:
        raise InvalidError(_("A deployment is for at most %(most)s people.") % {"most": MOST_PEOPLE}, field="people")


def _make(
    project: Project,
    plan: Plan,
    people: Sequence[Entry],
    whole: bool,
    request_key: UUID,
    *,
    actor: User,
    request_ip: str | None,
) -> Deployment:
    deployment = Deployment.objects.create(
        project=project,
        name=plan.name.strip(),
        prefix=plan.prefix,
        image_version=plan.image_version,
        flavour=plan.flavour,
        request_key=request_key,
        created_by=actor,
    )
    detail = {"people": len(people), "image": str(plan.image_version), "flavour": plan.flavour.name}
    audit.record(actor, "deployment.made", deployment, detail=detail, request_ip=request_ip)
    seats = _seat(deployment, people)
    furnish(deployment, seats, whole=whole, actor=actor, request_ip=request_ip)
    return deployment


@transaction.atomic
def add_people(
    deployment: Deployment, *, actor: User, people: Sequence[Entry], whole: bool, request_ip: str | None = None
) -> list[Seat]:
    """A desktop for each of these, too. Who has one already is left out; the seats that are new are given back."""
    require(actor, deployment.project_id, Permission.PROJECT_MANAGE)
    locked = _locked(deployment)
    known = {label.casefold() for label in locked.seats.values_list("label", flat=True)}
    accounts = set(locked.seats.exclude(person=None).values_list("person_id", flat=True))
    new = [
        one for one in people if one.label.casefold() not in known and not (one.person and one.person.pk in accounts)
    ]
    if people and not new:
        return []
    _check_number(new, already=len(known))
    audit.record(
        actor, "deployment.added", locked, detail={"people": [one.label for one in new]}, request_ip=request_ip
    )
    seats = _seat(locked, new)
    furnish(locked, seats, whole=whole, actor=actor, request_ip=request_ip)
    return seats


def _locked(deployment: Deployment) -> Deployment:
    """While nobody else adds people or makes desktops for them. NotFoundError if it was deleted meanwhile."""
    found = Deployment.objects.select_for_update().filter(pk=deployment.pk).first()
    if found is None:
        raise NotFoundError
    return Deployment.objects.select_related("project", "image_version__image", "flavour").filter(pk=found.pk).get()


def _seat(deployment: Deployment, people: Sequence[Entry]) -> list[Seat]:
    last = deployment.seats.aggregate(last=Max("number"))["last"] or 0
    return [
        Seat.objects.create(deployment=deployment, number=number, label=one.label, person=one.person)
        for number, one in enumerate(people, last + 1)
    ]


@transaction.atomic
def furnish_missing(
    deployment: Deployment, seats: Sequence[Seat], *, actor: User, request_ip: str | None = None
) -> list[Seat]:
    """A desktop for those of the seats that have none, as far as there is room; they are given back."""
    locked = _locked(deployment)
    empty = locked.seats.filter(pk__in=[seat.pk for seat in seats]).exclude(machine__status__in=LIVE)
    missing = list(empty.select_related("person", "guest").order_by("number"))
    furnish(locked, missing, whole=False, actor=actor, request_ip=request_ip)
    return missing


def furnish(deployment: Deployment, seats: Sequence[Seat], *, whole: bool, actor: User, request_ip: str | None) -> None:
    """Have the desktops of these seats built, which have none. Called with the deployment locked.

    `whole`: the first that cannot be is the end of all, with what stands in the error.
    """
    full: PortalError | None = None
    for place, seat in enumerate(seats):
        seat.deployment = deployment
        if full is None:
            try:
                with transaction.atomic():
                    _furnish(seat, actor=actor, request_ip=request_ip)
                continue
            except PortalError as error:
                if whole:
                    raise _only(place, len(seats), error) from error
                if isinstance(error, QuotaExceededError | NoCapacityError):
                    full = error  # All are of one size: there is no room for the next either.
                reason = error
        else:
            reason = full
        seat.refusal = str(reason.message)
        Seat.objects.filter(pk=seat.pk).update(refusal=seat.refusal)
    deployment_changed(deployment)


def _only(fitting: int, wanted: int, error: PortalError) -> PortalError:
    message = _("Room for %(fitting)s of %(wanted)s desktops, so none was made. %(reason)s") % {
        "fitting": fitting,
        "wanted": wanted,
        "reason": error.message,
    }
    if isinstance(error, QuotaExceededError | NoCapacityError):
        return type(error)(message, field="whole")
    return ConflictError(error.message, field="prefix" if error.field == "name" else error.field)


def _furnish(seat: Seat, *, actor: User, request_ip: str | None) -> None:
    deployment = seat.deployment
    machine = machines.request_machine(
        deployment.project,
        actor=actor,
        image_version=deployment.image_version,
        flavour=deployment.flavour,
        name=seat.machine_name,
        login_user=login_user_for(seat.person or User(username=seat.label)),
        request_ip=request_ip,
    )
    seat.machine, seat.refusal = machine, ""
    Seat.objects.filter(pk=seat.pk).update(machine=machine, refusal="")
    access.open_desktop(seat)


@transaction.atomic
def remove_seat(seat: Seat, *, actor: User, request_ip: str | None = None) -> Job | None:
    """The person leaves the list. Their desktop is deleted as machines are: into the bin, if its project has one.

    Whoever is at its screen is out of it within two seconds. None if there was no desktop.
    """
    require(actor, seat.deployment.project_id, Permission.MACHINE_DELETE)
    if not Seat.objects.select_for_update().filter(pk=seat.pk).exists():
        raise NotFoundError
    machine = seat.machine
    job = None
    if machine is not None and machine.status in LIVE:
        job = binning.request_removal(machine, actor=actor, request_ip=request_ip)
    access.close_desktop(seat)
    detail = {"person": seat.label}
    audit.record(actor, "deployment.removed", seat.deployment, detail=detail, request_ip=request_ip)
    Seat.objects.filter(pk=seat.pk).delete()
    deployment_changed(seat.deployment)
    return job


@transaction.atomic
def forget(deployment: Deployment, *, actor: User, request_ip: str | None = None) -> bool:
    """Delete what has no seats left. False if it has some."""
    require(actor, deployment.project_id, Permission.MACHINE_DELETE)
    locked = _locked(deployment)
    if locked.seats.exists():
        return False
    audit.record(actor, "deployment.deleted", locked, request_ip=request_ip)
    deployment_changed(locked)
    locked.delete()
    return True
