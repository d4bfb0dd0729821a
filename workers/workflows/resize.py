"""Another size: written down for the next start, and given at once as far as the running guest takes it."""

import dataclasses

from portal.jobs.names import JobName, StepName
from portal.machines import resizing, sizes
from portal.machines.models import Machine
from portal.machines.sizes import When
from workers.hypervisor.errors import InvalidOperationError
from workers.hypervisor.types import PowerState
from workers.workflows import common
from workers.workflows.base import Context, Step, Workflow


def define_size(context: Context[Machine]) -> None:
    machine = context.target
    common.driver(context).define(common.spec_of(machine, secret=common.stored_secret(machine)))


def define_size_before(context: Context[Machine]) -> None:
    machine = context.target
    most_vcpus, most_memory_mib = sizes.room_of(machine.vcpus, machine.memory_mib)
    before = dataclasses.replace(
        common.spec_of(machine, secret=common.stored_secret(machine)),
        vcpus=machine.vcpus,
        memory_mib=machine.memory_mib,
        most_vcpus=most_vcpus,
        most_memory_mib=most_memory_mib,
    )
    common.driver(context).define(before)


def resize_live(context: Context[Machine]) -> None:
    machine, driver = context.target, common.driver(context)
    vcpus, memory_mib = machine.wanted_vcpus, machine.wanted_memory_mib
    if vcpus is None or memory_mib is None or driver.power_state(machine.pk) != PowerState.RUNNING:
        return
    try:
        if sizes.when_vcpus(machine, vcpus) == When.NOW:
            driver.set_vcpus(machine.pk, vcpus)
            resizing.record_live(machine, vcpus=vcpus)
        if sizes.when_memory(machine, memory_mib) == When.NOW:
            driver.set_memory(machine.pk, memory_mib)
            resizing.record_live(machine, memory_mib=memory_mib)
    except InvalidOperationError:
        # It went off meanwhile, or was started with less room than was thought: its next start gives it the rest.
        return


def record_what_it_has(context: Context[Machine]) -> None:
    """Processors that were plugged in stay: no guest need give them back."""
    machine = context.target
    info = common.driver(context).get(machine.pk)
    if info.power_state != PowerState.SHUT_OFF and info.vcpus == machine.wanted_vcpus:
        resizing.record_live(machine, vcpus=info.vcpus)


WORKFLOW: Workflow[Machine] = Workflow(
    JobName.MACHINE_RESIZE,
    load=common.load,
    steps=(
        Step(StepName.DEFINE_SIZE, define_size, undo=define_size_before),
        Step(StepName.RESIZE_LIVE, resize_live, undo=record_what_it_has),
    ),
    on_done=resizing.record_resized,
    on_failed=lambda machine, message: resizing.record_resize_failed(machine, message=message),
    on_cancelled=resizing.record_resize_failed,
)
