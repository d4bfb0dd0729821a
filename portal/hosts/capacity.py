"""A host's capacity as bars: what is promised to machines, and what is really used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from django.db.models import Count, F, Sum
from django.db.models.functions import Floor, Greatest
from django.utils.translation import gettext as _

from portal.hosts import placement
from portal.hosts.models import Host
from portal.lib.units import format_bytes, format_mib, format_number, percent


@dataclass(frozen=True, slots=True)
class CapacityLine:
    """One resource. Promised is measured against what may be promised, used against what there is.

    `note` says how the one follows from the other, for a single host.
    """

    label: str
    promised: float
    promisable: float
    used: float
    total: float
    promised_text: str
    used_text: str
    note: str = ""

    @property
    def promised_percent(self) -> int:
        return percent(self.promised, self.promisable)

    @property
    def used_percent(self) -> int:
        return percent(self.used, self.total)

    @property
    def is_tight(self) -> bool:
        return self.promised_percent >= 90 or self.used_percent >= 90


class Figures(Protocol):
    """A host's, or the sums of many."""

    @property
    def reserved_vcpus(self) -> int: ...
    @property
    def vcpus_promisable(self) -> int: ...
    @property
    def load(self) -> float: ...
    @property
    def cpus(self) -> int: ...
    @property
    def reserved_memory_mib(self) -> int: ...
    @property
    def memory_promisable_mib(self) -> int: ...
    @property
    def memory_used_mib(self) -> int: ...
    @property
    def memory_mib(self) -> int: ...
    @property
    def reserved_disk_gib(self) -> int: ...
    @property
    def disk_promisable_gib(self) -> int: ...
    @property
    def storage_total_bytes(self) -> int: ...
    @property
    def storage_free_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Sums:
    reserved_vcpus: int
    vcpus_promisable: int
    load: float
    cpus: int
    reserved_memory_mib: int
    memory_promisable_mib: int
    memory_used_mib: int
    memory_mib: int
    reserved_disk_gib: int
    disk_promisable_gib: int
    storage_total_bytes: int
    storage_free_bytes: int


def capacity_of(host: Host) -> list[CapacityLine]:
    """vCPUs, memory and disk of one host, with its over-commit ratios."""
    kept = {"kept": format_mib(host.memory_kept_mib)}
    return _lines(
        host,
        _("%(ratio)s promised per CPU") % {"ratio": format_number(host.vcpu_overcommit)},
        _("what there is, without the host's own %(kept)s") % kept
        if host.memory_overcommit == 1
        else _("%(ratio)s times what there is, without the host's own %(kept)s")
        % {"ratio": format_number(host.memory_overcommit), **kept},
        _("%(ratio)s times what its storage pool holds") % {"ratio": format_number(host.disk_overcommit)},
    )


def capacity_of_enabled() -> tuple[list[CapacityLine], int]:
    """The same of all hosts together that take machines, and how many they are. One query, however many."""
    sums = Host.objects.filter(enabled=True).aggregate(
        number=Count("pk"),
        vcpus_promisable=Sum(Floor(placement.VCPUS)),
        memory_promisable_mib=Sum(Greatest(Floor(placement.MEMORY_MIB), 0.0)),
        disk_promisable_gib=Sum(Floor(placement.DISK_GIB)),
        **{name: Sum(F(name)) for name in _SUMMED},
    )
    number = int(sums.pop("number"))
    if not number:
        return [], 0
    load = float(sums.pop("load"))
    return _lines(Sums(load=load, **{name: int(value) for name, value in sums.items()})), number


_SUMMED = (
    "reserved_vcpus",
    "reserved_memory_mib",
    "reserved_disk_gib",
    "load",
    "cpus",
    "memory_used_mib",
    "memory_mib",
    "storage_total_bytes",
    "storage_free_bytes",
)


def _lines(of: Figures, *notes: str) -> list[CapacityLine]:
    cpu_note, memory_note, disk_note = notes or ("", "", "")
    cpus = CapacityLine(
        _("vCPUs"),
        of.reserved_vcpus,
        of.vcpus_promisable,
        of.load,
        of.cpus,
        _("%(promised)s of %(most)s") % {"promised": of.reserved_vcpus, "most": of.vcpus_promisable},
        _("load %(load)s on %(total)s CPUs") % {"load": format_number(of.load), "total": of.cpus},
        cpu_note,
    )
    memory = _bytes_line(
        _("Memory"),
        promised=of.reserved_memory_mib * 1024**2,
        promisable=of.memory_promisable_mib * 1024**2,
        used=of.memory_used_mib * 1024**2,
        total=of.memory_mib * 1024**2,
        note=memory_note,
    )
    disk = _bytes_line(
        _("Disk"),
        promised=of.reserved_disk_gib * 1024**3,
        promisable=of.disk_promisable_gib * 1024**3,
        used=of.storage_total_bytes - of.storage_free_bytes,
        total=of.storage_total_bytes,
        note=disk_note,
    )
    return [cpus, memory, disk]


def _bytes_line(label: str, *, promised: int, promisable: int, used: int, total: int, note: str) -> CapacityLine:
    return CapacityLine(
        label,
        promised,
        promisable,
        used,
        total,
        _("%(promised)s of %(most)s") % {"promised": _text(promised), "most": _text(promisable)},
        _("%(used)s of %(total)s") % {"used": _text(used), "total": _text(total)},
        note,
    )


def _text(count: int) -> str:
    return format_bytes(count) if count else format_mib(0)
