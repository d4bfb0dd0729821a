"""Compare a host with the rows and converge: one bulk call a host, and nothing is concluded from silence.

The hypervisor is the authority on power, the database on intent. What a live row owns is never removed here; what is
removed is only what a row of this portal says should be gone.
"""

from __future__ import annotations

import datetime as dt
import functools
import logging
from collections.abc import Callable
from uuid import UUID

from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from portal.copies import cloning
from portal.hosts import services as host_services
from portal.hosts.differences import record_differences
from portal.hosts.models import Host
from portal.images.models import ImageVersion, VersionStatus
from portal.isos.models import Iso
from portal.isos.models import Status as IsoStatus
from portal.jobs.selectors import active_job_of
from portal.machines import cards, discs, disks, hibernation, rescue, services
from portal.machines.drift import record_found, record_missing
from portal.machines.models import Machine, NetworkCard
from portal.machines.states import PowerState, Status, Task
from portal.parents import selectors as parents
from portal.parents import services as parent_services
from portal.profiles import services as profiles
from portal.snapshots import restoring
from portal.snapshots import services as snapshot_services
from portal.snapshots.models import Snapshot
from portal.snapshots.states import Status as SnapshotStatus
from portal.volumes.models import Volume
from workers import drift, let_go
from workers.hosts import driver_of
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import HostUnreachableError, HypervisorError, InvalidOperationError
from workers.hypervisor.types import PowerState as HostPowerState
from workers.workflows import copies

logger = logging.getLogger(__name__)

# A task without a job is one whose worker died between two lines that nothing else covers; this long is no such moment.
ORPHAN_TASK_AFTER = dt.timedelta(minutes=2)
ASKED_PER_LOOK = 20


def reconcile_host(host_id: UUID) -> None:
    """Ask the host what it has, store how it is, converge its machines, and keep what a person must decide."""
    host = Host.objects.filter(pk=host_id).first()
    if host is None:
        return
    try:
        driver = driver_of(host)
        _record_host(host, driver)
        seen_at = timezone.now()
        domains = {info.uuid: info for info in driver.list() if not info.parent}
        seen = drift.Seen(domains, driver.list_volumes(), driver.parents())
        _converge_power(host, driver, seen, seen_at)
        _converge_saved(host, seen, seen_at)
        _find_screens_and_addresses(host, driver)
        let_go.find_on(host, driver)
        _find_lost_parents(host, driver, seen)
        _remove_leftovers(host, driver, seen)
        record_differences(host, drift.find(host, driver, seen))
    except HypervisorError as error:
        _host_is_away(host, error)
        return
    _end_orphan_tasks(host)
    profiles.tend(host)


def _record_host(host: Host, driver: HypervisorDriver) -> None:
    info = driver.prepare_host()  # Costs milliseconds when all is there, and mends what somebody removed.
    usage = driver.host_usage()
    host_services.record_host(
        host,
        cpus=info.cpus,
        memory_mib=info.memory_mib,
        storage_total_bytes=info.storage_total_bytes,
        storage_free_bytes=usage.storage_free_bytes,
        load=usage.load,
        memory_used_mib=usage.memory_used_mib,
        accelerator=info.accelerator.kind,
        accelerator_reason=info.accelerator.reason[:300],
        network_mode=info.network_mode.value,
        hypervisor_version=info.hypervisor,
        libvirt_version=info.libvirt,
    )


def _host_is_away(host: Host, error: HypervisorError) -> None:
    """Its machines are "unknown" from now on, and nothing else."""
    logger.warning("host %s: %s", host.name, error, exc_info=error.__cause__)
    host_services.record_unreachable(host, message=error.message)
    if isinstance(error, HostUnreachableError):
        services.record_host_silent(host.pk)


