"""A host's capacity as bars: what is promised to machines, and what is really used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.utils.translation import gettext as _

from portal.hosts.models import Host
from portal.lib.units import format_bytes, format_mib, format_number, percent


@dataclass(frozen=True, slots=True)
class CapacityLine:
    """One resource. Promised is measured against what may be promised, used against what there is."""

    label: str
    promised: float
    promisable: float
    used: float
    total: float
    promised_text: str
    used_text: str

    @property
    def promised_percent(self) -> int:
        return percent(self.promised, self.promisable)

    @property
    def used_percent(self) -> int:
        return percent(self.used, self.total)

    @property
    def is_tight(self) -> bool:
        return self.promised_percent >= 90 or self.used_percent >= 90


def capacity_of(hosts: Iterable[Host]) -> list[CapacityLine]:
    """vCPUs, memory and disk of these hosts together."""
    rows = list(hosts)
    cpus = CapacityLine(
        _("vCPUs"),
        promised := sum(host.reserved_vcpus for host in rows),
        promisable := sum(host.vcpus_promisable for host in rows),
        load := sum(host.load for host in rows),
        total := sum(host.cpus for host in rows),
        _("%(promised)s of %(most)s") % {"promised": promised, "most": promisable},
        _("load %(load)s on %(total)s CPUs") % {"load": format_number(load), "total": total},
    )
    memory = _bytes_line(
        _("Memory"),
        promised=sum(host.reserved_memory_mib for host in rows) * 1024**2,
        promisable=sum(host.memory_promisable_mib for host in rows) * 1024**2,
        used=sum(host.memory_used_mib for host in rows) * 1024**2,
        total=sum(host.memory_mib for host in rows) * 1024**2,
    )
    disk = _bytes_line(
        _("Disk"),
        promised=sum(host.reserved_disk_gib for host in rows) * 1024**3,
        promisable=sum(host.disk_promisable_gib for host in rows) * 1024**3,
        used=sum(host.storage_total_bytes - host.storage_free_bytes for host in rows),
        total=sum(host.storage_total_bytes for host in rows),
    )
    return [cpus, memory, disk]


def _bytes_line(label: str, *, promised: int, promisable: int, used: int, total: int) -> CapacityLine:
    return CapacityLine(
        label,
        promised,
        promisable,
        used,
        total,
        _("%(promised)s of %(most)s") % {"promised": _text(promised), "most": _text(promisable)},
        _("%(used)s of %(total)s") % {"used": _text(used), "total": _text(total)},
    )


def _text(count: int) -> str:
    return format_bytes(count) if count else format_mib(0)
