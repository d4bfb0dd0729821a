"""A hypervisor in memory: the same behaviour and the same errors as the real one, and faults on demand.

A `FakeHost` is the machine room and outlives its drivers, as real hosts outlive workers: a test that "kills" a worker
makes another `FakeDriver` on the same host and goes on. Lookups are dictionary lookups, so that a host with tens of
thousands of machines costs memory only.

    host = FakeHost("rack-1")
    host.fail_next("start", StorageFullError("full"))          # before anything happens
    host.fail_next("define", HostUnreachableError("gone"), after=True)  # it happened, but the worker never heard
    host.delay("create_disk", 0.5); host.hang("start"); host.release("start")
    host.unreachable = True
    host.guest(uuid).ignores_shutdown = True; host.guest(uuid).agent_after_pings = 3
"""

from __future__ import annotations

import contextlib
import queue
import struct
import threading
import time
import weakref
import zlib
from builtins import list as list_of
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from workers.hypervisor import guest_identity
from workers.hypervisor.errors import (
    DomainNotFoundError,
    GuestAgentError,
    HostUnreachableError,
    HypervisorError,
    InvalidOperationError,
    InvalidSpecError,
    StorageFullError,
    VolumeNotFoundError,
)
from workers.hypervisor.fake_copies import FakeCopies
from workers.hypervisor.fake_devices import FakeDevices
from workers.hypervisor.fake_discs import FakeDiscs
from workers.hypervisor.fake_life import FakeLife
from workers.hypervisor.fake_parents import FakeParent, FakeParents, parent_files, taken_mib
from workers.hypervisor.fake_snapshots import FakeSnapshot, FakeSnapshots, forget_snapshots, snapshot_files
from workers.hypervisor.fake_stats import Meters
from workers.hypervisor.stats import HostStats
from workers.hypervisor.types import (
    Accelerator,
    CommandResult,
    ConsoleEndpoint,
    EventKind,
    Forked,
    HostInfo,
    HostUsage,
    IoLimits,
    MachineEvent,
    MachineInfo,
    MachineSpec,
    NetworkMode,
    PowerState,
    SeedSpec,
    VolumeInfo,
)

MIB = 1024 * 1024
DISK_BYTES = 200 * 1024
SEED_BYTES = 68 * 1024
_EVENTS_KEPT = 10_000
_ASK_STOP_EVERY_S = 0.2

GuestCommand = Callable[[tuple[str, ...], bytes], CommandResult]


def echo_guest(argv: tuple[str, ...], stdin: bytes) -> CommandResult:
    """The few programs that tests run in a guest; every other one succeeds and prints nothing."""
    program = argv[0].rsplit("/", 1)[-1]
    if program == "echo":
        return CommandResult(0, " ".join(argv[1:]).encode() + b"\n", b"")
    if program == "cat":
        return CommandResult(0, stdin, b"")
    return CommandResult(1 if program == "false" else 0, b"", b"")


@dataclass
class FakeGuest:
    """How the software inside behaves."""

    ignores_shutdown: bool = False
    keeps_devices: bool = False
    freezes: bool = True
    keeps_disc: bool = False
    has_agent: bool = True
    agent_after_pings: int = 0
    addresses: tuple[str, ...] = ("10.213.0.10",)
    further_addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    run: GuestCommand = echo_guest
    pings: int = 0
    reboots: int = 0
    identity: dict[str, str] = field(default_factory=dict, repr=False)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    ssh_keys: dict[str, list_of[str]] = field(default_factory=dict)


@dataclass
class FakeDomain:
    """`live` is what a running domain was started with; a redefinition changes `spec` only.

    `saved` is what a hibernated one ran with, and goes on with. One that is `transient` exists only while it runs, as a
    parent's template does; `maps` is the parent whose memory a fork has.
    """

    spec: MachineSpec
    owned: bool = True
    disk_elsewhere: bool = False
    power_state: PowerState = PowerState.SHUT_OFF
    live: MachineSpec | None = None
    saved: MachineSpec | None = None
    guest: FakeGuest = field(default_factory=FakeGuest)
    starts: int = 0
    transient: bool = False
    maps: UUID | None = None

    @property
    def runs(self) -> bool:
        return self.power_state is not PowerState.SHUT_OFF


