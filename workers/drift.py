"""What does not agree between a host and the rows, and is for a person to decide: found here, and only shown.

Nothing is looked up one machine at a time, but for what seems to be missing: the list and the rows were not read in the
same moment, so the host is asked again before anyone is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from portal.copies.models import DiskBase
from portal.hosts.differences import Finding
from portal.hosts.models import DifferenceKind, Host
from portal.images.models import ImageVersion
from portal.machines.models import Machine
from portal.machines.sizes import room_of
from portal.machines.states import LIVE, Status, Task
from portal.parents.models import Parent
from portal.volumes.models import Volume
from portal.volumes.states import HAS_FILE
from portal.volumes.states import Task as VolumeTask
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import DomainNotFoundError
from workers.hypervisor.types import MachineInfo, ParentInfo, VolumeInfo

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a host has, from one bulk call each. The templates of parents are none of its machines."""

    domains: Mapping[UUID, MachineInfo]
    volumes: Collection[VolumeInfo]
    parents: Collection[ParentInfo] = ()

    @property
    def disks(self) -> dict[UUID, VolumeInfo]:
        return {volume.machine: volume for volume in self.volumes if volume.machine is not None and volume.is_disk}

    @property
    def images(self) -> set[UUID]:
        return {volume.image for volume in self.volumes if volume.image is not None}

    @property
    def isos(self) -> set[UUID]:
        return {volume.iso for volume in self.volumes if volume.iso is not None}

    @property
    def rescues(self) -> set[UUID]:
        """Machines that have a rescue system's disk."""
        return {volume.machine for volume in self.volumes if volume.is_rescue and volume.machine is not None}

    @property
    def data_volumes(self) -> set[UUID]:
        return {volume.volume for volume in self.volumes if volume.volume is not None}

    @property
    def machines(self) -> set[UUID]:
        """Of which machines there is anything: a domain or a file."""
        return set(self.domains) | {volume.machine for volume in self.volumes if volume.machine is not None}


def find(host: Host, driver: HypervisorDriver, seen: Seen) -> list[Finding]:
    """Every difference on the host. The same queries, however much is on it."""
    here = list(Machine.objects.filter(host=host, status=Status.READY, task=Task.NONE))
    known = dict(Machine.objects.filter(pk__in=seen.machines).values_list("pk", "status"))
    return [
        *_of_machines(here, driver, seen),
        *_copies(host, seen),
        *_unknown(seen, set(known)),
        *_unknown_images(seen),
        *_of_volumes(host, driver, seen),
        *_unknown_parents(seen),
    ]


def is_missing(machine_id: UUID, driver: HypervisorDriver) -> bool:
    """Ask the host once more, by itself."""
    try:
        driver.power_state(machine_id)
    except DomainNotFoundError:
        return True
    return False


def _of_machines(machines: list[Machine], driver: HypervisorDriver, seen: Seen) -> Iterator[Finding]:
    disks = seen.disks
    for machine in machines:
        info = seen.domains.get(machine.pk)
        has_disk = machine.keeps_definition or machine.pk in disks
        if info is None:
            if is_missing(machine.pk, driver):
                yield Finding(DifferenceKind.MISSING, machine.pk, machine.name, {"has_disk": has_disk})
        elif not has_disk:
            yield Finding(DifferenceKind.NO_DISK, machine.pk, machine.name)
        elif info.vcpus and info.memory_mib and not _has_its_size(machine, info):
            yield Finding(DifferenceKind.SIZE, machine.pk, machine.name, _size_of(info))


def _has_its_size(machine: Machine, info: MachineInfo) -> bool:
    """A host tells the most memory that a domain can be given: that of its definition, or of what it was started with.

    One that is off has the size of its next start, which a hibernated one has not taken yet.
    """
    wanted = (machine.wanted_vcpus or machine.vcpus, machine.wanted_memory_mib or machine.memory_mib)
    _most_vcpus, most_memory = room_of(*wanted)
    sizes = {machine.memory_mib, machine.room_memory_mib, wanted[1], most_memory}
    return info.vcpus in {machine.vcpus, wanted[0]} and info.memory_mib in sizes


def _copies(host: Host, seen: Seen) -> Iterator[Finding]:
    """What a machine of another host has here: an undo that could not reach this host, or somebody's hand."""
    strangers = Machine.objects.filter(pk__in=seen.machines, status__in=LIVE, task=Task.NONE).exclude(host=host)
    for machine in strangers.select_related("host"):
        yield Finding(DifferenceKind.ELSEWHERE, machine.pk, machine.name, {"host": machine.host.name})


def _unknown(seen: Seen, known: set[UUID]) -> Iterator[Finding]:
    """Domains and disks that no row knows: somebody else's, or of a database that was restored to an earlier day."""
    disks = seen.disks
    for uuid, info in seen.domains.items():
        if uuid not in known:
            disk = {"disk_gib": _gib(disks[uuid])} if uuid in disks else {}
            power = {"power_state": info.power_state.value, "owned": info.owned}
            yield Finding(DifferenceKind.FOREIGN, uuid, info.name, {**_size_of(info), **disk, **power})
    for uuid, disk_file in disks.items():
        if uuid not in known and uuid not in seen.domains:
            image = str(disk_file.base) if disk_file.base else None
            yield Finding(DifferenceKind.STRAY, uuid, "", {"disk_gib": _gib(disk_file), "image": image})


def _unknown_images(seen: Seen) -> Iterator[Finding]:
    known = set(ImageVersion.objects.filter(pk__in=seen.images).values_list("pk", flat=True))
    known |= set(DiskBase.objects.filter(pk__in=seen.images).values_list("pk", flat=True))
    sizes = {volume.image: volume.allocation_bytes for volume in seen.volumes if volume.image is not None}
    for version in sorted(seen.images - known):
        yield Finding(DifferenceKind.IMAGE, version, "", {"disk_gib": round(sizes[version] / GIB, 1)})


def _unknown_parents(seen: Seen) -> Iterator[Finding]:
    """Another portal's, or of a database that was restored to an earlier day."""
    there = {info.uuid: info for info in seen.parents}
    known = set(Parent.objects.filter(pk__in=there).values_list("pk", flat=True))
    for uuid in sorted(there.keys() - known):
        info = there[uuid]
        size = info.memory_bytes + info.state_bytes + info.disk_bytes
        yield Finding(DifferenceKind.PARENT, uuid, "", {"disk_gib": round(size / GIB, 1)})


def _of_volumes(host: Host, driver: HypervisorDriver, seen: Seen) -> Iterator[Finding]:
    """Volumes whose file is lost, and files that no row knows. What a row of any state names is never a stranger's."""
    rows = dict(Volume.objects.filter(host=host, status__in=HAS_FILE, task=VolumeTask.NONE).values_list("pk", "name"))
    lost = set(rows) - seen.data_volumes
    if lost:  # One that was just made may be younger than the list.
        lost -= {info.volume for info in driver.list_volumes() if info.volume is not None}
    for pk in sorted(lost):
        yield Finding(DifferenceKind.NO_VOLUME, pk, rows[pk])
    known = set(Volume.objects.filter(pk__in=seen.data_volumes).values_list("pk", flat=True))
    files = {info.volume: info for info in seen.volumes if info.volume is not None}
    for pk in sorted(set(files) - known):
        yield Finding(DifferenceKind.VOLUME, pk, "", {"disk_gib": _gib(files[pk])})


def _size_of(info: MachineInfo) -> dict[str, object]:
    return {"vcpus": info.vcpus, "memory_mib": info.memory_mib}


def _gib(volume: VolumeInfo) -> int:
    return -(-volume.capacity_bytes // GIB)
