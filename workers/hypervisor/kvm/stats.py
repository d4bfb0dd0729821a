"""Counters of a host and of what runs on it: one bulk call for all machines, two small ones for the host itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import libvirt

from workers.hypervisor.kvm.connection import VirConnect
from workers.hypervisor.stats import HostStats, MachineStats

# The figures of now are of no use later: who asks for them again in a moment must not find the last question waiting.
STATS_LIMIT_S = 8.0
KIB = 1024

# NOWAIT: of a machine that is busy, or whose QEMU hangs, less is told; the others are told all the same.
_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
_WANTED = (
    libvirt.VIR_DOMAIN_STATS_CPU_TOTAL
    | libvirt.VIR_DOMAIN_STATS_VCPU
    | libvirt.VIR_DOMAIN_STATS_BALLOON
    | libvirt.VIR_DOMAIN_STATS_BLOCK
    | libvirt.VIR_DOMAIN_STATS_INTERFACE
)

Told = dict[str, int]

_PIDS = Path("/run/libvirt/qemu")
_RESIDENT = re.compile(r"^Rss(Anon|File|Shmem):\s+(\d+) kB$", re.MULTILINE)


def host_stats(conn: VirConnect) -> HostStats:
    """The moment is that of the bulk call's answer; a slow one makes no rate wrong by more than its own length.

    The host's processors are read right after it: on a busy host it takes long, and no two of them equally long.
    """
    told = conn.getAllDomainStats(_WANTED, _FLAGS)
    at_s = time.monotonic()
    processors = conn.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS, 0)
    memory = conn.getMemoryStats(-1, 0)
    cpus: int = conn.getInfo()[2]
    is_here = urlsplit(conn.getURI()).hostname is None
    machines = tuple(
        machine_stats(
            UUID(bytes=domain.UUID()), domain.ID(), stats, resident=_resident(domain.name()) if is_here else None
        )
        for domain, stats in told
    )
    available = memory.get("free", 0) + memory.get("buffers", 0) + memory.get("cached", 0)
    return HostStats(
        clock=_clock(),
        at_s=at_s,
        cpus=cpus,
        cpu_ns=processors.get("kernel", 0) + processors.get("user", 0),
        memory_total_bytes=memory["total"] * KIB,
        memory_used_bytes=max(memory["total"] - available, 0) * KIB,
        machines=machines,
    )


def _resident(name: str) -> dict[str, int] | None:
    """By kind, in KiB, as the kernel counts them for the domain's QEMU. What a fork has written is "Anon"."""
    try:
        pid = int((_PIDS / f"{name}.pid").read_text(encoding="ascii"))
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return None  # It has just ended.
    found = {kind: int(kib) for kind, kib in _RESIDENT.findall(status)}
    return found if found.keys() == {"Anon", "File", "Shmem"} else None


def machine_stats(uuid: UUID, run: int, told: Told, *, resident: dict[str, int] | None = None) -> MachineStats:
    """From libvirt's names. `run` is the domain's id, which is another one after each start."""
    return MachineStats(
        uuid=uuid,
        run=run,
        vcpus=told.get("vcpu.current", told.get("vcpu.maximum", 0)),
        cpu_ns=_cpu_ns(told),
        memory_total_bytes=_kib(told, "balloon.current"),
        memory_used_bytes=_memory_used(told),
        memory_taken_bytes=_kib(told, "balloon.rss"),
        memory_own_bytes=(resident["Anon"] + resident["Shmem"]) * KIB if resident else None,
        memory_shared_bytes=_kib(resident, "File") if resident else None,
        disk_read_bytes=_sum(told, "block", "rd.bytes"),
        disk_written_bytes=_sum(told, "block", "wr.bytes"),
        net_received_bytes=_sum(told, "net", "rx.bytes"),
        net_sent_bytes=_sum(told, "net", "tx.bytes"),
    )


def _cpu_ns(told: Told) -> int | None:
    """Of the virtual processors, which is what the guest could use; else of all of QEMU, which is a little more."""
    processors = list(_each(told, "vcpu", "time", told.get("vcpu.maximum", 0)))
    return sum(processors) if processors else told.get("cpu.time")


def _memory_used(told: Told) -> int | None:
    """The guest tells through its balloon driver; before that is up, or without one, there is no such number."""
    total, usable = told.get("balloon.available"), told.get("balloon.usable", told.get("balloon.unused"))
    if not total or usable is None or usable > total:
        return None
    return (total - usable) * KIB


def _kib(told: Told, name: str) -> int | None:
    return told[name] * KIB if name in told else None


def _sum(told: Told, kind: str, what: str) -> int | None:
    """Of all disks or cards. None if there is one of which it is not told: half a sum would be a wrong one."""
    count = told.get(f"{kind}.count")
    if count is None:
        return None
    values = list(_each(told, kind, what, count))
    return sum(values) if len(values) == count else None


def _each(told: Told, kind: str, what: str, count: int) -> Iterator[int]:
    for number in range(count):
        value = told.get(f"{kind}.{number}.{what}")
        if value is not None:
            yield value


@cache
def _clock() -> str:
    """This machine's monotonic clock, as it runs since this start of the machine; all its processes see the same."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
