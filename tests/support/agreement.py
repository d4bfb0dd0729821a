"""Do the hosts and the rows agree? Every sentence that comes back is something lost or something left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet

from portal.accounts.models import Project
from portal.copies.models import DiskBase, DiskCopy
from portal.copies.states import BaseStatus
from portal.hosts.models import Host
from portal.images.models import ImageVersion, VersionStatus
from portal.isos.models import Iso
from portal.isos.models import Status as IsoStatus
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE
from portal.lib.secrets import unseal
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.machines.states import PowerState, Status, Task
from portal.parents.models import Parent
from portal.parents.states import State
from portal.profiles.models import Profile
from portal.profiles.states import State as ProfileState
from portal.snapshots.models import Snapshot
from portal.snapshots.states import Status as SnapshotStatus
from portal.snapshots.states import Task as SnapshotTask
from portal.volumes.models import Volume, disk_amount
from portal.volumes.states import HAS_FILE
from portal.volumes.states import Status as VolumeStatus
from portal.volumes.states import Task as VolumeTask
from workers.drift import Seen
from workers.hosts import driver_of
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.types import MachineInfo
from workers.workflows.common import discs_of

# What is in the bin is off, and all of it is there.
ON_HOSTS = (Status.READY, Status.BINNED)
GIB = 1024**3
_AMOUNTS = ("vcpus", "memory_mib", "disk_gib")


def disagreements() -> list[str]:
    """Over all hosts, projects, jobs and images."""
    return [
        *(f"job {job} is still {job.status}" for job in Job.objects.filter(status__in=ACTIVE)),
        *(text for host in Host.objects.all() for text in _of_host(host)),
        *(text for project in Project.objects.all() for text in _of_project(project)),
        *_of_images(),
        *_of_isos(),
        *_of_profiles(),
    ]


def _of_host(host: Host) -> Iterator[str]:
    driver = driver_of(host)
    domains = {info.uuid: info for info in driver.list() if not info.parent}
    seen = Seen(domains, driver.list_volumes(), driver.parents())
    rows = {row.pk: row for row in Machine.objects.filter(host=host)}
    for row in rows.values():
        yield from (f"{row.pk} ({row.status}): {text}" for text in _of_machine(row, driver, seen))
    for uuid in seen.machines - set(rows):
        if uuid not in seen.domains or seen.domains[uuid].owned:
            yield f"{uuid} is on {host} and belongs to nobody there"
    yield from _of_volumes(host, seen)
    yield from _of_copies(host, seen)
    yield from _of_parents(host, driver, seen)
    snapshots = Snapshot.objects.filter(machine__host=host)
    held = _held_by(Machine.objects.filter(host=host), Volume.objects.filter(host=host), snapshots)
    for parent in Parent.objects.filter(host=host, holds_capacity=True):
        held = {name: number + getattr(parent.amount, name) for name, number in held.items()}
    for name in _AMOUNTS:
        if getattr(host, f"reserved_{name}") != held[name]:
            yield f"{host} has promised {getattr(host, f'reserved_{name}')} {name}, its machines hold {held}"


def _of_volumes(host: Host, seen: Seen) -> Iterator[str]:
    """Each has its file, of the size that its row says, and is somebody's or free; and there is no file besides."""
    files = {info.volume: info.capacity_bytes for info in seen.volumes if info.volume is not None}
    for row in Volume.objects.filter(host=host).select_related("attachment"):
        there, attached = files.pop(row.pk, None), hasattr(row, "attachment")
        if row.task != VolumeTask.NONE or row.status == VolumeStatus.CREATING:
            yield f"volume {row.pk} is still {row.status} {row.task}"
        if (row.status == VolumeStatus.IN_USE) != attached:
            yield f"volume {row.pk} is {row.status}, attached: {attached}"
        if row.holds_quota != (row.status in HAS_FILE):
            yield f"volume {row.pk} ({row.status}) holds quota: {row.holds_quota}"
        if there != (row.size_gib * GIB if row.status in HAS_FILE else None):
            yield f"volume {row.pk} ({row.status}, {row.size_gib} GiB) has {there} bytes on {host}"
    yield from (f"volume file {pk} is left on {host}" for pk in files)


