"""Parents and forks of the hypervisor in memory.

host.parents[parent].fork_fails = "why"     # forks are made by restoring; the answer says why
host.parents[parent].restore_fails = True   # and that does not work either
host.parents[parent].trial_fails = True     # it cannot be captured
host.guest(machine).identity                # what the identity program was told, by name
host.guest(machine).run = ...               # a fork's guest begins as a copy of its template's
"""

from __future__ import annotations

from builtins import list as list_of
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import UUID

from workers.hypervisor import guest_identity
from workers.hypervisor.errors import (
    ForkFailedError,
    InvalidOperationError,
    InvalidSpecError,
    VolumeNotFoundError,
)
from workers.hypervisor.fake_stats import FORK_MIB
from workers.hypervisor.types import (
    CommandResult,
    Firmware,
    Forked,
    MachineSpec,
    ParentInfo,
    ParentSpec,
    PowerState,
    VolumeInfo,
)

if TYPE_CHECKING:
    # For annotations only: the fake imports this module.
    from workers.hypervisor.fake import FakeDomain, FakeGuest, FakeHost

MIB = 1024 * 1024
DISK_BYTES = 200 * 1024
STATE_BYTES = 9 * MIB


@dataclass
class FakeParent:
    """`guest` is the template's, as it was when it was captured: None before."""

    spec: ParentSpec
    guest: FakeGuest | None = None
    fork_fails: str = ""
    restore_fails: bool = False
    trial_fails: bool = False

    @property
    def memory_bytes(self) -> int:
        return self.spec.memory_mib * MIB

    @property
    def state_bytes(self) -> int:
        """The devices' state, and a whole image with the memory once more."""
        return STATE_BYTES + self.memory_bytes if self.guest else 0

    @property
    def takes_bytes(self) -> int:
        return DISK_BYTES + self.memory_bytes + self.state_bytes


