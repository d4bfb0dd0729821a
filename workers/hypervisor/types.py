"""What the driver takes and gives. Sizes are in MiB or bytes as the name says; every id is a UUID of the portal's."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Literal
from uuid import UUID


class PowerState(enum.StrEnum):
    """What the hypervisor says of a domain. Same words as `portal.machines.states.PowerState`."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUT_OFF = "shut_off"
    UNKNOWN = "unknown"


class Firmware(enum.StrEnum):
    """`UEFI_SECURE` starts only what is signed by a key that its store has from the start: Microsoft's."""

    BIOS = "bios"
    UEFI = "uefi"
    UEFI_SECURE = "uefi_secure"


class NetworkMode(enum.StrEnum):
    """`NAT`: libvirt's network with DHCP and an anti-spoofing filter. `USER`: QEMU's own, where not root."""

    NAT = "nat"
    USER = "user"


class EventKind(enum.StrEnum):
    """`CHANGED`: the power state is `power_state` now. `GONE`: the domain is undefined. `AGENT`: the agent came up.
    `DEVICE`: the guest has let a device go.

    `RESYNC`: events may have been lost (the connection was away): compare everything.
    """

    CHANGED = "changed"
    GONE = "gone"
    AGENT = "agent"
    DEVICE = "device"
    RESYNC = "resync"


@dataclass(frozen=True, slots=True)
class NicSpec:
    """`mac` is lower case, colon separated. `network` names a libvirt network in NAT mode and is None in USER mode."""

    mac: str
    mode: NetworkMode
    network: str | None = None


