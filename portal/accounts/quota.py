"""Quota: reserved and released by one conditional UPDATE each, so it holds on SQLite and PostgreSQL alike."""

from dataclasses import dataclass
from uuid import UUID

from django.db.models import F
from django.utils.translation import gettext as _

from portal.accounts.models import Project
from portal.errors import QuotaExceededError


@dataclass(frozen=True, slots=True)
class Amount:
    """What a machine takes. Disk in GiB, memory in MiB."""

    machines: int
    vcpus: int
    memory_mib: int
    disk_gib: int

    def beyond(self, other: "Amount") -> "Amount":
        """What of this is more than `other`; nowhere less than nothing."""
        return Amount(
            machines=max(self.machines - other.machines, 0),
            vcpus=max(self.vcpus - other.vcpus, 0),
            memory_mib=max(self.memory_mib - other.memory_mib, 0),
            disk_gib=max(self.disk_gib - other.disk_gib, 0),
        )

    def times(self, count: int) -> "Amount":
        return Amount(
            machines=self.machines * count,
            vcpus=self.vcpus * count,
            memory_mib=self.memory_mib * count,
            disk_gib=self.disk_gib * count,
        )


NOTHING = Amount(machines=0, vcpus=0, memory_mib=0, disk_gib=0)


def reserve(project_id: UUID, amount: Amount) -> None:
    """Take `amount` from the project's quota, all of it or, with QuotaExceededError, nothing."""
    changed = Project.objects.filter(
        pk=project_id,
        used_machines__lte=F("max_machines") - amount.machines,
        used_vcpus__lte=F("max_vcpus") - amount.vcpus,
        used_memory_mib__lte=F("max_memory_mib") - amount.memory_mib,
        used_disk_gib__lte=F("max_disk_gib") - amount.disk_gib,
    ).update(
        used_machines=F("used_machines") + amount.machines,
        used_vcpus=F("used_vcpus") + amount.vcpus,
        used_memory_mib=F("used_memory_mib") + amount.memory_mib,
        used_disk_gib=F("used_disk_gib") + amount.disk_gib,
    )
    if changed != 1:
        raise QuotaExceededError(_explain(Project.objects.get(pk=project_id), amount))


def release(project_id: UUID, amount: Amount) -> None:
    """Give `amount` back. The caller does this exactly once, by the transition that ends the machine."""
    Project.objects.filter(pk=project_id).update(
        used_machines=F("used_machines") - amount.machines,
        used_vcpus=F("used_vcpus") - amount.vcpus,
        used_memory_mib=F("used_memory_mib") - amount.memory_mib,
        used_disk_gib=F("used_disk_gib") - amount.disk_gib,
    )


def shortfalls(project: Project, amount: Amount) -> list[str]:
    """One sentence for each limit that `amount` would pass; empty if it fits."""
    rows = [
        (_("machines"), amount.machines, project.used_machines, project.max_machines, ""),
        (_("vCPUs"), amount.vcpus, project.used_vcpus, project.max_vcpus, ""),
        (_("memory"), amount.memory_mib, project.used_memory_mib, project.max_memory_mib, " MiB"),
        (_("disk"), amount.disk_gib, project.used_disk_gib, project.max_disk_gib, " GiB"),
    ]
    return [
        _("%(what)s: %(need)s%(unit)s needed, %(free)s%(unit)s of %(most)s%(unit)s free")
        % {"what": what, "need": need, "free": max(most - used, 0), "most": most, "unit": unit}
        for what, need, used, most, unit in rows
        if used + need > most
    ]


def _explain(project: Project, amount: Amount) -> str:
    detail = "; ".join(shortfalls(project, amount)) or _("another request took the last of it just now")
    values = {"project": project.name, "detail": detail}
    if not amount.machines:
        return _("The quota of project %(project)s has no room for this disk (%(detail)s).") % values
    return _("The quota of project %(project)s has no room for this machine (%(detail)s).") % values