class FakeParents:
    """This part of HypervisorDriver, on a FakeHost."""

    host: FakeHost

    if TYPE_CHECKING:

        def _announce_agent(self, machine: UUID, domain: FakeDomain) -> None: ...

    def start_parent(self, spec: ParentSpec) -> None:
        with self.host.operation("start_parent"):
            host, known = self.host, self.host.parents.get(spec.uuid)
            if (known and known.guest) or spec.uuid in host.domains:
                return
            if spec.image not in host.images:
                raise VolumeNotFoundError("The volume is not on the host.")
            if known is None:
                parent = FakeParent(spec)
                host.take_room(parent.takes_bytes)
                host.parents[spec.uuid] = parent
            self._start_template(spec)

    def _start_template(self, spec: ParentSpec) -> None:
        # Imported here: the fake imports this module.
        from workers.hypervisor.fake import FakeDomain  # noqa: PLC0415

        domain = self.host.domains[spec.uuid] = FakeDomain(_template(spec), transient=True)
        self.host.set_power(spec.uuid, PowerState.RUNNING)
        self._announce_agent(spec.uuid, domain)

    def capture_parent(self, parent: UUID, *, trial_agent: bool) -> ParentInfo:
        with self.host.operation("capture_parent"):
            host, known = self.host, self._parent(parent)
            if known.guest is None:
                domain = host.domains.get(parent)
                if domain is None:
                    raise InvalidOperationError("The template does not run; it cannot be captured.")
                host.take_room(STATE_BYTES + known.memory_bytes)
                guest = domain.guest
                host.set_power(parent, PowerState.SHUT_OFF)
                if known.trial_fails or (trial_agent and not guest.has_agent):
                    host.used_bytes -= STATE_BYTES + known.memory_bytes
                    raise ForkFailedError("The trial fork of the template does not work.")
                known.guest = guest
            return self._parent_info(known)

    def has_parent(self, parent: UUID) -> bool:
        with self.host.operation("has_parent"):
            known = self.host.parents.get(parent)
            return known is not None and known.guest is not None

    def parents(self) -> list_of[ParentInfo]:
        with self.host.operation("parents"):
            return [self._parent_info(parent) for parent in self.host.parents.values()]

    def delete_parent(self, parent: UUID) -> None:
        with self.host.operation("delete_parent"):
            host = self.host
            bases = (info.base for info in host.images.values())
            if parent in {*bases, *host.bases.values()} or self._forks_of(parent):
                raise InvalidOperationError("The parent is in use: a machine was forked from it.")
            if (domain := host.domains.get(parent)) is not None and domain.transient:
                host.set_power(parent, PowerState.SHUT_OFF)
            gone = host.parents.pop(parent, None)
            host.used_bytes -= gone.takes_bytes if gone else 0

    def fork(self, spec: MachineSpec, parent: UUID) -> Forked:
        with self.host.operation("fork"):
            host = self.host
            if spec.uuid not in host.forks:
                known = self._parent(parent)
                self._refuse_unfit(spec, known)
                forked = _how(known)
                host.take_room(DISK_BYTES)
                self._start_fork(spec, known, forked)
            return host.forks[spec.uuid]

    def _refuse_unfit(self, spec: MachineSpec, parent: FakeParent) -> None:
        host = self.host
        if parent.guest is None:
            raise VolumeNotFoundError("The parent is not on the host.")
        if not 1 <= len(spec.console_secret) <= 8:
            raise InvalidSpecError("The console's password must have 1 to 8 printable characters.")
        wanted = (spec.vcpus, spec.memory_mib, spec.desktop, spec.firmware, spec.tpm)
        if wanted != (parent.spec.vcpus, parent.spec.memory_mib, parent.spec.desktop, Firmware.BIOS, False):
            raise InvalidSpecError("The machine is of another size or kind than the parent.")
        if spec.rescue or any(spec.discs) or any(disk.volume is not None for disk in spec.disks):
            raise InvalidSpecError("A fork has no volumes, discs or rescue system from the start.")
        if spec.seeded and spec.uuid not in host.seeds:
            raise VolumeNotFoundError("The machine's seed is not on the host.")
        if spec.uuid in host.disks or spec.uuid in host.domains:
            raise InvalidOperationError("The machine is there already, and was not forked.")

    def _start_fork(self, spec: MachineSpec, parent: FakeParent, forked: Forked) -> None:
        # Imported here: the fake imports this module.
        from workers.hypervisor.fake import FakeDomain  # noqa: PLC0415

        host, machine, origin = self.host, spec.uuid, parent.spec.uuid
        assert parent.guest is not None  # noqa: S101 - for the type checker; it is captured.
        name = f"machines/{machine}/disk.qcow2"
        host.disks[machine] = VolumeInfo(name, machine, parent.spec.disk_bytes, DISK_BYTES, origin)
        host.bases[machine], host.forks[machine] = origin, forked
        domain = host.domains[machine] = FakeDomain(spec, guest=_copy_of(parent.guest))
        host.set_power(machine, PowerState.RUNNING)
        domain.live = replace(spec, nics=(), most_vcpus=0, most_memory_mib=0)
        domain.maps = origin if forked.how == "fork" else None
        self._announce_agent(machine, domain)

    def take_identity(self, domain: FakeDomain, stdin: bytes) -> CommandResult:
        """What the identity program does in a real guest."""
        told = guest_identity.told(stdin)
        domain.guest.identity = told
        return CommandResult(0, f"{guest_identity.DONE} {told['uuid']}\n".encode(), b"")

    def _parent(self, parent: UUID) -> FakeParent:
        if parent not in self.host.parents:
            raise VolumeNotFoundError("The parent is not on the host.")
        return self.host.parents[parent]

    def _parent_info(self, parent: FakeParent) -> ParentInfo:
        uuid, captured = parent.spec.uuid, parent.guest is not None
        sizes = (parent.memory_bytes, parent.state_bytes, DISK_BYTES)
        return ParentInfo(uuid, *sizes, restorable=captured, forks=self._forks_of(uuid), captured=captured)

    def _forks_of(self, parent: UUID) -> int:
        return sum(domain.maps == parent for domain in self.host.domains.values())


def taken_mib(host: FakeHost) -> int:
    """Of the host's memory. What forks share is in it once."""
    captured = sum(parent.spec.memory_mib for parent in host.parents.values() if parent.guest)
    running = ((domain, domain.live) for domain in host.domains.values())
    return captured + sum(live.memory_mib if domain.maps is None else FORK_MIB for domain, live in running if live)


def parent_files(host: FakeHost) -> Iterator[VolumeInfo]:
    for uuid, parent in host.parents.items():
        yield VolumeInfo(f"parents/{uuid}/disk.qcow2", None, parent.spec.disk_bytes, DISK_BYTES, parent.spec.image)
        yield VolumeInfo(f"parents/{uuid}/ram", None, parent.memory_bytes, parent.memory_bytes)


def _how(parent: FakeParent) -> Forked:
    if not parent.fork_fails:
        return Forked("fork")
    if parent.restore_fails:
        raise ForkFailedError("The parent could be neither forked nor restored.")
    return Forked("restore", parent.fork_fails)


def _template(spec: ParentSpec) -> MachineSpec:
    return MachineSpec(
        uuid=spec.uuid,
        name=spec.name,
        title="",
        vcpus=spec.vcpus,
        memory_mib=spec.memory_mib,
        firmware=Firmware.BIOS,
        genid=spec.uuid,
        console_secret=spec.uuid.hex[:8],
        desktop=spec.desktop,
    )


def _copy_of(guest: FakeGuest) -> FakeGuest:
    """It goes on as the template was, with its own keys and passwords from now on."""
    keys = {user: list(those) for user, those in guest.ssh_keys.items()}
    return replace(guest, pings=guest.agent_after_pings, passwords=dict(guest.passwords), ssh_keys=keys, identity={})