def _of_parents(host: Host, driver: HypervisorDriver, seen: Seen) -> Iterator[str]:
    """Each that is ready, or going, is whole; of others there is nothing; and forks read from the one they say."""
    there = {info.uuid: info.captured for info in seen.parents}
    templates = [info.uuid for info in driver.list() if info.parent]
    yield from (f"template {pk} runs on {host}" for pk in templates)
    for row in Parent.objects.filter(host=host):
        captured = there.pop(row.pk, None)
        if row.state in (State.WANTED, State.BUILDING):
            yield f"parent {row.pk} is still {row.state}"
        if row.holds_capacity != (row.state in (State.READY, State.RETIRING)):
            yield f"parent {row.pk} ({row.state}) holds capacity: {row.holds_capacity}"
        if captured != (True if row.state in (State.READY, State.RETIRING) else None):
            yield f"parent {row.pk} ({row.state}) is on {host}: {captured}"
    yield from (f"parent {pk} is left on {host}" for pk in there)
    bases = {info.machine: info.base for info in seen.volumes if info.is_disk}
    for machine in Machine.objects.filter(host=host, parent__isnull=False, status__in=ON_HOSTS):
        if bases.get(machine.pk) != machine.parent_id:
            yield f"{machine.pk} reads from {bases.get(machine.pk)}, its row says {machine.parent_id}"


def _of_copies(host: Host, seen: Seen) -> Iterator[str]:
    """Each base has its file and a clone that needs it; no original is left busy, or with a copy's snapshot."""
    bases = {row.pk: row for row in DiskBase.objects.filter(host=host)}
    for base in bases.values():
        if base.status != BaseStatus.READY or base.pk not in seen.images:
            yield f"base {base.pk} is {base.status}, on {host}: {base.pk in seen.images}"
        if not base.copies.filter(machine__holds_quota=True).exists() and not base.children.exists():
            yield f"base {base.pk} is kept for nobody"
    yield from (f"image {pk} is left on {host}" for pk in seen.images - set(bases) - _known_versions(seen))
    kept = {info.snapshot for info in seen.volumes if info.snapshot is not None}
    for copy in DiskCopy.objects.filter(source__host=host):
        if copy.is_frozen or copy.holds_source or copy.pk in kept:
            yield f"copy {copy.pk} is not over: {copy.is_frozen} {copy.holds_source} {copy.pk in kept}"


def _known_versions(seen: Seen) -> set[UUID]:
    known = ImageVersion.objects.filter(pk__in=seen.images).exclude(status=VersionStatus.FAILED)
    return set(known.values_list("pk", flat=True))


def _of_machine(row: Machine, driver: HypervisorDriver, seen: Seen) -> Iterator[str]:
    files = sorted(Path(volume.name).name for volume in seen.volumes if volume.machine == row.pk)
    info = seen.domains.get(row.pk)
    yield from _of_snapshots(row, driver)
    if row.task != Task.NONE:
        yield f"still {row.task}"
    if row.holds_quota != (row.status in ON_HOSTS):
        yield f"holds quota: {row.holds_quota}"
    if row.status not in ON_HOSTS:
        if info is not None or files:
            yield f"left on the host: domain {info}, files {files}"
        return
    needed = {"disk.qcow2"} if row.iso_name else {"disk.qcow2", "seed.iso"}
    if not row.keeps_definition and not needed <= set(files):
        yield f"disk or seed is lost: {files}"
    if ("rescue.qcow2" in files) != (row.rescue_version is not None):
        yield f"in rescue by {row.rescue_version}, there are the files {files}"
    if info is None:
        yield "its domain is lost"
        return
    yield from _of_domain(row, driver, info)


