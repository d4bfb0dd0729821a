"""What workers on many hosts do with the machines of pools, in bulk: their time is not what is measured.

A machine that is asked for is there half a second later, one that is to go is gone; jobs, quota and promised capacity
are as real workers would leave them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F, Sum
from django.utils import timezone

from portal.accounts.models import Project
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE, JobName, JobStatus
from portal.lib import live
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task

EVERY_S = 0.5
AT_ONCE = 100


class Fleet(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()
        self.built = self.removed = 0
        self.cpu_s = 0.0

    def run(self) -> None:
        while not self.stopping.wait(EVERY_S):
            began = time.thread_time()
            self.built += _build()
            self.removed += _remove()
            self.cpu_s += time.thread_time() - began
        connection.close()


def _due(name: JobName) -> dict[UUID, UUID]:
    jobs = Job.objects.filter(name=name, status__in=ACTIVE).order_by("created_at")
    return dict(jobs.values_list("target_id", "pk")[:AT_ONCE])


@transaction.atomic
def _build() -> int:
    jobs, now = _due(JobName.MACHINE_CREATE), timezone.now()
    if jobs:
        Machine.objects.filter(pk__in=jobs, task=Task.BUILDING).update(
            status=Status.READY,
            task=Task.NONE,
            task_since=None,
            power_state=PowerState.RUNNING,
            power_state_at=now,
            ready_at=now,
            console_socket="/nowhere/vnc.sock",
        )
        Job.objects.filter(pk__in=jobs.values()).update(status=JobStatus.DONE, finished_at=now)
        live.publish_on_commit([live.OPERATORS], ["machines"])
    return len(jobs)


@transaction.atomic
def _remove() -> int:
    jobs, now = _due(JobName.MACHINE_DELETE), timezone.now()
    if jobs:
        going = Machine.objects.filter(pk__in=jobs, holds_quota=True)
        for host, number in Counter(going.values_list("host", flat=True)).items():
            sums = going.filter(host=host).aggregate(vcpus=Sum("vcpus"), memory=Sum("memory_mib"), disk=Sum("disk_gib"))
            Host.objects.filter(pk=host).update(
                reserved_vcpus=F("reserved_vcpus") - sums["vcpus"],
                reserved_memory_mib=F("reserved_memory_mib") - sums["memory"],
                reserved_disk_gib=F("reserved_disk_gib") - sums["disk"],
            )
            Project.objects.update(
                used_machines=F("used_machines") - number,
                used_vcpus=F("used_vcpus") - sums["vcpus"],
                used_memory_mib=F("used_memory_mib") - sums["memory"],
                used_disk_gib=F("used_disk_gib") - sums["disk"],
            )
        Machine.objects.filter(pk__in=jobs).update(
            status=Status.DELETED,
            task=Task.NONE,
            holds_quota=False,
            power_state=PowerState.SHUT_OFF,
            console_socket="",
            deleted_at=now,
        )
        Job.objects.filter(pk__in=jobs.values()).update(status=JobStatus.DONE, finished_at=now)
    return len(jobs)
