"""Write a machine's memory to disk and switch it off; or forget what was written. Waking is a start like any other."""

from django.utils import timezone

from portal.jobs.names import JobName, StepName
from portal.machines import hibernation, services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Task
from workers.workflows import common
from workers.workflows.base import Context, Step, Workflow


def save(context: Context[Machine]) -> None:
    common.driver(context).save(context.target.pk)
    services.record_power_state(context.target.pk, PowerState.SHUT_OFF, at=timezone.now())


def wake(context: Context[Machine]) -> None:
    """If it had come so far as to be saved. One that went off by itself stays off."""
    machine, driver = context.target, common.driver(context)
    if driver.get(machine.pk).saved:
        driver.start(machine.pk)
    if not common.is_off(machine, driver):
        common.record_running(machine, driver)


def discard(context: Context[Machine]) -> None:
    common.driver(context).discard_saved(context.target.pk)


WORKFLOWS: tuple[Workflow[Machine], ...] = (
    Workflow(
        JobName.MACHINE_HIBERNATE,
        load=common.load,
        steps=(Step(StepName.SAVE, save, undo=wake),),
        on_done=hibernation.record_hibernated,
        on_failed=lambda machine, message: hibernation.record_not_hibernated(machine, message=message),
        on_cancelled=hibernation.record_not_hibernated,
    ),
    Workflow(
        JobName.MACHINE_DISCARD,
        load=common.load,
        steps=(Step(StepName.DISCARD, discard),),
        on_done=hibernation.record_discarded,
        on_failed=lambda machine, message: services.record_task_ended(machine, Task.DISCARDING, message=message),
        cancellable=False,
    ),
)