def _of_domain(row: Machine, driver: HypervisorDriver, info: MachineInfo) -> Iterator[str]:
    if not info.owned:
        yield "its domain has no mark"
        return
    if info.saved != row.is_hibernated or (row.saved_gib and not row.is_hibernated):
        yield f"memory saved: {info.saved}, the row says {row.saved_at} and {row.saved_gib} GiB"
    if row.power_state == PowerState.SHUT_OFF and row.wanted_vcpus and not row.is_hibernated:
        yield "it is off and waits for a size"
    if row.next_version_id is not None:
        yield "it waits to be rebuilt"
    if row.next_password or row.next_ssh_key:
        yield "a password or key is still on its way"
    if info.vcpus not in {row.vcpus, row.wanted_vcpus}:
        yield f"it has {info.vcpus} vCPUs, the row says {row.vcpus}"
    if not row.keeps_definition:
        yield from _of_devices(row, driver)
    if info.power_state.value != row.power_state:
        yield f"it is {info.power_state}, the row says {row.power_state}"
    if row.power_state == PowerState.RUNNING and not row.keeps_definition:
        screen = driver.console(row.pk)
        if (screen.socket_path, screen.secret) != (row.console_socket, unseal(row.console_secret)):
            yield "its screen's socket or secret is not the row's"
        if screen.serial_path != row.serial_socket:
            yield "its serial port's socket is not the row's"


def _of_snapshots(row: Machine, driver: HypervisorDriver) -> Iterator[str]:
    """Each that is ready is on the host, and no other one; the machine is at one of them at most."""
    rows = Snapshot.objects.filter(machine=row)
    ready = {snapshot.pk for snapshot in rows if snapshot.status == SnapshotStatus.READY}
    if set(driver.snapshots(row.pk)) != ready:
        yield f"it has the snapshots {driver.snapshots(row.pk)}, its rows say {sorted(ready)}"
    for snapshot in rows:
        if snapshot.task != SnapshotTask.NONE or snapshot.status == SnapshotStatus.CREATING:
            yield f"snapshot {snapshot.pk} is still {snapshot.status} {snapshot.task}"
        if bool(snapshot.held_gib) != (snapshot.pk in ready and snapshot.with_memory) or snapshot.growth_gib:
            yield f"snapshot {snapshot.pk} holds {snapshot.held_gib} and {snapshot.growth_gib} GiB"
        if snapshot.is_current and snapshot.pk not in ready:
            yield f"it is at the snapshot {snapshot.pk}, which is {snapshot.status}"
        if snapshot.pk in ready and snapshot.parent_id not in ready | {None}:
            yield f"snapshot {snapshot.pk} came after {snapshot.parent_id}, which is none any more"


def _of_devices(row: Machine, driver: HypervisorDriver) -> Iterator[str]:
    """What the host has plugged in is what the rows say, and of the root disk the size."""
    there = driver.devices(row.pk)
    volumes = set(Attachment.objects.filter(machine=row, volume__isnull=False).values_list("volume_id", flat=True))
    macs = {row.mac, *NetworkCard.objects.filter(machine=row).values_list("mac", flat=True)}
    if there.volumes != volumes:
        yield f"it has the volumes {sorted(there.volumes)}, its rows say {sorted(volumes)}"
    if there.macs != macs:
        yield f"it has the cards {sorted(there.macs)}, its rows say {sorted(macs)}"
    if there.discs != discs_of(row):
        yield f"it has the discs {there.discs}, its rows say {discs_of(row)}"
    if there.rescue != (row.rescue_version is not None):
        yield f"it is to start from a rescue system: {there.rescue}, the row says {row.rescue_version}"
    root = [info.capacity_bytes for info in driver.list_volumes() if info.is_disk and info.machine == row.pk]
    least = row.image_version.virtual_size_bytes if row.image_version else 0
    if (row.image_version or row.iso_name) and root != [max(row.disk_gib * GIB, least)]:
        yield f"its root disk has {root} bytes, the row says {row.disk_gib} GiB"


