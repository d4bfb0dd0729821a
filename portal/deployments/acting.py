"""What is asked of all desktops of a deployment, or of some: start, shut down, reset, remove; and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import transaction
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.console import notices
from portal.copies import rebuilding
from portal.deployments import services
from portal.deployments.models import Deployment, Seat
from portal.errors import ConflictError, ForbiddenError, InvalidError
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import many
from portal.machines import services as machines
from portal.machines.models import Batch, Machine
from portal.machines.states import CAN_START, LIVE, PowerState, Status, Task


@dataclass(frozen=True, slots=True)
class Act:
    """`asked` is the word that the request for many is kept by; `fills`: seats without a desktop get one."""

    words: str | Promise
    asked: str
    permission: Permission
    request: Callable[..., Job]
    wanted: Callable[[Machine], bool]
    fills: bool = False
    warns: bool = False


def _start(machine: Machine, *, actor: User, request_ip: str | None) -> Job:
    """One whose building failed is built again."""
    if machine.status == Status.ERROR:
        return machines.request_retry(machine, actor=actor, request_ip=request_ip)
    return machines.request_start(machine, actor=actor, request_ip=request_ip)


def _reset(machine: Machine, *, actor: User, request_ip: str | None) -> Job:
    """A new desktop from the image: name, address and size stay, what its disk held is lost."""
    if machine.status == Status.ERROR:
        return machines.request_retry(machine, actor=actor, request_ip=request_ip)
    version = machine.seat.deployment.image_version
    return rebuilding.request_rebuild(
        machine, actor=actor, version=version, confirmed=machine.name, request_ip=request_ip
    )


def _remove(machine: Machine, *, actor: User, request_ip: str | None) -> Job:
    job = services.remove_seat(machine.seat, actor=actor, request_ip=request_ip)
    if job is None:
        raise ConflictError(_("There is no desktop any more."))
    return job


def _is_on(machine: Machine) -> bool:
    return machine.status == Status.READY and machine.power_state == PowerState.RUNNING and machine.task == Task.NONE


def _is_off(machine: Machine) -> bool:
    return machine.status == Status.READY and machine.power_state == PowerState.SHUT_OFF and machine.task == Task.NONE


ACTS: Final[dict[str, Act]] = {
    "start": Act(
        gettext_lazy("Start"),
        "start",
        Permission.MACHINE_OPERATE,
        _start,
        lambda machine: not _is_on(machine),
        fills=True,
    ),
    "stop": Act(
        gettext_lazy("Shut down"),
        "stop",
        Permission.MACHINE_OPERATE,
        machines.request_stop,
        lambda machine: not _is_off(machine),
    ),
    "reset": Act(
        gettext_lazy("Reset"),
        "rebuild",
        Permission.MACHINE_DELETE,
        _reset,
        lambda _machine: True,
        fills=True,
        warns=True,
    ),
    "remove": Act(
        gettext_lazy("Remove"), "delete", Permission.MACHINE_DELETE, _remove, lambda _machine: True, warns=True
    ),
}


@transaction.atomic
def act(
    deployment: Deployment,
    word: str,
    seats: Sequence[Seat],
    *,
    actor: User,
    request_id: UUID,
    request_ip: str | None = None,
) -> Batch:
    """Ask it of the desktops of these seats; a refusal of one stops no other. The same `request_id` is one request.

    What is as it is wanted is left alone. Seats without a desktop get one when they are started or reset, as far as
    there is room, and are gone at once when they are removed. It is one transaction: who dies in the middle has asked
    nothing, and the same request again asks all of it.
    """
    wanted = ACTS.get(word)
    if wanted is None:
        raise InvalidError(_("Choose what to do."))
    require(actor, deployment.project_id, wanted.permission)
    earlier = Batch.objects.filter(pk=request_id, actor=actor).first()
    if earlier is not None:
        return earlier
    filled: set[UUID] = set()
    if wanted.fills and _may_make(actor, deployment):
        filled = {seat.pk for seat in services.furnish_missing(deployment, seats, actor=actor, request_ip=request_ip)}
    if word == "remove":
        for seat in seats:
            if seat.machine is None or seat.machine.status not in LIVE:
                services.remove_seat(seat, actor=actor, request_ip=request_ip)
    found = [
        seat.machine
        for seat in seats
        if seat.pk not in filled and seat.machine and seat.machine.status in LIVE and wanted.wanted(seat.machine)
    ]
    action = many.Action(wanted.words, wanted.request, wanted.permission)
    return many.request_many(
        found, wanted.asked, actor=actor, request_id=request_id, request_ip=request_ip, action=action
    )


def _may_make(actor: User, deployment: Deployment) -> bool:
    try:
        require(actor, deployment.project_id, Permission.MACHINE_CREATE)
    except ForbiddenError:
        return False
    return True


@transaction.atomic
def delete_all(
    deployment: Deployment,
    seats: Sequence[Seat],
    *,
    actor: User,
    request_id: UUID,
    request_ip: str | None = None,
) -> tuple[Batch, bool]:
    """Remove everybody, and then the deployment. False: some desktop could not be deleted, so it and they are left."""
    batch = act(deployment, "remove", seats, actor=actor, request_id=request_id, request_ip=request_ip)
    return batch, services.forget(deployment, actor=actor, request_ip=request_ip)


@transaction.atomic
def tell(
    deployment: Deployment,
    seats: Collection[Seat],
    *,
    actor: User,
    text: str,
    request_ip: str | None = None,
) -> int:
    """Show a message on the screens of these seats, for as long as notices.LASTS; an empty one takes it away.

    Returns on how many desktops.
    """
    require(actor, deployment.project_id, Permission.MACHINE_CONSOLE)
    told = [seat.machine for seat in seats if seat.machine and seat.machine.status in LIVE]
    notices.post(told, actor=actor, text=text)
    audit.record(
        actor, "deployment.message", deployment, detail={"text": text, "desktops": len(told)}, request_ip=request_ip
    )
    return len(told)


@transaction.atomic
def step_in(seat: Seat, *, actor: User, control: bool, request_ip: str | None = None) -> Machine:
    """Somebody is about to look at a person's screen, or to work on it. The person is told who, on the screen."""
    machine = seat.machine
    if machine is None or machine.status not in LIVE:
        raise ConflictError(_("%(person)s has no desktop just now.") % {"person": seat.label})
    needed = Permission.MACHINE_CONSOLE if control else Permission.MACHINE_CONSOLE_VIEW
    require(actor, seat.deployment.project_id, needed)
    detail = {"person": seat.label, "mode": "control" if control else "view"}
    audit.record(actor, "deployment.step_in", machine, detail=detail, request_ip=request_ip)
    return machine


@transaction.atomic
def start_own(seat: Seat, *, actor: User, request_ip: str | None = None) -> Job:
    """A person switches their own desktop on: whoever shuts it down inside must not need anybody to come back."""
    machine = seat.machine
    if machine is None or actor.pk not in (seat.person_id, seat.guest_id):
        raise ForbiddenError

    def write_down(claimed: Machine) -> None:
        """Without an actor `claim` asks for no role: the person has none here, but the seat."""
        audit.record(actor, "deployment.own_start", claimed, detail={"person": seat.label}, request_ip=request_ip)

    return machines.claim(
        machine,
        JobName.MACHINE_START,
        Task.STARTING,
        CAN_START,
        actor=None,
        request_ip=request_ip,
        then=write_down,
    )