@dataclass(frozen=True)
class _Fault:
    error: HypervisorError
    after: bool


class _Subscriber:
    def __init__(self) -> None:
        self.queue: queue.Queue[MachineEvent] = queue.Queue(_EVENTS_KEPT)
        self.lost = threading.Event()

    def put(self, event: MachineEvent) -> None:
        try:
            self.queue.put_nowait(event)
        except queue.Full:
            self.lost.set()


class FakeHost:
    """The state of one host, shared by all its drivers. Tests may change the public attributes under `lock`."""

    def __init__(
        self,
        name: str,
        *,
        cpus: int = 16,
        memory_mib: int = 65_536,
        storage_bytes: int = 1 << 40,
        call_limit_s: float = 30,
    ) -> None:
        self.name = name
        self.cpus = cpus
        self.memory_mib = memory_mib
        self.storage_bytes = storage_bytes
        self.call_limit_s = call_limit_s
        self.unreachable = False
        self.lock = threading.RLock()
        self.images: dict[UUID, VolumeInfo] = {}
        self.disks: dict[UUID, VolumeInfo] = {}
        self.volumes: dict[UUID, VolumeInfo] = {}
        self.limits: dict[tuple[UUID, UUID | None], IoLimits] = {}
        self.bases: dict[UUID, UUID] = {}
        self.without_identity: dict[UUID, bool] = {}
        self.unknown_systems: set[UUID] = set()
        self.seeds: dict[UUID, SeedSpec] = {}
        self.isos: dict[UUID, VolumeInfo] = {}
        self.rescues: dict[UUID, UUID] = {}
        self.domains: dict[UUID, FakeDomain] = {}
        self.snapshots: dict[UUID, dict[UUID, FakeSnapshot]] = {}
        self.parents: dict[UUID, FakeParent] = {}
        self.forks: dict[UUID, Forked] = {}
        self.serial_logs: dict[UUID, bytes] = {}
        self.calls: dict[str, int] = defaultdict(int)
        self.used_bytes = 0
        self.meters = Meters()
        self._faults: dict[str, deque[_Fault]] = defaultdict(deque)
        self._delays: dict[str, float] = {}
        self._hangs: dict[str, threading.Event] = {}
        self._subscribers: weakref.WeakSet[_Subscriber] = weakref.WeakSet()

    # --- faults ---------------------------------------------------------------------------------------------------

    def fail_next(self, operation: str, error: HypervisorError, *, times: int = 1, after: bool = False) -> None:
        """The next calls of a driver's method raise `error`; with `after`, when the work is done already."""
        with self.lock:
            self._faults[operation].extend([_Fault(error, after)] * times)

    def delay(self, operation: str, seconds: float) -> None:
        self._delays[operation] = seconds

    def hang(self, operation: str) -> None:
        """Calls wait until `release()`, or end as HostUnreachableError at the host's call limit."""
        self._hangs[operation] = threading.Event()

    def release(self, operation: str) -> None:
        self._hangs.pop(operation).set()

    def fill_storage(self) -> None:
        """Leave no room at all."""
        with self.lock:
            self.storage_bytes = self.used_bytes

    def guest(self, machine: UUID) -> FakeGuest:
        return self.domains[machine].guest

    @contextlib.contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """What surrounds every call: counting, faults, delays, and the lock."""
        self.calls[name] += 1
        self._wait(name)
        if self.unreachable:
            raise HostUnreachableError("The host's libvirt cannot be reached.")
        with self.lock:
            fault = self._faults[name].popleft() if self._faults[name] else None
            if fault and not fault.after:
                raise fault.error
            yield
            if fault:
                raise fault.error

    def _wait(self, name: str) -> None:
        if name in self._delays:
            time.sleep(self._delays[name])
        hang = self._hangs.get(name)
        if hang is not None and not hang.wait(self.call_limit_s):
            raise HostUnreachableError(f"The host did not answer within {self.call_limit_s:g} seconds.")

    # --- what happens without a driver ----------------------------------------------------------------------------

    def add_foreign_domain(self, spec: MachineSpec) -> None:
        """A machine that someone else defined on this host."""
        with self.lock:
            self.domains[spec.uuid] = FakeDomain(spec, owned=False, disk_elsewhere=True)

    def guest_shuts_down(self, machine: UUID) -> None:
        """The person inside switched the machine off."""
        with self.lock:
            self.set_power(machine, PowerState.SHUT_OFF)

    def pause(self, machine: UUID) -> None:
        """An administrator paused the machine, or its disk filled up."""
        with self.lock:
            self.set_power(machine, PowerState.PAUSED)

    def vanish(self, machine: UUID) -> None:
        """Someone undefined the domain behind Casement's back."""
        with self.lock:
            self.domains.pop(machine, None)
            self.emit(EventKind.GONE, machine)

    def lose_connections(self) -> None:
        """Every reader of events sees a reconnect."""
        for subscriber in list_of(self._subscribers):
            subscriber.lost.set()

    def set_power(self, machine: UUID, power: PowerState) -> None:
        domain = self.domains[machine]
        if power is PowerState.RUNNING and not domain.runs:
            domain.live, domain.saved = domain.saved or domain.spec, None
            domain.starts += 1
            self.serial_logs[machine] = self.serial_logs.get(machine, b"") + b"the guest starts\r\n"
        if power is PowerState.SHUT_OFF:
            domain.live, domain.maps, domain.guest.pings = None, None, 0
        domain.power_state = power
        self.emit(EventKind.CHANGED, machine, power)
        if domain.transient and not domain.runs:
            del self.domains[machine]
            self.emit(EventKind.GONE, machine)

    def emit(self, kind: EventKind, machine: UUID | None = None, power: PowerState | None = None) -> None:
        event = MachineEvent(kind=kind, at=datetime.now(UTC), uuid=machine, power_state=power)
        for subscriber in list_of(self._subscribers):
            subscriber.put(event)

    def subscribe(self) -> _Subscriber:
        subscriber = _Subscriber()
        with self.lock:
            self._subscribers.add(subscriber)
        return subscriber

    # --- helpers for the driver -----------------------------------------------------------------------------------

    def owned(self, machine: UUID) -> FakeDomain:
        domain = self.domains.get(machine)
        if domain is None or not domain.owned:
            raise DomainNotFoundError("There is no such machine on the host.")
        return domain

    def running(self, machine: UUID, doing: str) -> FakeDomain:
        domain = self.owned(machine)
        if not domain.runs:
            raise InvalidOperationError(f"The host could not {doing}: the machine's state does not allow it.")
        return domain

    def take_room(self, size: int) -> None:
        if self.used_bytes + size > self.storage_bytes:
            raise StorageFullError("The host has not enough free storage.")
        self.used_bytes += size