def _of_project(project: Project) -> Iterator[str]:
    snapshots = Snapshot.objects.filter(machine__project=project)
    held = _held_by(Machine.objects.filter(project=project), Volume.objects.filter(project=project), snapshots)
    held["disk_gib"] += sum(iso.amount.disk_gib for iso in Iso.objects.filter(project=project, holds_quota=True))
    for name in ("machines", *_AMOUNTS):
        if getattr(project, f"used_{name}") != held[name]:
            yield f"{project} counts {getattr(project, f'used_{name}')} {name} and holds {held}"


def _held_by(machines: QuerySet[Machine], volumes: QuerySet[Volume], snapshots: QuerySet[Snapshot]) -> dict[str, int]:
    """What counts against a quota or a host's capacity: machines, volumes' disk, and that of snapshots' memory."""
    amounts = [machine.amount for machine in machines.filter(holds_quota=True)]
    amounts += [volume.amount for volume in volumes.filter(holds_quota=True)]
    amounts += [disk_amount(held) for held in snapshots.values_list("held_gib", flat=True)]
    return {name: sum(getattr(amount, name) for amount in amounts) for name in ("machines", *_AMOUNTS)}


def _of_isos() -> Iterator[str]:
    """Each that is ready has its file; no other file is left; and machines are in the drives of none that is gone."""
    ready = {iso.path.name for iso in Iso.objects.filter(status=IsoStatus.READY)}
    files = {path.name for path in settings.ISOS_DIR.glob("*")} if settings.ISOS_DIR.is_dir() else set()
    yield from (f"ISO file {name} is lost" for name in sorted(ready - files))
    yield from (f"ISO file {name} is left" for name in sorted(files - ready))
    for iso in Iso.objects.filter(status__in=[IsoStatus.CHECKING, IsoStatus.DELETING]):
        yield f"ISO {iso.pk} is still {iso.status}"
    for iso in Iso.objects.filter(status=IsoStatus.FAILED, holds_quota=True):
        yield f"ISO {iso.pk} failed and counts against the quota"
    for host in Host.objects.all():
        known = set(Iso.objects.filter(status=IsoStatus.READY).values_list("pk", flat=True))
        left = {info.iso for info in driver_of(host).list_volumes() if info.iso is not None} - known
        yield from (f"ISO {pk} is left on {host}" for pk in left)


def _of_profiles() -> Iterator[str]:
    """Each is with the machine that has its volume, and with none if none has it; and nobody waits for it for ever."""
    for row in Profile.objects.select_related("person"):
        attached = Attachment.objects.filter(volume=row.volume_id, volume__isnull=False).first()
        held = attached is not None and attached.machine_id == row.machine_id
        if row.state == ProfileState.ATTACHING or (row.state == ProfileState.FREE) != (attached is None):
            yield f"{row} are {row.state}, and attached: {attached is not None}"
        if row.state != ProfileState.FREE and not held:
            yield f"{row} are {row.state} on {row.machine_id}, and with {attached and attached.machine_id}"
        if row.state == ProfileState.FREE and row.machine_id is not None:
            yield f"{row} are free and on {row.machine_id}"
        if row.next_machine_id is not None:
            yield f"{row} are still wanted on {row.next_machine_id}"


def _of_images() -> Iterator[str]:
    ready = {version.path.name for version in ImageVersion.objects.filter(status=VersionStatus.READY)}
    files = {path.name for path in settings.IMAGES_DIR.glob("*")} if settings.IMAGES_DIR.is_dir() else set()
    yield from (f"image file {name} is lost" for name in sorted(ready - files))
    yield from (f"image file {name} is left" for name in sorted(files - ready))
    for version in ImageVersion.objects.filter(status__in=[VersionStatus.BUILDING, VersionStatus.DELETING]):
        yield f"image version {version.pk} is still {version.status}"
    if uploads := sorted(path.name for path in settings.UPLOADS_DIR.glob("*")) if settings.UPLOADS_DIR.is_dir() else []:
        yield f"uploads are left: {uploads}"