def _converge_power(host: Host, driver: HypervisorDriver, seen: drift.Seen, seen_at: dt.datetime) -> None:
    """One query for all rows; only those that differ are written."""
    rows = Machine.objects.filter(host=host, status=Status.READY)
    for pk, task, power_state, missing_since in rows.values_list("pk", "task", "power_state", "missing_since"):
        info = seen.domains.get(pk)
        if info is None:
            if task == Task.NONE and missing_since is None and drift.is_missing(pk, driver):
                logger.warning("machine %s is not on %s any more", pk, host.name)
                record_missing(pk)
            continue
        if missing_since is not None:
            record_found(pk)
        # A domain that is busy is listed without its state; the next look knows it.
        if info.power_state not in {power_state, HostPowerState.UNKNOWN}:
            services.record_power_state(pk, PowerState(info.power_state.value), at=seen_at)


def _converge_saved(host: Host, seen: drift.Seen, seen_at: dt.datetime) -> None:
    """Somebody may have hibernated, woken or restarted machines past the portal."""
    believed = hibernation.hibernated_on(host.pk)
    there = {uuid for uuid, info in seen.domains.items() if info.saved}
    for uuid in believed & seen.domains.keys() - there:
        hibernation.record_saved_gone(uuid, known_at=seen_at)
    for uuid in there - believed:
        hibernation.record_saved_found(uuid, known_at=seen_at)


def _find_screens_and_addresses(host: Host, driver: HypervisorDriver) -> None:
    """Of running machines whose screen or address is not known: someone else started them, or a look came early.

    A few at a time, in no order: machines that never tell an address must not keep the others waiting.
    """
    running = Machine.objects.filter(host=host, status=Status.READY, power_state=PowerState.RUNNING, task=Task.NONE)
    unheard_of_card = Exists(NetworkCard.objects.filter(machine=OuterRef("pk"), addresses=[]))
    unknown = running.filter(Q(console_socket="") | Q(addresses=[]) | unheard_of_card)
    for machine in unknown.order_by("?")[:ASKED_PER_LOOK]:
        try:
            observe_running(machine, driver)
        except HypervisorError as error:
            logger.info("machine %s: %s", machine.pk, error)


def observe_running(machine: Machine, driver: HypervisorDriver) -> None:
    """Look up what a running machine shows of itself, and record it."""
    try:
        screen = driver.console(machine.pk)
        if machine.keeps_definition:
            services.record_secret(machine, screen.secret)
        services.record_console(machine, console_socket=screen.socket_path, serial_socket=screen.serial_path)
    except InvalidOperationError:
        if not machine.keeps_definition:
            raise
    if addresses := driver.addresses(machine.pk):
        services.record_addresses(machine, addresses)
    if further := list(machine.cards.all()):
        by_mac = driver.card_addresses(machine.pk)
        for card in further:
            cards.record_addresses(card, by_mac.get(card.mac, ()))


def _remove_leftovers(host: Host, driver: HypervisorDriver, seen: drift.Seen) -> None:
    """Domains and disks of machines that were deleted or whose building failed, left when an undo could not run.

    Only what a row of this portal knows is touched: a domain that no row knows may be another portal's.
    """
    gone = Machine.objects.filter(pk__in=seen.machines, host=host, holds_quota=False, keeps_definition=False)
    for machine in gone.exclude(status__in=_BUILDING):
        if active_job_of(machine) is None:
            logger.warning("machine %s is %s: removing what is left on %s", machine.pk, machine.status, host.name)
            _try(driver.undefine, machine.pk)
            _try(driver.delete_storage, machine.pk)
    for volume in Volume.objects.filter(pk__in=seen.data_volumes, host=host, holds_quota=False):
        if active_job_of(volume) is None:
            logger.warning("volume %s is %s: removing it from %s", volume.pk, volume.status, host.name)
            _try(driver.delete_volume, volume.pk)
    _remove_left_snapshots(host, driver, seen)
    for machine_id in seen.rescues:
        if rescue.is_over(machine_id):
            logger.warning("machine %s is not in rescue: removing what is left of that on %s", machine_id, host.name)
            _try(driver.end_rescue, machine_id)
    for iso in Iso.objects.filter(pk__in=seen.isos, status__in=_ISO_NOT_OFFERED):
        if active_job_of(iso) is None:
            logger.warning("ISO %s is %s: removing it from %s", iso.pk, iso.status, host.name)
            _try(driver.delete_iso, iso.pk)
    for version in ImageVersion.objects.filter(pk__in=seen.images, status__in=_NOT_OFFERED):
        if active_job_of(version) is None:
            logger.warning("image version %s is %s: removing it from %s", version.pk, version.status, host.name)
            _try(driver.delete_image, version.pk)
    _remove_copies_leftovers(host, driver)
    _remove_left_parents(host, driver, seen)


