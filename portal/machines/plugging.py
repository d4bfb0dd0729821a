"""What requests about disks and network cards have in common: one device of a machine changes at a time.

The machine's task is the lock. It goes on and off in the same transactions as the device's own, so a machine that is
busy with a device has exactly one device that is being changed, and a job finds it there.
"""

from collections.abc import Mapping

from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.jobs.selectors import active_job_of
from portal.machines import events, services
from portal.machines.models import Machine
from portal.machines.services import why_not
from portal.machines.states import CAN_CHANGE_DEVICES, Status, Task


def claim(machine: Machine, task: Task, *, actor: User) -> bool:
    """Inside the caller's transaction. False if the machine is in no state for it. ForbiddenError."""
    require(actor, machine.project_id, Permission.MACHINE_OPERATE)
    claimed = Machine.objects.filter(
        pk=machine.pk,
        status=Status.READY,
        task=Task.NONE,
        power_state__in=CAN_CHANGE_DEVICES,
        missing_since=None,
        saved_at=None,
        **services.NOT_IN_RESCUE,
    ).update(task=task, task_since=timezone.now())
    return claimed == 1


def again(machine: Machine, name: JobName, *, same: bool) -> Job:
    """For who could not claim it: the job under way, if it is the `same` that is asked for. ConflictError otherwise."""
    under_way = active_job_of(machine) if same else None
    if under_way is None or under_way.name != name or under_way.cancel_requested:
        raise ConflictError(_why_not(machine))
    return under_way


def _why_not(machine: Machine) -> str:
    machine.refresh_from_db()
    if machine.status != Status.READY or machine.task != Task.NONE:
        return why_not(machine)
    if machine.missing_since is not None:
        return _("%(name)s is missing on its host.") % {"name": machine.name}
    if machine.is_in_rescue:
        return services.why_not(machine, in_rescue=True)
    if machine.is_hibernated:
        return _(
            "%(name)s is hibernated: its saved memory knows the disks and network cards that it has. Wake it first, or "
            "have its saved memory forgotten."
        ) % {"name": machine.name}
    return _("%(name)s is %(power)s: its disks and network cards can be changed while it runs or is shut off.") % {
        "name": machine.name,
        "power": machine.get_power_state_display(),
    }


def enqueue(
    machine: Machine, name: JobName, *, actor: User, detail: Mapping[str, object], request_ip: str | None
) -> Job:
    """The audit row, the job, and word to the browsers, once everything is claimed."""
    audit.record(actor, name.value, machine, detail=dict(detail), request_ip=request_ip)
    job = jobs.enqueue(name, machine, queue=machine.host.queue, actor=actor)
    events.machine_changed(machine)
    return job