@dataclass(frozen=True, slots=True)
class IoLimits:
    """Most operations and bytes a second of one disk, reading and writing together. 0 is no limit."""

    iops: int = 0
    bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A disk of a machine: a volume, or (`volume` None) its root disk, which every machine has whether named or not.

    `boot` is its turn among the disks that may be booted from, 1 first; 0 leaves it to the root disk.
    """

    volume: UUID | None
    limits: IoLimits = IoLimits()
    boot: int = 0


@dataclass(frozen=True, slots=True)
class MachineDevices:
    """What is plugged into a machine: if it runs into what runs, else into its definition. MACs are in lower case.

    `discs` has an entry for each of its disc drives: the ISO that lies in it, or None. `rescue`: it is to start, or was
    started, from its rescue system's disk.
    """

    volumes: frozenset[UUID]
    macs: frozenset[str]
    discs: tuple[UUID | None, ...] = ()
    rescue: bool = False


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """All that the domain XML is made from; the same spec always gives the same XML, but for `console_secret`.

    `name` is shown by host tools and is made by the portal (never a person's free text); `title` is what one typed.
    `console_secret` is the VNC password, at most 8 characters (RFB uses no more) and never empty. `genid` changes
    whenever a guest must notice that it is another machine or was set back in time. `most_vcpus` and `most_memory_mib`
    are what it can be given while it runs; 0 leaves no room.

    `discs` are its disc drives with the ISO in each; it starts from its disks, then from the first drive, or with
    `boot_disc` the other way round. `seeded` machines have a NoCloud seed. With `rescue` it starts from its rescue
    disk, with a seed of that system's own, and its own disk comes after these (`RESCUED_SERIAL`).
    """

    uuid: UUID
    name: str
    title: str
    vcpus: int
    memory_mib: int
    firmware: Firmware
    genid: UUID
    console_secret: str = field(repr=False)
    nics: tuple[NicSpec, ...] = ()
    desktop: bool = True
    most_vcpus: int = 0
    most_memory_mib: int = 0
    disks: tuple[DiskSpec, ...] = ()
    tpm: bool = False
    discs: tuple[UUID | None, ...] = ()
    boot_disc: bool = False
    seeded: bool = True
    rescue: bool = False


# By which a rescue system finds the machine's own disk: /dev/disk/by-id/virtio-machine-disk.
RESCUED_SERIAL = "machine-disk"


@dataclass(frozen=True, slots=True)
class SeedSpec:
    """A NoCloud seed. The three texts are whole files, made by `workers.hypervisor.cloud_init`."""

    meta_data: str
    user_data: str = field(repr=False)
    network_config: str


@dataclass(frozen=True, slots=True)
class ParentSpec:
    """A running system that machines are to be forked from: what its template is started with.

    A template has BIOS firmware, no network card and no TPM, and belongs to nobody: its seed makes the user
    `guest_identity.TEMPLATE_USER`, and holds no secret. `name` is its domain's, as `MachineSpec.name`.
    """

    uuid: UUID
    name: str
    image: UUID
    vcpus: int
    memory_mib: int
    disk_bytes: int
    desktop: bool
    seed: SeedSpec


@dataclass(frozen=True, slots=True)
class ParentInfo:
    """What there is of a parent on its host. The sizes are what its files take there.

    `state_bytes` are of its devices' state and of the image that `restorable` tells of: forks may be made by restoring
    that, where mapping its memory does not work. `forks` are the running machines that map its memory. One that is not
    `captured` is being made, or was left half made.
    """

    uuid: UUID
    memory_bytes: int
    state_bytes: int
    disk_bytes: int
    restorable: bool
    forks: int
    captured: bool = True


@dataclass(frozen=True, slots=True)
class Forked:
    """How a machine came from its parent. `reason` is a sentence that says why it is no fork; empty for a fork."""

    how: Literal["fork", "restore"]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """One domain as the host sees it. `owned`: Casement defined it (its mark is in the domain's metadata).

    `memory_mib` is the most that it can be given. `saved`: it is off, and its memory lies in a file of the host.
    `parent`: it is no machine but a parent's template, whose UUID it has, or the trial fork of one.
    """

    uuid: UUID
    name: str
    power_state: PowerState
    vcpus: int
    memory_mib: int
    owned: bool
    saved: bool = False
    parent: bool = False


@dataclass(frozen=True, slots=True)
class ConsoleEndpoint:
    """Where the domain's VNC listens: a UNIX socket on the host, and the password that it asks for.

    `serial_path` is the UNIX socket of its first serial port, which takes one visitor at a time and keeps others
    waiting; empty where there is none.
    """

    socket_path: str
    secret: str = field(repr=False)
    serial_path: str = ""


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A file of Casement's pool on the host. `machine` is None for base images and volumes.

    `base` is the image, or of a fork the parent, that a disk, or a base made of a machine's disk, reads from.
    """

    name: str
    machine: UUID | None
    capacity_bytes: int
    allocation_bytes: int
    base: UUID | None = None

    @property
    def image(self) -> UUID | None:
        """Of which image version this is the base; None for other files."""
        return self._uuid_in("images")

    @property
    def volume(self) -> UUID | None:
        """Which volume this is; None for other files."""
        return self._uuid_in("volumes")

    @property
    def snapshot(self) -> UUID | None:
        """Of which snapshot of its machine this is the note; None for other files."""
        path = PurePosixPath(self.name)
        try:
            return UUID(path.stem) if self.machine is not None and path.suffix == ".json" else None
        except ValueError:
            return None

    @property
    def iso(self) -> UUID | None:
        """Which ISO this is; None for other files."""
        return self._uuid_in("isos")

    @property
    def parent(self) -> UUID | None:
        """Of which parent this is a file; None for other files."""
        parts = PurePosixPath(self.name).parts
        try:
            return UUID(parts[1]) if self.machine is None and len(parts) == 3 and parts[0] == "parents" else None
        except ValueError:
            return None

    @property
    def is_rescue(self) -> bool:
        """A rescue system's disk."""
        return self.machine is not None and PurePosixPath(self.name).name == "rescue.qcow2"

    def _uuid_in(self, folder: str) -> UUID | None:
        path = PurePosixPath(self.name)
        try:
            return UUID(path.stem) if self.machine is None and path.parent.name == folder else None
        except ValueError:
            return None

    @property
    def is_disk(self) -> bool:
        return self.machine is not None and PurePosixPath(self.name).name == "disk.qcow2"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot as it was taken. `volumes` are the machine's volumes that are in it, besides its root disk.

    `quiesced`: the guest's file systems were still, its agent saw to that, or it was off. `memory_bytes` is the size of
    the file with its memory; 0 is a snapshot of the disks alone.
    """

    uuid: UUID
    quiesced: bool
    memory_bytes: int
    volumes: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Accelerator:
    """`kind` is "kvm" or "tcg"; `reason` says in one sentence why."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostInfo:
    """A host's size and versions. `storage_*` are of the file system that holds Casement's pool.

    `warnings` are sentences for the administrator: things that work badly until the host is mended.
    """

    hostname: str
    cpus: int
    memory_mib: int
    storage_total_bytes: int
    storage_free_bytes: int
    hypervisor: str
    libvirt: str
    accelerator: Accelerator
    network_mode: NetworkMode
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostUsage:
    """What a host really uses now. `load` is the one-minute average; memory counts what is not available to others."""

    load: float
    memory_used_mib: int
    storage_free_bytes: int


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command in the guest gave, run by its agent. The outputs are cut at 1 MiB."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class MachineEvent:
    kind: EventKind
    at: datetime
    uuid: UUID | None = None
    power_state: PowerState | None = None


@dataclass(frozen=True, slots=True)
class HostConfig:
    """How to reach a host and where Casement's files are on it.

    `probe_kernel` is a Linux kernel for the accelerator's test boot; without one the host's own is looked for.
    """

    uri: str
    pool_dir: Path
    network: str = "casement"
    probe_kernel: Path | None = None