def _find_lost_parents(host: Host, driver: HypervisorDriver, seen: drift.Seen) -> None:
    """The list and the rows were not read in the same moment: the host is asked once more."""
    whole = {info.uuid for info in seen.parents if info.captured}
    for pk in set(parents.ready_on(host)) - whole:
        if not driver.has_parent(pk):
            logger.warning("parent %s is not on %s any more", pk, host.name)
            parent_services.record_lost(pk)


def _remove_left_parents(host: Host, driver: HypervisorDriver, seen: drift.Seen) -> None:
    """What there is of those that could not be made, or have gone."""
    for parent in parents.left_on(info.uuid for info in seen.parents):
        if parent.host_id == host.pk and active_job_of(parent) is None:
            logger.warning("parent %s is %s: removing what is left on %s", parent.pk, parent.state, host.name)
            _try(driver.delete_parent, parent.pk)


def _remove_copies_leftovers(host: Host, driver: HypervisorDriver) -> None:
    """Snapshots that were taken for a copy, and bases of linked clones that nothing reads from any more."""
    for copy in cloning.left_frozen(host):
        try:
            copies.thaw(copy)
        except HostUnreachableError:
            raise
        except HypervisorError as error:
            logger.warning("the snapshot of a copy of %s stays for now: %s", copy.source_id, error)
    # A base that goes may be the last that needed the one below it.
    while _remove_unneeded_bases(host, driver):
        pass


def _remove_unneeded_bases(host: Host, driver: HypervisorDriver) -> int:
    """How many went."""
    gone = 0
    for base in cloning.unneeded_bases(host):
        try:
            driver.delete_image(base.pk)
        except HostUnreachableError:
            raise
        except HypervisorError as error:
            logger.warning("base %s stays for now: %s", base.pk, error)
        else:
            cloning.record_base_gone(base)
            gone += 1
    return gone


def _remove_left_snapshots(host: Host, driver: HypervisorDriver, seen: drift.Seen) -> None:
    """Those that were deleted, or never became whole: a guest that was left frozen or paused for one goes on, too."""
    there = {volume.snapshot for volume in seen.volumes if volume.snapshot is not None}
    gone = Snapshot.objects.filter(pk__in=there, machine__host=host, status=SnapshotStatus.DELETED)
    for snapshot in gone.select_related("machine"):
        if active_job_of(snapshot.machine) is None:
            logger.warning("snapshot %s of %s is deleted: removing it", snapshot.pk, snapshot.machine_id)
            _try(functools.partial(driver.delete_snapshot, snapshot.machine_id), snapshot.pk)


def _try(removal: Callable[[UUID], None], pk: UUID) -> None:
    try:
        removal(pk)
    except HostUnreachableError:
        raise
    except HypervisorError as error:
        logger.warning("it stays for now: %s", error)


_ISO_NOT_OFFERED = (IsoStatus.DELETING, IsoStatus.FAILED)
_NOT_OFFERED = (VersionStatus.DELETING, VersionStatus.FAILED)
_BUILDING = (Status.REQUESTED, Status.BUILDING)


def _end_orphan_tasks(host: Host) -> None:
    long_ago = timezone.now() - ORPHAN_TASK_AFTER
    for machine in Machine.objects.stuck_since(long_ago).filter(host=host):
        if active_job_of(machine) is None and not cloning.is_being_copied(machine):
            logger.warning("machine %s is %s without a job: ending that", machine.pk, machine.task)
            snapshot_services.end_orphan(machine)
            restoring.end_orphan(machine)
            disks.end_orphan(machine)
            cards.end_orphan(machine)
            cloning.end_orphan(machine)
            discs.end_orphan(machine)
            services.record_task_ended(machine, Task(machine.task))
