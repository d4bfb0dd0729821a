"""Compare a host with the rows and converge: one bulk call a host, and nothing is concluded from silence.

The hypervisor is the authority on power, the database on intent. What a live row owns is never removed here; what is
removed is only what a row of this portal says should be gone.
"""

from __future__ import annotations

import datetime as dt
import logging
from uuid import UUID

from django.utils import timezone

from portal.hosts import services as host_services
from portal.hosts.models import Host
from portal.jobs.selectors import active_job_of
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import LIVE, PowerState, Status, Task
from workers.hosts import driver_of
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import HostUnreachableError, HypervisorError
from workers.hypervisor.types import MachineInfo

logger = logging.getLogger(__name__)

# A task without a job is one whose worker died between two lines that nothing else covers; this long is no such moment.
ORPHAN_TASK_AFTER = dt.timedelta(minutes=2)


def reconcile_host(host_id: UUID) -> None:
    """Ask the host what it has, store how it is, and converge its machines."""
    host = Host.objects.filter(pk=host_id).first()
    if host is None:
        return
    try:
        driver = driver_of(host)
        _record_host(host, driver)
        seen_at = timezone.now()
        domains = {info.uuid: info for info in driver.list()}
    except HypervisorError as error:
        _host_is_away(host, error)
        return
    _converge_power(host, domains, seen_at)
    _find_screens_and_addresses(host, driver)
    _remove_leftovers(host, driver, domains)
    _end_orphan_tasks(host)


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
        now = timezone.now()
        for pk in Machine.objects.filter(host=host, status=Status.READY).values_list("pk", flat=True):
            services.record_power_state(pk, PowerState.UNKNOWN, at=now)


def _converge_power(host: Host, domains: dict[UUID, MachineInfo], seen_at: dt.datetime) -> None:
    for machine in Machine.objects.filter(host=host, status=Status.READY):
        info = domains.get(machine.pk)
        state = PowerState(info.power_state.value) if info else PowerState.UNKNOWN
        services.record_power_state(machine.pk, state, at=seen_at)


def _find_screens_and_addresses(host: Host, driver: HypervisorDriver) -> None:
    """Of running machines whose screen or address is not known: someone else started them, or a look came early."""
    running = Machine.objects.filter(host=host, status=Status.READY, power_state=PowerState.RUNNING, task=Task.NONE)
    for machine in running:
        if machine.console_socket and machine.addresses:
            continue
        try:
            observe_running(machine, driver)
        except HypervisorError as error:
            logger.info("machine %s: %s", machine.pk, error)


def observe_running(machine: Machine, driver: HypervisorDriver) -> None:
    """Look up what a running machine shows of itself, and record it."""
    services.record_console(machine, console_socket=driver.console(machine.pk).socket_path)
    if addresses := driver.addresses(machine.pk):
        services.record_addresses(machine, addresses)


def _remove_leftovers(host: Host, driver: HypervisorDriver, domains: dict[UUID, MachineInfo]) -> None:
    """Domains and disks of machines that were deleted or whose building failed, left when an undo could not run.

    Only what a row of this portal knows is touched: a domain that no row knows may be another portal's.
    """
    present = {info.uuid for info in domains.values() if info.owned}
    present |= {volume.machine for volume in driver.list_volumes() if volume.machine is not None}
    gone = Machine.objects.filter(pk__in=present, host=host, holds_quota=False).exclude(status__in=_BUILDING)
    for machine in gone:
        if active_job_of(machine) is not None:
            continue
        logger.warning("machine %s is %s: removing what is left on %s", machine.pk, machine.status, host.name)
        try:
            driver.undefine(machine.pk)
            driver.delete_storage(machine.pk)
        except HypervisorError as error:
            logger.warning("machine %s: %s", machine.pk, error)


_BUILDING = (Status.REQUESTED, Status.BUILDING)


def _end_orphan_tasks(host: Host) -> None:
    long_ago = timezone.now() - ORPHAN_TASK_AFTER
    for machine in Machine.objects.stuck_since(long_ago).filter(host=host, status__in=LIVE):
        if active_job_of(machine) is None:
            logger.warning("machine %s is %s without a job: ending that", machine.pk, machine.task)
            services.record_task_ended(machine, Task(machine.task))
