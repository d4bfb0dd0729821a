"""A new password or another key for the user in the guest, by its agent."""

from portal.jobs.names import JobName, StepName
from portal.lib.secrets import unseal
from portal.machines import access
from portal.machines.models import Machine
from workers.workflows import common
from workers.workflows.base import Context, Step, Workflow


def set_password(context: Context[Machine]) -> None:
    """Killed in between, it is set once more: the same one."""
    machine = context.target
    password = unseal(machine.next_password)
    if password:
        common.driver(context).set_password(machine.pk, machine.login_user, password)
        access.record_password_set(machine, sealed=machine.next_password)


def add_key(context: Context[Machine]) -> None:
    machine = context.target
    if machine.next_ssh_key:
        common.driver(context).add_ssh_key(machine.pk, machine.login_user, machine.next_ssh_key)


def _workflow(name: JobName, step: Step[Machine]) -> Workflow[Machine]:
    return Workflow(
        name,
        load=common.load,
        steps=(step,),
        on_done=access.record_access_ended,
        on_failed=lambda machine, message: access.record_access_ended(machine, message=message),
        on_cancelled=access.record_access_ended,
    )


WORKFLOWS: tuple[Workflow[Machine], ...] = (
    _workflow(JobName.MACHINE_PASSWORD, Step(StepName.SET_PASSWORD, set_password)),
    _workflow(JobName.MACHINE_SSH_KEY, Step(StepName.ADD_KEY, add_key)),
)
