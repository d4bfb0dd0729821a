"""What is done about a difference when an operator says so: take over, define again, remove a copy."""

from portal.hosts.differences import difference_by_id
from portal.hosts.models import Difference
from portal.jobs.names import JobName, StepName
from portal.machines import drift, services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Task
from workers.hosts import driver_of
from workers.workflows import common, create
from workers.workflows.base import Context, Step, Workflow


def adopt(context: Context[Machine]) -> None:
    """A domain keeps its definition and gets our mark; a disk without one gets a new seed and a definition of ours."""
    machine = context.target
    driver = common.driver(context)
    if machine.keeps_definition:
        driver.adopt(machine.pk)
        if not common.is_off(machine, driver):
            common.record_running(machine, driver)
        return
    create.write_new_seed(context)
    create.define(context)
    services.record_power_state(machine.pk, PowerState.SHUT_OFF, at=context.job.started_at or context.job.created_at)


def give_back(context: Context[Machine]) -> None:
    """The disk stays where it was found, in either case."""
    machine = context.target
    driver = common.driver(context)
    if machine.keeps_definition:
        driver.disown(machine.pk)
    else:
        driver.undefine(machine.pk)


def define_again(context: Context[Machine]) -> None:
    create.define(context)
    drift.record_found(context.target.pk)


def undefine_copy(context: Context[Difference]) -> None:
    if drift.is_copy(context.target):
        driver_of(context.target.host).undefine(context.target.object_id)


def delete_copy(context: Context[Difference]) -> None:
    if drift.is_copy(context.target):
        driver_of(context.target.host).delete_storage(context.target.object_id)


WORKFLOWS = (
    Workflow(
        JobName.MACHINE_ADOPT,
        load=common.load,
        steps=(Step(StepName.ADOPT, adopt, undo=give_back),),
        on_done=drift.record_adopted,
        on_failed=lambda machine, _message: drift.record_adoption_failed(machine),
        on_cancelled=drift.record_adoption_failed,
    ),
    Workflow(
        JobName.MACHINE_REPAIR,
        load=common.load,
        steps=(Step(StepName.SEED, create.write_seed), Step(StepName.DEFINE, define_again)),
        on_done=lambda machine: services.record_task_ended(machine, Task.REPAIRING),
        on_failed=lambda machine, message: services.record_task_ended(machine, Task.REPAIRING, message=message),
        on_cancelled=lambda machine: services.record_task_ended(machine, Task.REPAIRING),
    ),
    Workflow(
        JobName.COPY_REMOVE,
        load=difference_by_id,
        steps=(Step(StepName.UNDEFINE, undefine_copy), Step(StepName.DELETE_STORAGE, delete_copy)),
        cancellable=False,
        max_retries=20,
    ),
)
