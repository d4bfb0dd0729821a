"""What machines in memory use: nothing much, unless a test says otherwise.

host.meters.work[uuid] = Work(cpu=1.0, disk_read=50e6)     # a busy one
host.meters.now_s = 100.0                                  # a clock that stands until the test moves it on
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from workers.hypervisor.stats import HostStats, MachineStats
from workers.hypervisor.types import PowerState

if TYPE_CHECKING:
    # For annotations only: fake.py imports this module.
    from workers.hypervisor.fake import FakeDomain, FakeHost

MIB = 1024 * 1024
# What an idle fork has of its own; the rest it shares with its parent.
FORK_MIB = 96


@dataclass
class Work:
    """What a guest does. `cpu` is a share of its processors, the rest are bytes a second and a share of its memory.

    A guest without a balloon driver tells no memory.
    """

    cpu: float = 0.01
    memory: float = 0.25
    disk_read: float = 0.0
    disk_written: float = 4096.0
    net_received: float = 512.0
    net_sent: float = 256.0
    has_balloon: bool = True


@dataclass
class _Counters:
    """Since the machine's start number `run`."""

    run: int
    at_s: float
    cpu_ns: float = 0.0
    disk_read: float = 0.0
    disk_written: float = 0.0
    net_received: float = 0.0
    net_sent: float = 0.0

    def move_on(self, at_s: float, vcpus: int, work: Work) -> None:
        seconds, self.at_s = at_s - self.at_s, at_s
        self.cpu_ns += seconds * work.cpu * vcpus * 1e9
        self.disk_read += seconds * work.disk_read
        self.disk_written += seconds * work.disk_written
        self.net_received += seconds * work.net_received
        self.net_sent += seconds * work.net_sent


@dataclass
class Meters:
    """Of one host. `now_s` stands still if it is set; `clock` changes when the host is started anew."""

    clock: str = "in-memory"
    now_s: float | None = None
    work: dict[UUID, Work] = field(default_factory=dict)
    cpu_ns: float = 0.0
    _counters: dict[UUID, _Counters] = field(default_factory=dict)
    _idle: Work = field(default_factory=Work)
    _read_at_s: float | None = None

    def read(self, host: FakeHost) -> HostStats:
        at_s = time.monotonic() if self.now_s is None else self.now_s
        running = [domain for domain in host.domains.values() if domain.power_state is PowerState.RUNNING]
        machines = tuple(self._machine(domain, at_s) for domain in running)
        since_s = 0.0 if self._read_at_s is None else at_s - self._read_at_s
        self._read_at_s = at_s
        busy = sum(machine.vcpus * self._work_of(machine.uuid).cpu for machine in machines)
        self.cpu_ns += since_s * 1e9 * min(busy, host.cpus)
        taken = sum(machine.memory_taken_bytes or 0 for machine in machines)
        total = host.memory_mib * MIB
        return HostStats(self.clock, at_s, host.cpus, int(self.cpu_ns), total, min(taken, total), machines)

    def _work_of(self, machine: UUID) -> Work:
        return self.work.get(machine, self._idle)

    def _machine(self, domain: FakeDomain, at_s: float) -> MachineStats:
        spec = domain.live or domain.spec
        counters = self._counters.get(spec.uuid)
        if counters is None or counters.run != domain.starts:
            counters = self._counters[spec.uuid] = _Counters(domain.starts, at_s)
        work = self._work_of(spec.uuid)
        counters.move_on(at_s, spec.vcpus, work)
        memory = spec.memory_mib * MIB
        return MachineStats(
            uuid=spec.uuid,
            run=domain.starts,
            vcpus=spec.vcpus,
            cpu_ns=int(counters.cpu_ns),
            memory_total_bytes=memory,
            memory_used_bytes=int(memory * work.memory) if work.has_balloon else None,
            memory_taken_bytes=memory if domain.maps is None else FORK_MIB * MIB,
            memory_own_bytes=memory if domain.maps is None else FORK_MIB * MIB,
            memory_shared_bytes=0 if domain.maps is None else memory,
            disk_read_bytes=int(counters.disk_read),
            disk_written_bytes=int(counters.disk_written),
            net_received_bytes=int(counters.net_received),
            net_sent_bytes=int(counters.net_sent),
        )
