"""A class: Dana and Emil have accounts, Mia and Noah have none. None of them is in Alice's project."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from portal.accounts.models import Project, User
from portal.deployments.lists import entries_of
from portal.deployments.models import Deployment, Seat
from portal.deployments.services import Plan, make_deployment
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.jobs.models import Job
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status, Task

NAMES = ["dana", "emil@example.org", "Mia", "Noah"]


@pytest.fixture
def dana(make_user: Callable[..., User]) -> User:
    return make_user("dana")


@pytest.fixture
def emil(make_user: Callable[..., User]) -> User:
    return make_user("emil")


@pytest.fixture
def plan(image_version: ImageVersion, flavour: Flavour) -> Plan:
    return Plan("Chemistry", "lab", image_version, flavour)


@pytest.fixture
def room(project: Project, host: Host) -> Project:
    """Room for a class."""
    limits = {"max_machines": 100, "max_vcpus": 200, "max_memory_mib": 204_800, "max_disk_gib": 2000}
    Project.objects.filter(pk=project.pk).update(**limits)
    Host.objects.filter(pk=host.pk).update(cpus=200, memory_mib=400_000, storage_total_bytes=9000 * 1024**3)
    Host.objects.filter(pk=host.pk).update(storage_free_bytes=9000 * 1024**3)
    project.refresh_from_db()
    return project


@pytest.fixture
def deployment(room: Project, plan: Plan, alice: User, dana: User, emil: User) -> Deployment:
    made = make_deployment(room, actor=alice, plan=plan, people=entries_of(NAMES), whole=True)
    run_all(made)
    return made


def run_all(deployment: Deployment) -> None:
    """As when the workers have built them all."""
    for seat in deployment.seats.exclude(machine=None):
        Machine.objects.filter(seat=seat).update(
            status=Status.READY,
            task=Task.NONE,
            power_state=PowerState.RUNNING,
            console_socket=f"/nowhere/{seat.number}.sock",
        )

    Job.objects.update(status="done")


def seat_of(deployment: Deployment, label: str) -> Seat:
    return deployment.seats.select_related("deployment__project", "machine", "guest", "person").get(label=label)
