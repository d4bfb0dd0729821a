"""What a deployment would take of its project's quota: told before anything is made."""

from __future__ import annotations

from dataclasses import dataclass

from portal.accounts.models import Project
from portal.accounts.quota import Amount, shortfalls
from portal.machines.models import Flavour


@dataclass(frozen=True, slots=True)
class Forecast:
    """For `people` desktops: what they take together, for how many there is room, and what is short of it."""

    people: int
    amount: Amount
    fitting: int
    shortfalls: list[str]

    @property
    def fits(self) -> bool:
        return not self.shortfalls


def forecast(project: Project, flavour: Flavour, people: int) -> Forecast:
    one = flavour.amount
    amount = Amount(one.machines * people, one.vcpus * people, one.memory_mib * people, one.disk_gib * people)
    rooms = [
        (project.max_machines - project.used_machines, one.machines),
        (project.max_vcpus - project.used_vcpus, one.vcpus),
        (project.max_memory_mib - project.used_memory_mib, one.memory_mib),
        (project.max_disk_gib - project.used_disk_gib, one.disk_gib),
    ]
    fitting = min([people, *(max(free, 0) // need for free, need in rooms if need)])
    return Forecast(people, amount, fitting, shortfalls(project, amount) if people else [])
