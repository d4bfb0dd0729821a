"""A machine's snapshots: taken, restored, deleted.

A machine that is busy with a snapshot has exactly one that it is busy with so. Each step looks for that by its task,
and does nothing if it is over.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from django.utils import timezone

from portal.jobs.names import JobName, StepName
from portal.machines import services as machines
from portal.machines.devices import Plug
from portal.machines.models import Attachment, Machine
from portal.machines.states import PowerState
from portal.snapshots import restoring, services
from portal.snapshots.states import Task
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import InvalidOperationError
from workers.workflows import common, power
from workers.workflows.base import Context, Step, Workflow

GIB = 1024**3


def take(context: Context[Machine]) -> None:
    snapshot = services.in_change(context.target, Task.TAKING)
    if snapshot is not None:
        driver = common.driver(context)
        info = driver.take_snapshot(context.target.pk, snapshot.pk, memory=snapshot.with_memory)
        services.record_made(snapshot, quiesced=info.quiesced, memory_bytes=info.memory_bytes)


def take_back(context: Context[Machine]) -> None:
    """A guest that a dead worker left frozen or paused goes on, too."""
    snapshot = services.in_change(context.target, Task.TAKING)
    if snapshot is not None:
        common.driver(context).delete_snapshot(context.target.pk, snapshot.pk)


def take_first(context: Context[Machine]) -> None:
    """Of what there is, if that was asked for. It stays, whatever becomes of the rest."""
    take(context)
    snapshot = services.in_change(context.target, Task.TAKING)
    if snapshot is not None:
        services.record_ready(snapshot)


def restore(context: Context[Machine]) -> None:
    """It is off, the definition gets the volumes that the snapshot has, and then these get back what they held."""
    machine, driver = context.target, common.driver(context)
    snapshot = services.in_change(machine, Task.RESTORING)
    if snapshot is None:
        return
    power.cut_power(context)
    spec = common.spec_of(machine, secret=common.stored_secret(machine))
    coming = Attachment.objects.filter(machine=machine, volume__isnull=False).exclude(task=Plug.REMOVING)
    root = tuple(disk for disk in spec.disks if disk.volume is None)
    disks = tuple(common.disk_of(row) for row in coming.order_by("created_at", "pk"))
    machines.record_room(machine, vcpus=spec.most_vcpus, memory_mib=spec.most_memory_mib)
    driver.define(replace(spec, disks=(*root, *disks)))
    driver.restore_snapshot(machine.pk, snapshot.pk)
    if snapshot.with_memory:
        # It goes on with the screen's secret of then.
        machines.record_secret(machine, driver.console(machine.pk).secret)
        common.record_running(machine, driver)
        _put_discs_as_they_are_now(machine, driver)
    else:
        machines.record_power_state(machine.pk, PowerState.SHUT_OFF, at=timezone.now())


def _put_discs_as_they_are_now(machine: Machine, driver: HypervisorDriver) -> None:
    """What lies in a drive is no part of a snapshot. A machine that had no drives then gets them at its next start."""
    for slot, iso in enumerate(common.discs_of(machine)):
        with contextlib.suppress(InvalidOperationError):
            driver.insert_disc(machine.pk, slot, iso, force=True)


def define_before(context: Context[Machine]) -> None:
    """Off, with the disks that its rows name, none of them smaller than they say. What they hold cannot be taken back:
    the snapshot can be restored again, or another one.
    """
    machine, driver = context.target, common.driver(context)
    if services.in_change(machine, Task.RESTORING) is None:
        return
    driver.force_off(machine.pk)
    driver.define(common.spec_of(machine, secret=common.stored_secret(machine)))
    driver.grow_disk(machine.pk, None, size_bytes=machine.disk_gib * GIB)
    for row in Attachment.objects.filter(machine=machine, volume__isnull=False).exclude(task=Plug.ADDING):
        if row.volume is not None:
            driver.grow_disk(machine.pk, row.volume_id, size_bytes=row.volume.size_gib * GIB)
    machines.record_power_state(machine.pk, PowerState.SHUT_OFF, at=timezone.now())


def delete(context: Context[Machine]) -> None:
    snapshot = services.in_change(context.target, Task.DELETING)
    if snapshot is not None:
        common.driver(context).delete_snapshot(context.target.pk, snapshot.pk)


WORKFLOWS: tuple[Workflow[Machine], ...] = (
    Workflow(
        JobName.SNAPSHOT_TAKE,
        load=common.load,
        steps=(Step(StepName.TAKE_SNAPSHOT, take, undo=take_back),),
        on_done=services.record_taken,
        on_failed=lambda machine, message: services.record_not_taken(machine, message=message),
        on_cancelled=services.record_not_taken,
    ),
    Workflow(
        JobName.SNAPSHOT_RESTORE,
        load=common.load,
        steps=(
            Step(StepName.TAKE_SNAPSHOT, take_first, undo=take_back),
            Step(StepName.RESTORE_DISKS, restore, undo=define_before),
        ),
        on_done=restoring.record_restored,
        on_failed=lambda machine, message: restoring.record_not_restored(machine, message=message),
        # Half of it is worse than either end: whoever wants to delete the machine waits for it.
        cancellable=False,
    ),
    Workflow(
        JobName.SNAPSHOT_DELETE,
        load=common.load,
        steps=(Step(StepName.DELETE_SNAPSHOT, delete),),
        on_done=services.record_deleted,
        on_failed=lambda machine, message: services.record_not_deleted(machine, message=message),
        cancellable=False,
        max_retries=20,
    ),
)
