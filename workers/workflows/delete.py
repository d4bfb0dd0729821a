"""Remove a machine so that nothing of it is left: domain, disk, seed, socket, quota. Or switch it off, for the bin."""

from typing import TypeVar

from django.utils import timezone

from portal.jobs.names import JobName, StepName
from portal.jobs.selectors import others_at_work
from portal.machines import binning, cards, discs, disks, services
from portal.machines.models import Attachment, Machine
from portal.machines.states import PowerState, Task
from portal.pools import filling
from portal.snapshots import services as snapshots
from workers.hypervisor.errors import DomainNotFoundError
from workers.workflows import common, create
from workers.workflows.base import Again, Context, Step, Workflow

T = TypeVar("T")


def wait_for_other_work(context: Context[T]) -> None:
    """The jobs that were under way were asked to stop; two at once on one disk would undo each other."""
    if others_at_work(context.job):
        raise Again(0.5)


def wait_until_nothing_is_needed(context: Context[Machine]) -> None:
    """As above, and for copies that are being made from one of its snapshots."""
    wait_for_other_work(context)
    if snapshots.is_held(context.target):
        raise Again(2)


def free_volumes(context: Context[Machine]) -> None:
    """Its definition is gone, so nothing on the host has them any more: each goes or stays as was said."""
    driver = common.driver(context)
    attached = Attachment.objects.filter(machine=context.target, volume__isnull=False).select_related("volume")
    for attachment in attached:
        if attachment.delete_with_machine and attachment.volume is not None:
            driver.delete_volume(attachment.volume.pk)
            disks.record_deleted_with(attachment)
        else:
            disks.record_gone(attachment)
    cards.forget(context.target)
    discs.forget(context.target)


def release(context: Context[Machine]) -> None:
    snapshots.record_machine_gone(context.target)
    services.release_resources(context.target)


def record_deleted(machine: Machine) -> None:
    services.record_deleted(machine)
    filling.machine_over(machine)


def cut_power(context: Context[Machine]) -> None:
    """One that its host has lost goes into the bin as well: its disk may be there."""
    driver = common.driver(context)
    try:
        driver.force_off(context.target.pk)
        driver.discard_saved(context.target.pk)
    except DomainNotFoundError:
        return
    services.record_power_state(context.target.pk, PowerState.SHUT_OFF, at=timezone.now())


TO_BIN: Workflow[Machine] = Workflow(
    JobName.MACHINE_BIN,
    load=common.load,
    steps=(Step(StepName.WAIT_WORK, wait_for_other_work), Step(StepName.CUT_POWER, cut_power)),
    on_done=binning.record_binned,
    on_failed=lambda machine, message: services.record_task_ended(machine, Task.BINNING, message=message),
    cancellable=False,
    max_retries=20,
)

WORKFLOW: Workflow[Machine] = Workflow(
    JobName.MACHINE_DELETE,
    load=common.load,
    steps=(
        Step(StepName.WAIT_WORK, wait_until_nothing_is_needed),
        Step(StepName.UNDEFINE, create.undefine),
        Step(StepName.DELETE_STORAGE, create.delete_storage),
        Step(StepName.FREE_VOLUMES, free_volumes),
        Step(StepName.RELEASE, release),
    ),
    on_done=record_deleted,
    on_failed=lambda machine, message: services.record_task_ended(machine, Task.DELETING, message=message),
    cancellable=False,
    max_retries=20,
)