_hosts: dict[str, FakeHost] = {}
_hosts_lock = threading.Lock()


def fake_host(name: str) -> FakeHost:
    """The host of `fake://name`; made at first use."""
    with _hosts_lock:
        return _hosts.setdefault(name, FakeHost(name))


def forget_fake_hosts() -> None:
    """Begin a test with empty hosts."""
    with _hosts_lock:
        _hosts.clear()


class FakeDriver(FakeLife, FakeDevices, FakeSnapshots, FakeCopies, FakeDiscs, FakeParents):
    """HypervisorDriver on a FakeHost."""

    def __init__(self, host: FakeHost) -> None:
        self.host = host

    def close(self) -> None:
        """There is nothing to close."""

    # --- the host ---------------------------------------------------------------------------------------------

    def prepare_host(self) -> HostInfo:
        with self.host.operation("prepare_host"):
            return self._info()

    def host_info(self) -> HostInfo:
        with self.host.operation("host_info"):
            return self._info()

    def _info(self) -> HostInfo:
        host = self.host
        return HostInfo(
            hostname=host.name,
            cpus=host.cpus,
            memory_mib=host.memory_mib,
            storage_total_bytes=host.storage_bytes,
            storage_free_bytes=host.storage_bytes - host.used_bytes,
            hypervisor="QEMU 0.0.0 (in memory)",
            libvirt="0.0.0",
            accelerator=Accelerator("tcg", "This host exists in memory only."),
            network_mode=NetworkMode.NAT,
        )

    def host_usage(self) -> HostUsage:
        with self.host.operation("host_usage"):
            used = taken_mib(self.host)
            return HostUsage(0.0, used, self.host.storage_bytes - self.host.used_bytes)

    def stats(self) -> HostStats:
        with self.host.operation("stats"):
            return self.host.meters.read(self.host)

    # --- storage ----------------------------------------------------------------------------------------------

    def put_image(self, version: UUID, source: Path, *, progress: Callable[[int], None]) -> VolumeInfo:
        with self.host.operation("put_image"):
            if version not in self.host.images:
                size = _size_of(source)
                self.host.take_room(size)
                progress(100)
                capacity = _virtual_size(source, size)
                self.host.images[version] = VolumeInfo(f"images/{version}.qcow2", None, capacity, size)
            return self.host.images[version]

    def has_image(self, version: UUID) -> bool:
        with self.host.operation("has_image"):
            return version in self.host.images

    def delete_image(self, version: UUID) -> None:
        with self.host.operation("delete_image"):
            self.refuse_if_based_on(version)
            image = self.host.images.pop(version, None)
            self.host.without_identity.pop(version, None)
            self.host.used_bytes -= image.allocation_bytes if image else 0

    def create_disk(self, machine: UUID, *, image: UUID, size_bytes: int) -> VolumeInfo:
        with self.host.operation("create_disk"):
            host = self.host
            if machine not in host.disks:
                base = host.images.get(image)
                if base is None:
                    raise VolumeNotFoundError("The volume is not on the host.")
                host.take_room(DISK_BYTES)
                size = max(size_bytes, base.capacity_bytes)
                host.disks[machine] = VolumeInfo(f"machines/{machine}/disk.qcow2", machine, size, DISK_BYTES, image)
                host.bases[machine] = image
            return host.disks[machine]

    def write_seed(self, machine: UUID, seed: SeedSpec) -> None:
        with self.host.operation("write_seed"):
            if machine not in self.host.seeds:
                self.host.take_room(SEED_BYTES)
            self.host.seeds[machine] = seed

    def delete_storage(self, machine: UUID) -> None:
        with self.host.operation("delete_storage"):
            host = self.host
            domain = host.domains.get(machine)
            if domain is not None and domain.runs:
                raise InvalidOperationError("The machine runs; its disk cannot be removed.")
            disk, seed = host.disks.pop(machine, None), host.seeds.pop(machine, None)
            host.bases.pop(machine, None)
            host.without_identity.pop(machine, None)
            self._remove_rescue(machine)
            host.serial_logs.pop(machine, None)
            host.forks.pop(machine, None)
            forget_snapshots(host, machine)
            host.used_bytes -= (disk.allocation_bytes if disk else 0) + (SEED_BYTES if seed else 0)

    def list_volumes(self) -> list_of[VolumeInfo]:
        with self.host.operation("list_volumes"):
            names = ((machine, f"machines/{machine}/seed.iso") for machine in self.host.seeds)
            seeds = (VolumeInfo(name, machine, SEED_BYTES, SEED_BYTES) for machine, name in names)
            host = self.host
            bases = [*host.images.values(), *host.volumes.values(), *host.isos.values()]
            return [
                *bases,
                *host.disks.values(),
                *seeds,
                *snapshot_files(host),
                *self._rescue_files(),
                *parent_files(host),
            ]

    # --- the domain -------------------------------------------------------------------------------------------

    def define(self, spec: MachineSpec) -> None:
        with self.host.operation("define"):
            host = self.host
            if not 1 <= len(spec.console_secret) <= 8:
                raise InvalidSpecError("The console's password must have 1 to 8 printable characters.")
            if spec.uuid not in host.disks or (spec.seeded and spec.uuid not in host.seeds):
                raise VolumeNotFoundError("The machine's disk or seed is not on the host.")
            if any(disk.volume not in host.volumes for disk in spec.disks if disk.volume is not None):
                raise VolumeNotFoundError("A volume of the machine is not on the host.")
            self._check_discs(spec)
            if spec.uuid in host.domains:
                host.owned(spec.uuid).spec = spec
            else:
                host.domains[spec.uuid] = FakeDomain(spec)

    def start(self, machine: UUID) -> None:
        with self.host.operation("start"):
            domain = self.host.owned(machine)
            if not domain.runs and machine not in self.host.disks and not domain.disk_elsewhere:
                raise VolumeNotFoundError("The host could not start the machine: a file is missing.")
            if domain.power_state is not PowerState.RUNNING:
                self.host.set_power(machine, PowerState.RUNNING)
                self._announce_agent(machine, domain)

    def _announce_agent(self, machine: UUID, domain: FakeDomain) -> None:
        if domain.guest.has_agent and domain.guest.agent_after_pings == 0:
            self.host.emit(EventKind.AGENT, machine)

    def shut_down(self, machine: UUID) -> None:
        with self.host.operation("shut_down"):
            domain = self.host.owned(machine)
            if domain.runs and not domain.guest.ignores_shutdown:
                self.host.set_power(machine, PowerState.SHUT_OFF)

    def reboot(self, machine: UUID) -> None:
        with self.host.operation("reboot"):
            guest = self.host.running(machine, "ask the machine to reboot").guest
            guest.reboots += not guest.ignores_shutdown

    def reset(self, machine: UUID) -> None:
        with self.host.operation("reset"):
            guest = self.host.running(machine, "reset the machine").guest
            guest.reboots += 1
            guest.pings = 0

    def force_off(self, machine: UUID) -> None:
        with self.host.operation("force_off"):
            if self.host.owned(machine).runs:
                self.host.set_power(machine, PowerState.SHUT_OFF)

    def undefine(self, machine: UUID) -> None:
        with self.host.operation("undefine"):
            if machine not in self.host.domains:
                return
            if self.host.owned(machine).runs:
                self.host.set_power(machine, PowerState.SHUT_OFF)
            if self.host.domains.pop(machine, None):
                self.host.emit(EventKind.GONE, machine)

    def adopt(self, machine: UUID) -> None:
        with self.host.operation("adopt"):
            if machine not in self.host.domains:
                raise DomainNotFoundError("There is no such machine on the host.")
            self.host.domains[machine].owned = True

    def disown(self, machine: UUID) -> None:
        with self.host.operation("disown"):
            if machine in self.host.domains:
                self.host.domains[machine].owned = False

    def get(self, machine: UUID) -> MachineInfo:
        with self.host.operation("get"):
            return _machine_info(self.host.owned(machine))

    def list(self) -> list_of[MachineInfo]:
        with self.host.operation("list"):
            return [_machine_info(domain) for domain in self.host.domains.values()]

    def power_state(self, machine: UUID) -> PowerState:
        with self.host.operation("power_state"):
            return self.host.owned(machine).power_state

    def console(self, machine: UUID) -> ConsoleEndpoint:
        with self.host.operation("console"):
            spec = self.host.running(machine, "open the console").live
            assert spec is not None  # noqa: S101 - for the type checker; a domain that runs was started with a spec.
            path = f"/nonexistent/casement-fake/{self.host.name}/{machine}/vnc.sock"
            return ConsoleEndpoint(path, spec.console_secret, path.replace("vnc.sock", "serial.sock"))

    def console_log(self, machine: UUID) -> bytes:
        with self.host.operation("console_log"):
            return self.host.serial_logs.get(machine, b"")

    def screenshot(self, machine: UUID) -> bytes:
        with self.host.operation("screenshot"):
            self.host.running(machine, "take a screenshot")
            return _GREY_PNG

    # --- the guest --------------------------------------------------------------------------------------------

    def agent_ready(self, machine: UUID) -> bool:
        with self.host.operation("agent_ready"):
            domain = self.host.owned(machine)
            domain.guest.pings += 1
            return self._agent_answers(domain)

    def _agent_answers(self, domain: FakeDomain) -> bool:
        guest = domain.guest
        return domain.power_state is PowerState.RUNNING and guest.has_agent and guest.pings >= guest.agent_after_pings

    def addresses(self, machine: UUID) -> tuple[str, ...]:
        with self.host.operation("addresses"):
            domain = self.host.owned(machine)
            return domain.guest.addresses if domain.runs else ()

    def run_in_guest(
        self, machine: UUID, argv: tuple[str, ...], *, stdin: bytes = b"", timeout_s: float = 30
    ) -> CommandResult:
        with self.host.operation("run_in_guest"):
            domain = self.host.owned(machine)
            if not self._agent_answers(domain):
                raise GuestAgentError("The guest agent does not answer.")
            if argv == guest_identity.ARGV:
                return self.take_identity(domain, stdin)
            result = domain.guest.run(argv, stdin)
            return replace(result, stdout=result.stdout[:MIB], stderr=result.stderr[:MIB])

    # --- events -----------------------------------------------------------------------------------------------

    def events(self, stop: Callable[[], bool]) -> Iterator[MachineEvent]:
        """A host that is unreachable is a lost connection: RESYNC comes when it is back."""
        subscriber = self.host.subscribe()
        subscriber.lost.set()
        while not stop():
            if self.host.unreachable:
                subscriber.lost.set()
                time.sleep(_ASK_STOP_EVERY_S)
            elif subscriber.lost.is_set():
                subscriber.lost.clear()
                subscriber.queue = queue.Queue(_EVENTS_KEPT)
                yield MachineEvent(kind=EventKind.RESYNC, at=datetime.now(UTC))
            else:
                with contextlib.suppress(queue.Empty):
                    yield subscriber.queue.get(timeout=_ASK_STOP_EVERY_S)


def _machine_info(domain: FakeDomain) -> MachineInfo:
    spec = domain.live or domain.spec
    memory_mib = spec.most_memory_mib or spec.memory_mib
    told = (spec.uuid, spec.name, domain.power_state, spec.vcpus, memory_mib)
    saved = domain.saved is not None
    return MachineInfo(*told, owned=domain.owned, saved=saved, parent=domain.transient)


def _size_of(source: Path) -> int:
    try:
        return source.stat().st_size
    except FileNotFoundError as error:
        raise VolumeNotFoundError("The image's file is not there.") from error


def _virtual_size(source: Path, size: int) -> int:
    """As in a qcow2 header; tests without a real image may pass any file that begins like one."""
    with source.open("rb") as file:
        head = file.read(32)
    if head[:4] != b"QFI\xfb":
        raise HypervisorError("The image is not a qcow2 file.", code="invalid-image")
    return int(struct.unpack_from(">Q", head, 24)[0]) if len(head) == 32 else size


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


# One grey dot.
_GREY_PNG = (
    b"\x89PNG\r\n\x1a\n"
    + _png_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    + _png_chunk(b"IDAT", zlib.compress(b"\0\x80"))
    + _png_chunk(b"IEND", b"")
)
