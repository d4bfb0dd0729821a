"""When a host is given the next machine to fork: at the rate that it bears, in the order in which they were asked for.

A fork costs its host a moment of its processors, and then, for a while, memory: each page that the copy writes to
becomes its own. So only so many at once are between their beginning and their own identity, fewer on a host that is
busy otherwise, and none is begun for whose writes the memory is not there. What is measured of the host is its own word
at that moment; what is still to be written by those that are young is added to it.
"""

from __future__ import annotations

import datetime as dt

from django.utils import timezone
from django.utils.translation import gettext as _

from portal.hosts.models import Host
from portal.jobs.models import Job, JobStep
from portal.jobs.names import ACTIVE, JobName, StepName, StepStatus
from portal.machines import forking
from portal.machines.models import Machine, MadeBy
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.types import HostUsage
from workers.workflows.base import Again, Context, WorkFailedError

FORKS_PER_CPU = 2
LEAST_AT_ONCE = 2
# A host with a longer queue for its processors than this gets one fork at a time.
MOST_LOAD_PER_CPU = 4.0
# What an idle desktop writes to in its first minute, QEMU's own included: measured 86 to 110 MB.
FORK_WRITES_MIB = 128
YOUNG = dt.timedelta(seconds=60)
# Of a host's memory, forks fill no more than this.
MOST_MEMORY = 0.95
ASKED_AGAIN_S = 0.3
# Memory that is not there for so long will not be.
PATIENCE_S = 300.0


def wait_for_turn(context: Context[Machine], driver: HypervisorDriver) -> None:
    """Return when the machine may be forked now; else the job waits, and its step says for what."""
    host = context.target.host
    under_way = forking.being_forked(host).count()
    reason = _no_turn(context.job, host, under_way)
    if not reason:
        usage = driver.host_usage()
        reason = _too_busy(host, usage, under_way)
        if not reason and (reason := _no_memory(host, usage)) and context.seconds_in_step() > PATIENCE_S:
            raise WorkFailedError(
                _("The host has no memory left for another machine just now. Try again later."), code="no-memory"
            )
    if reason:
        context.progress(0, reason)
        raise Again(ASKED_AGAIN_S)


def most_at_once(host: Host) -> int:
    return max(LEAST_AT_ONCE, host.cpus * FORKS_PER_CPU)


def _no_turn(job: Job, host: Host, under_way: int) -> str:
    """Who asked first is first, as far as there are places."""
    free = most_at_once(host) - under_way
    if free <= 0 or len(_waiting_longer(job)) >= free:
        return _("Waiting for its turn: others are being forked on this host.")
    return ""


def _waiting_longer(job: Job) -> list[Machine]:
    """Machines that were asked for earlier, wait for the same host, and have no place yet."""
    at_it = JobStep.objects.filter(
        name=StepName.FORK,
        status=StepStatus.RUNNING,
        job__name=JobName.MACHINE_CREATE,
        job__queue=job.queue,
        job__status__in=ACTIVE,
        job__created_at__lt=job.created_at,
    )
    targets = list(at_it.values_list("job__target_id", flat=True))
    return list(Machine.objects.filter(pk__in=targets, parent=None, made_by=MadeBy.NOTHING)) if targets else []


def _too_busy(host: Host, usage: HostUsage, under_way: int) -> str:
    if under_way and usage.load > MOST_LOAD_PER_CPU * max(host.cpus, 1):
        return _("Waiting for the host: its processors are busy.")
    return ""


def _no_memory(host: Host, usage: HostUsage) -> str:
    now = timezone.now()
    ages = (now - at for at in forking.young_forks(host, since=now - YOUNG))
    to_come = sum(FORK_WRITES_MIB * (1 - min(max(age / YOUNG, 0), 1)) for age in ages)
    if usage.memory_used_mib + to_come + FORK_WRITES_MIB > host.memory_mib * MOST_MEMORY:
        return _("Waiting for the host: its memory is in use.")
    return ""
