"""Start, shut down, restart, reset, force off, pause, go on."""

from __future__ import annotations

from django.conf import settings
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.jobs.names import JobName, StepName
from portal.lib.secrets import new_password
from portal.machines import hibernation, services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Task
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import InvalidOperationError
from workers.hypervisor.types import PowerState as HostPowerState
from workers.workflows import common
from workers.workflows.base import Again, Context, Step, WorkFailedError, Workflow

OFF_POLL_S = 1.0


def start_with_new_secret(context: Context[Machine]) -> None:
    """A screen secret lives from one start to the next stop. A domain that runs already, or wakes, keeps its own."""
    machine = context.target
    driver = common.driver(context)
    info = driver.get(machine.pk)
    if info.power_state == HostPowerState.SHUT_OFF and not info.saved and not machine.keeps_definition:
        if services.settle_size(machine.pk):
            machine.refresh_from_db()
        services.record_secret(machine, new_password(common.SECRET_LENGTH))
        common.define(machine, driver)
    common.start(context)
    hibernation.record_saved_gone(machine.pk)


def ask_shut_down(context: Context[Machine]) -> None:
    driver = common.driver(context)
    if not common.is_off(context.target, driver):
        driver.shut_down(context.target.pk)


def wait_off(context: Context[Machine]) -> None:
    """Until it is off. A guest that was not up yet loses the first press, so it is pressed again now and then."""
    machine = context.target
    driver = common.driver(context)
    if common.is_off(machine, driver):
        services.record_power_state(machine.pk, PowerState.SHUT_OFF, at=timezone.now())
        return
    waited_s = _seconds_in_step(context)
    if waited_s > settings.GUEST_SHUTDOWN_TIMEOUT_S:
        raise WorkFailedError(
            _("The guest did not shut down when asked. It runs on; “Force off” cuts its power."), code="guest-ignores"
        )
    if context.job.attempts % PRESS_AGAIN_EVERY == 0:
        driver.shut_down(machine.pk)
    raise Again(OFF_POLL_S)


PRESS_AGAIN_EVERY = 12
"""looks, of about a second each"""


def restart(context: Context[Machine]) -> None:
    """Asked twice, a guest may stay off: libvirt then forgets that it was to come up again. So whoever is not sure to
    be the first to ask watches it for a while, and starts it.
    """
    driver = common.driver(context)
    watches = context.step is not None and context.step.progress > 0
    if not watches:
        if not _may_be_restarting(context, driver):
            return
        context.progress(WATCHING, _("It may have been asked before. Watching that it comes up again."))
    if common.is_off(context.target, driver):
        start_with_new_secret(context)
    elif _seconds_in_step(context) < WATCHED_S:
        raise Again(OFF_POLL_S)


def _may_be_restarting(context: Context[Machine], driver: HypervisorDriver) -> bool:
    """Ask it to restart. True if it was asked before: by a worker that died, or by somebody past the portal."""
    asked_before = context.job.crashes > 0
    try:
        driver.reboot(context.target.pk)
    except InvalidOperationError:
        # A guest that is running and cannot be asked is on its way down.
        if not asked_before and driver.power_state(context.target.pk) != HostPowerState.RUNNING:
            raise
        return True
    return asked_before


WATCHING = 50
"""percent"""
WATCHED_S = 120.0
"""since it was asked first: a guest has to end its services before it is off"""


def reset(context: Context[Machine]) -> None:
    common.driver(context).reset(context.target.pk)


def cut_power(context: Context[Machine]) -> None:
    """What was being saved just now goes with it."""
    driver = common.driver(context)
    driver.force_off(context.target.pk)
    driver.discard_saved(context.target.pk)
    services.record_power_state(context.target.pk, PowerState.SHUT_OFF, at=timezone.now())
    hibernation.record_saved_gone(context.target.pk)


def suspend(context: Context[Machine]) -> None:
    common.driver(context).suspend(context.target.pk)
    services.record_power_state(context.target.pk, PowerState.PAUSED, at=timezone.now())


def let_go_on(context: Context[Machine]) -> None:
    common.driver(context).resume(context.target.pk)
    services.record_power_state(context.target.pk, PowerState.RUNNING, at=timezone.now())


def _seconds_in_step(context: Context[Machine]) -> float:
    started = context.step.started_at if context.step else None
    return (timezone.now() - started).total_seconds() if started else 0.0


def _workflow(name: JobName, task: Task, *steps: Step[Machine]) -> Workflow[Machine]:
    return Workflow(
        name,
        load=common.load,
        steps=steps,
        on_done=lambda machine: services.record_task_ended(machine, task),
        on_failed=lambda machine, message: services.record_task_ended(machine, task, message=message),
        on_cancelled=lambda machine: services.record_task_ended(machine, task),
    )


WORKFLOWS: tuple[Workflow[Machine], ...] = (
    _workflow(JobName.MACHINE_START, Task.STARTING, Step(StepName.START, start_with_new_secret)),
    _workflow(
        JobName.MACHINE_STOP,
        Task.STOPPING,
        Step(StepName.ASK_SHUT_DOWN, ask_shut_down),
        Step(StepName.WAIT_OFF, wait_off),
    ),
    _workflow(JobName.MACHINE_REBOOT, Task.REBOOTING, Step(StepName.RESTART, restart)),
    _workflow(JobName.MACHINE_RESET, Task.RESETTING, Step(StepName.RESET, reset)),
    _workflow(JobName.MACHINE_FORCE_OFF, Task.FORCING_OFF, Step(StepName.CUT_POWER, cut_power)),
    _workflow(JobName.MACHINE_PAUSE, Task.PAUSING, Step(StepName.SUSPEND, suspend, undo=let_go_on)),
    _workflow(JobName.MACHINE_RESUME, Task.RESUMING, Step(StepName.RESUME, let_go_on)),
)
