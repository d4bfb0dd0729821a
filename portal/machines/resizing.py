"""Another size for a machine: what a person asks for, and what workers record of it.

From the request on the machine holds the larger of both sizes. What the guest does not take while it runs comes with
its next start, and until then both are held: a guest that is to have less still has more.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.errors import ConflictError, InvalidError
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import services, sizes
from portal.machines.models import Flavour, Machine
from portal.machines.states import IS_KNOWN, PowerState, Task


def request_resize(machine: Machine, *, actor: User, flavour: Flavour, request_ip: str | None = None) -> Job:
    """Reserve what more it takes, and have it given to the machine: at once where that goes, else at its next start."""
    _check(machine, flavour)
    return services.claim(
        machine,
        JobName.MACHINE_RESIZE,
        Task.RESIZING,
        IS_KNOWN,
        actor=actor,
        request_ip=request_ip,
        permission=Permission.MACHINE_CREATE,
        where=Q(saved_at=None, keeps_definition=False),
        then=lambda claimed: _want(claimed, flavour),
        detail={"before": _size_text(machine), "after": flavour.name},
    )


def _check(machine: Machine, flavour: Flavour) -> None:
    if machine.keeps_definition:
        raise ConflictError(_("Somebody else defined this machine: only they can change its size."))
    if not flavour.enabled:
        raise InvalidError(_("This size is no longer offered."), field="flavour")
    if machine.task == Task.NONE and sizes.is_size_of(machine, flavour):
        raise InvalidError(_("The machine has this size."), field="flavour")
    image = machine.image_version.image if machine.image_version else None
    if image is not None and flavour.memory_mib < image.min_memory_mib:
        raise InvalidError(
            _("%(image)s needs at least %(memory)s MiB of memory; choose a larger size.")
            % {"image": image.title, "memory": image.min_memory_mib},
            field="flavour",
        )


def _want(machine: Machine, flavour: Flavour) -> None:
    values = {"wanted_vcpus": flavour.vcpus, "wanted_memory_mib": flavour.memory_mib, "wanted_flavour_id": flavour.pk}
    services.change_held(machine.pk, Q(task=Task.RESIZING), lambda _row: dict(values))


def _size_text(machine: Machine) -> str:
    return machine.flavour.name if machine.flavour else f"{machine.vcpus} vCPU, {machine.memory_mib} MiB"


# --- what workers found out ---------------------------------------------------------------------------------------


def record_live(machine: Machine, *, vcpus: int | None = None, memory_mib: int | None = None) -> None:
    """What the running guest was given. It is part of what is held already."""
    values: dict[str, object] = {}
    if vcpus is not None:
        values["vcpus"] = vcpus
    if memory_mib is not None:
        values["memory_mib"] = memory_mib
    waits = Q(wanted_vcpus__isnull=False)
    services.change_held(machine.pk, waits, lambda _row: values)


@transaction.atomic
def record_resized(machine: Machine) -> None:
    """All that could be done is done. What waits for the next start goes on being held besides."""
    waits = Q(wanted_vcpus__isnull=False)
    services.change_held(machine.pk, waits, _as_far_as_taken)
    services.record_task_ended(machine, Task.RESIZING)


def _as_far_as_taken(machine: Machine) -> dict[str, object]:
    wanted = (machine.wanted_vcpus, machine.wanted_memory_mib)
    has_it = (machine.vcpus, machine.memory_mib) == wanted
    return services.size_taken(machine) if has_it or machine.power_state == PowerState.SHUT_OFF else {}


@transaction.atomic
def record_resize_failed(machine: Machine, *, message: str = "") -> None:
    """It keeps the size that it has, and what was reserved besides is given back."""
    waits = Q(wanted_vcpus__isnull=False)
    services.change_held(machine.pk, waits, lambda _row: dict(services.NO_SIZE_WANTED))
    services.record_task_ended(machine, Task.RESIZING, message=message)
