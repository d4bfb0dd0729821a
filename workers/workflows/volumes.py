"""Volumes by themselves: made, grown, deleted."""

from __future__ import annotations

from django.utils.translation import gettext as _

from portal.jobs.names import JobName, StepName
from portal.volumes import services
from portal.volumes.models import Volume
from portal.volumes.selectors import volume_by_id
from workers.hosts import driver_of
from workers.hypervisor.driver import HypervisorDriver
from workers.workflows.base import Context, Step, Workflow

GIB = 1024**3


def driver(context: Context[Volume]) -> HypervisorDriver:
    return driver_of(context.target.host)


def create(context: Context[Volume]) -> None:
    driver(context).create_volume(context.target.pk, size_bytes=context.target.size_gib * GIB)


def delete(context: Context[Volume]) -> None:
    driver(context).delete_volume(context.target.pk)


def grow(context: Context[Volume]) -> None:
    wanted = context.target.wanted_gib
    if wanted is not None:
        driver(context).grow_volume(context.target.pk, size_bytes=wanted * GIB)


def settle_growth(context: Context[Volume]) -> None:
    """What has grown cannot be taken back: then the row follows it, whatever else went wrong."""
    wanted = context.target.wanted_gib
    if wanted is not None and has_size(driver(context), context.target, wanted):
        services.record_grown(context.target)


def has_size(host_driver: HypervisorDriver, volume: Volume, gib: int) -> bool:
    sizes = {info.volume: info.capacity_bytes for info in host_driver.list_volumes()}
    return sizes.get(volume.pk, 0) >= gib * GIB


def release(context: Context[Volume]) -> None:
    services.release(context.target)


WORKFLOWS: tuple[Workflow[Volume], ...] = (
    Workflow(
        JobName.VOLUME_CREATE,
        load=volume_by_id,
        steps=(Step(StepName.VOLUME, create, undo=delete),),
        on_done=services.record_created,
        on_failed=lambda volume, message: services.record_create_failed(volume, message=message),
        on_cancelled=lambda volume: services.record_create_failed(volume, message=_("Stopped on request.")),
    ),
    Workflow(
        JobName.VOLUME_GROW,
        load=volume_by_id,
        steps=(Step(StepName.GROW, grow, undo=settle_growth),),
        on_done=services.record_grown,
        on_failed=lambda volume, message: services.record_not_grown(volume, message=message),
        on_cancelled=lambda volume: services.record_not_grown(volume, message=""),
    ),
    Workflow(
        JobName.VOLUME_DELETE,
        load=volume_by_id,
        steps=(Step(StepName.DELETE_VOLUME, delete), Step(StepName.RELEASE, release)),
        on_done=services.record_deleted,
        on_failed=lambda volume, message: services.record_not_deleted(volume, message=message),
        cancellable=False,
        max_retries=20,
    ),
)
