"""The bin: what is deleted waits there, switched off, for as many days as its project says.

It keeps its name, its disk, its volumes and its definition, so that taking it back always gives what there was. Its
disks go on counting against the project's quota; its processors, memory and place among the machines are free for
others, and are asked for again when it is taken back.
"""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, NotFoundError
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE, JobName
from portal.machines import events, services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task

PURGED_AT_ONCE = 100


def request_removal(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    """What “delete” means in the machine's project: into the bin, or for good where there is nothing to keep."""
    if services.goes_to_bin(machine):
        return _request_bin(machine, actor=actor, request_ip=request_ip)
    return services.request_delete(machine, actor=actor, request_ip=request_ip)


@transaction.atomic
def _request_bin(machine: Machine, *, actor: User, request_ip: str | None) -> Job:
    """Whatever it is doing: running work is asked to stop first."""
    require(actor, machine.project_id, Permission.MACHINE_DELETE)
    claimed = Machine.objects.filter(pk=machine.pk, status=Status.READY, protected=False)
    claimed = claimed.exclude(task__in=[Task.BINNING, Task.DELETING])
    if claimed.update(task=Task.BINNING, task_since=timezone.now()) != 1:
        under_way = services.same_job_under_way(machine, JobName.MACHINE_BIN)
        if under_way is not None:
            return under_way
        services.refuse_protected(machine)
        raise ConflictError(services.why_not(machine))
    for job in Job.objects.filter(target_type="machine", target_id=machine.pk, status__in=ACTIVE):
        jobs.request_cancel(job)
    audit.record(actor, JobName.MACHINE_BIN.value, machine, request_ip=request_ip)
    job = jobs.enqueue(JobName.MACHINE_BIN, machine, queue=machine.host.queue, actor=actor)
    events.machine_changed(machine)
    return job


def request_restore(machine: Machine, *, actor: User, request_ip: str | None = None) -> Machine:
    """Take it out of the bin again, switched off. QuotaExceededError or NoCapacityError if there is no room for it now.

    Nothing happens on its host, which has kept all of it.
    """
    require(actor, machine.project_id, Permission.MACHINE_DELETE)
    with transaction.atomic():
        if not services.change_held(machine.pk, Q(status=Status.BINNED, task=Task.NONE), _taken_back):
            raise ConflictError(_("%(name)s is not in the bin, or is being deleted.") % {"name": machine.name})
        audit.record(actor, "machine.restored", machine, request_ip=request_ip)
        events.record_changed(machine, ["restored"], actor=actor)
    machine.refresh_from_db()
    return machine


def _taken_back(_machine: Machine) -> dict[str, object]:
    return {"status": Status.READY, "binned_at": None, "purge_at": None}


def purge_due() -> int:
    """Delete for good what has waited for its days: the clock's part. Returns how many."""
    due = Machine.objects.filter(status=Status.BINNED, task=Task.NONE, purge_at__lte=timezone.now(), protected=False)
    machines = list(due.select_related("host", "project").order_by("purge_at")[:PURGED_AT_ONCE])
    for machine in machines:
        services.delete_for_good(machine, actor=None)
    return len(machines)


def record_binned(machine: Machine) -> None:
    """It is off. Given back is all but its disk, exactly once."""
    services.change_held(machine.pk, Q(status=Status.READY, task=Task.BINNING), _put_away)


def _put_away(machine: Machine) -> dict[str, object]:
    now = timezone.now()
    return {
        "status": Status.BINNED,
        "task": Task.NONE,
        "task_since": None,
        "power_state": PowerState.SHUT_OFF,
        "power_state_at": now,
        "console_socket": "",
        "addresses": [],
        "saved_at": None,
        "saved_gib": 0,
        "error_message": "",
        "missing_since": None,
        "binned_at": now,
        "purge_at": now + dt.timedelta(days=machine.project.bin_days),
        **services.NO_SIZE_WANTED,
    }


# --- reads --------------------------------------------------------------------------------------------------------


def binned_for(user: User) -> QuerySet[Machine]:
    """What lies in the bins of the person's projects, what goes next first."""
    rows = Machine.objects.with_permission(user, Permission.MACHINE_VIEW).filter(status=Status.BINNED)
    return rows.select_related("project", "owner", "flavour", "image_version__image").order_by("purge_at", "name")


def binned_machine_for(user: User, pk: UUID | str, permission: Permission) -> Machine:
    """A machine in the bin, if `user` holds `permission`. Errors as `machine_for`."""
    machine = binned_for(user).select_related("host").filter(pk=pk).first()
    if machine is None:
        raise NotFoundError
    require(user, machine.project_id, permission)
    return machine
