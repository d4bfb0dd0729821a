"""What a host and its machines have used: counters that only grow while a machine runs, and sizes as they are now.

None is what a host or a guest does not tell: a guest without a balloon driver its memory, a machine in USER network
mode its traffic, a machine that is busy (being saved, say) anything but its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class MachineStats:
    """One machine that runs. `run` is another number after each start, when the counters begin again at 0.

    `cpu_ns` is the time that its virtual processors have run, together. Of the memory, `memory_used_bytes` is what
    the guest says it cannot give up, `memory_taken_bytes` what the machine has of the host's: `memory_own_bytes` that
    no other process has, and `memory_shared_bytes` of files that others may have mapped, too, as forks have their
    parent's memory (both only of hosts where the driver itself runs). Disks and network cards are
    summed up; received and sent are as the guest sees it.
    """

    uuid: UUID
    run: int
    vcpus: int
    cpu_ns: int | None = None
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_taken_bytes: int | None = None
    memory_own_bytes: int | None = None
    memory_shared_bytes: int | None = None
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    net_received_bytes: int | None = None
    net_sent_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class HostStats:
    """A host, and every machine that runs on it, as of `at_s`.

    `at_s` is by a clock that nobody sets: differences between two of the same `clock` are seconds, and nothing else of
    it means anything. `cpu_ns` is the time that its processors were busy, together, since it was started.
    """

    clock: str
    at_s: float
    cpus: int
    cpu_ns: int
    memory_total_bytes: int
    memory_used_bytes: int
    machines: tuple[MachineStats, ...]
