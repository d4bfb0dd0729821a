"""What a machine can be given while it runs, and what it is given at its next start."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from django.conf import settings
from django.utils.translation import gettext as _

from portal.accounts.models import Project
from portal.accounts.quota import NOTHING, Amount, shortfalls
from portal.lib.units import format_mib
from portal.machines.models import Flavour, Machine
from portal.machines.selectors import flavours
from portal.machines.states import PowerState

MOST_VCPUS = 64
LEAST_ROOM_VCPUS = 4


class When(StrEnum):
    SAME = "same"
    NOW = "now"
    NEXT_START = "next-start"


def room_of(vcpus: int, memory_mib: int) -> tuple[int, int]:
    """The most vCPUs and memory that a machine of this size is defined to take while it runs.

    Processors that are not plugged in do not exist, so room for them costs nothing. Memory that a balloon holds back is
    the guest's to take whenever it likes, past its quota; so there is none unless the operator trusts the guests.
    """
    most_vcpus = max(vcpus, min(max(2 * vcpus, LEAST_ROOM_VCPUS), MOST_VCPUS))
    return most_vcpus, max(int(memory_mib * settings.GUEST_MEMORY_ROOM), memory_mib)


def when_vcpus(machine: Machine, vcpus: int) -> When:
    return _when(machine, machine.vcpus, vcpus, machine.room_vcpus)


def when_memory(machine: Machine, memory_mib: int) -> When:
    return _when(machine, machine.memory_mib, memory_mib, machine.room_memory_mib)


def _when(machine: Machine, has: int, wanted: int, room: int) -> When:
    """Less is never taken away from a running guest: it would have to give it up, and need not."""
    if wanted == has:
        return When.SAME
    return When.NOW if machine.power_state == PowerState.RUNNING and has < wanted <= room else When.NEXT_START


@dataclass(frozen=True, slots=True)
class Choice:
    """A size that the machine could have: what comes when, and why it cannot be had; `reason` is empty if it can."""

    flavour: Flavour
    vcpus: When
    memory: When
    reason: str
    is_current: bool

    @property
    def needs_start(self) -> bool:
        return When.NEXT_START in {self.vcpus, self.memory}

    @property
    def is_live(self) -> bool:
        return When.NOW in {self.vcpus, self.memory}


def choices_for(machine: Machine) -> list[Choice]:
    return [_choice(machine, flavour) for flavour in flavours()]


def _choice(machine: Machine, flavour: Flavour) -> Choice:
    is_current = is_size_of(machine, flavour)
    reason = _("The machine has this size.") if is_current else why_not(machine, flavour)
    vcpus, memory = when_vcpus(machine, flavour.vcpus), when_memory(machine, flavour.memory_mib)
    return Choice(flavour, vcpus, memory, reason, is_current)


def is_size_of(machine: Machine, flavour: Flavour) -> bool:
    """It has this size, and waits for no other one."""
    same = (flavour.vcpus, flavour.memory_mib) == (machine.vcpus, machine.memory_mib)
    return same and machine.wanted_vcpus is None


def why_not(machine: Machine, flavour: Flavour) -> str:
    image = machine.image_version.image if machine.image_version else None
    if image is not None and flavour.memory_mib < image.min_memory_mib:
        return _("Needs at least %(memory)s of memory") % {"memory": format_mib(image.min_memory_mib)}
    more = _after(machine, flavour).beyond(machine.amount)
    return _("More than the project's quota has left") if _lacks(machine.project, more) else ""


def _after(machine: Machine, flavour: Flavour) -> Amount:
    """What it would hold until it has the size: of each the larger."""
    held = machine.amount
    vcpus, memory_mib = max(machine.vcpus, flavour.vcpus), max(machine.memory_mib, flavour.memory_mib)
    return Amount(machines=held.machines, vcpus=vcpus, memory_mib=memory_mib, disk_gib=held.disk_gib)


def _lacks(project: Project, more: Amount) -> bool:
    return more != NOTHING and bool(shortfalls(project, more))
