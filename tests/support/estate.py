"""A large site in the database: hosts, projects, people, machines and all that comes with them; and its fake hosts.

The rows are made in bulk and agree with each other: quota and promised capacity are the sums of the machines, a busy
machine has its active job, a failed one its failed job. The same seed makes the same site.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar
from uuid import UUID

from django.contrib.auth.hashers import make_password
from django.db import models
from django.utils import timezone

from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Role
from portal.accounts.quota import Amount
from portal.audit.models import Event
from portal.console.models import ConsoleSession
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.jobs.models import Job, JobStep
from portal.jobs.names import STEPS, JobName, JobStatus, StepStatus
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status, Task
from workers.hypervisor import types
from workers.hypervisor.fake import DISK_BYTES, FakeDomain, FakeHost, fake_host

GIB = 1024**3
HOST_CPUS, HOST_MEMORY_MIB, HOST_STORAGE_BYTES = 64, 256 * 1024, 8 * 1024 * GIB
BATCH = 5000
M = TypeVar("M", bound=models.Model)
PEOPLE_PER_PROJECT = 5
# Of each thousand machines so many are like this.
FAILED, BUILDING, BUSY, UNKNOWN, OFF = 20, 5, 10, 15, 250


@dataclass
class Estate:
    """What was made, as far as tests ask for it by hand. `member` is in the first project only."""

    operator: User
    member: User
    hosts: list[Host] = field(default_factory=list)
    projects: list[Project] = field(default_factory=list)
    people: dict[UUID, list[User]] = field(default_factory=lambda: defaultdict(list))
    flavours: list[Flavour] = field(default_factory=list)
    versions: list[ImageVersion] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)


def build_estate(*, hosts: int, machines: int, projects: int, seed: int = 1) -> Estate:
    """Make all rows, in a database that has none yet. `machines` live ones, and a tenth more that were deleted."""
    dice = random.Random(seed)  # noqa: S311 - the same site each time is the point
    people = _people(projects)
    operator = User.objects.create(
        username="operator", password=make_password(None), is_staff=True, is_superuser=True, email="o@example.org"
    )
    estate = Estate(operator, people[0])
    estate.hosts = _hosts(hosts)
    estate.projects = _projects(projects)
    memberships = _memberships(estate, people)
    _catalogue(estate)
    estate.machines = _machines(estate, machines, dice)
    # Only now is known how much of the quota and of the hosts is promised.
    _save(Project, estate.projects)
    _save(Membership, memberships)
    _save(Host, estate.hosts)
    _save(Machine, estate.machines)
    _jobs(estate, dice)
    _save(Event, _events(estate, dice))
    _save(ConsoleSession, _sessions(estate, dice))
    return estate


def furnish(machines: Iterable[Machine]) -> None:
    """Put what these live machines own on their fake hosts: domain, disk and image."""
    for machine in machines:
        if machine.status == Status.READY:
            _furnish(fake_host(machine.host.uri.removeprefix("fake://")), machine)


def _furnish(host: FakeHost, machine: Machine) -> None:
    host.cpus, host.memory_mib, host.storage_bytes = HOST_CPUS, HOST_MEMORY_MIB, HOST_STORAGE_BYTES
    spec = types.MachineSpec(
        machine.pk,
        machine.domain_name,
        machine.name,
        machine.vcpus,
        machine.memory_mib,
        types.Firmware.BIOS,
        machine.genid,
        "secret12",
    )
    power = types.PowerState.RUNNING if machine.power_state == PowerState.RUNNING else types.PowerState.SHUT_OFF
    runs = power is types.PowerState.RUNNING
    host.domains[machine.pk] = FakeDomain(spec, power_state=power, live=spec if runs else None, starts=int(runs))
    image = machine.image_version_id
    assert image is not None
    if image not in host.images:
        host.images[image] = types.VolumeInfo(f"images/{image}.qcow2", None, 4 * GIB, GIB)
        host.take_room(GIB)
    size = machine.disk_gib * GIB
    host.disks[machine.pk] = types.VolumeInfo(f"machines/{machine.pk}/disk.qcow2", machine.pk, size, DISK_BYTES, image)
    host.bases[machine.pk] = image
    host.take_room(DISK_BYTES)


# --- hosts, people, projects --------------------------------------------------------------------------------------


def _hosts(count: int) -> list[Host]:
    return [
        Host(
            name=f"rack-{number:04}",
            uri=f"fake://rack-{number:04}",
            pool_dir="/var/lib/casement",
            cpus=HOST_CPUS,
            memory_mib=HOST_MEMORY_MIB,
            storage_total_bytes=HOST_STORAGE_BYTES,
            storage_free_bytes=HOST_STORAGE_BYTES // 2,
            load=number % HOST_CPUS / 2,
            memory_used_mib=HOST_MEMORY_MIB // 4,
            accelerator="kvm",
            network_mode="nat",
            last_seen_at=timezone.now(),
            # A few do not answer, and a few take nothing new.
            last_error="Connection refused" if number % 200 == 7 else "",
            enabled=number % 100 != 13,
        )
        for number in range(count)
    ]


def _people(projects: int) -> list[User]:
    count = projects * PEOPLE_PER_PROJECT
    unusable = make_password(None)
    people = [
        User(username=f"person-{number:05}", email=f"person-{number}@example.org", password=unusable)
        for number in range(count)
    ]
    return _save(User, people)


def _projects(count: int) -> list[Project]:
    return [
        Project(
            name=f"Project {number:04}", max_machines=2000, max_vcpus=8000, max_memory_mib=2**24, max_disk_gib=200_000
        )
        for number in range(count)
    ]


def _memberships(estate: Estate, people: Sequence[User]) -> list[Membership]:
    """Each project has people of its own; each but the first has one of its neighbour's as a guest who may look."""
    rows = []
    roles = (Role.MEMBER, Role.OWNER, Role.MEMBER, Role.MEMBER, Role.VIEWER)
    for place, project in enumerate(estate.projects):
        own = people[place * PEOPLE_PER_PROJECT : (place + 1) * PEOPLE_PER_PROJECT]
        estate.people[project.pk] = list(own)
        rows += [Membership(user=user, project=project, role=role) for user, role in zip(own, roles, strict=True)]
        if place:
            guest = people[place * PEOPLE_PER_PROJECT - 1]
            rows.append(Membership(user=guest, project=project, role=Role.VIEWER))
    return rows


def _catalogue(estate: Estate) -> None:
    sizes = ((1, 1024, 10), (2, 4096, 20), (4, 8192, 40))
    estate.flavours = [
        Flavour.objects.create(
            name=f"size-{vcpus}", title=f"{vcpus} vCPU", vcpus=vcpus, memory_mib=memory, disk_gib=disk, position=vcpus
        )
        for vcpus, memory, disk in sizes
    ]
    for number, kind in enumerate([Kind.SERVER, Kind.DESKTOP, Kind.SERVER, Kind.DESKTOP]):
        image = Image.objects.create(
            slug=f"image-{number}", title=f"Image {number}", kind=kind, source=Source.RECIPE, min_memory_mib=512
        )
        estate.versions.append(
            ImageVersion.objects.create(
                image=image,
                number=1,
                status=VersionStatus.READY,
                size_bytes=GIB,
                virtual_size_bytes=4 * GIB,
                sha256="0" * 64,
            )
        )


# --- machines -----------------------------------------------------------------------------------------------------


def _machines(estate: Estate, count: int, dice: random.Random) -> list[Machine]:
    """Spread evenly over hosts and unevenly over projects: some have a few, the first ones many."""
    now = timezone.now()
    rows = []
    for number in range(count + count // 10):
        # Half of the machines belong to a tenth of the projects.
        most = len(estate.projects) if number % 2 else -(-len(estate.projects) // 10)
        project = estate.projects[number // 2 % most]
        created = now - dt.timedelta(minutes=10 * (count + count // 10 - number), seconds=dice.randrange(300))
        machine = _machine(estate, project, number, created, dice)
        if number % 11 == 5:
            _was_deleted(machine)
        if machine.holds_quota:
            _count(machine.project, machine.host, machine.amount)
        rows.append(machine)
    return rows


def _machine(estate: Estate, project: Project, number: int, created: dt.datetime, dice: random.Random) -> Machine:
    version = estate.versions[number % len(estate.versions)]
    flavour = estate.flavours[number % len(estate.flavours)]
    machine = Machine(
        id=UUID(int=dice.getrandbits(128), version=4),
        project=project,
        owner=dice.choice(estate.people[project.pk][:4]),
        name=f"{dice.choice(('web', 'desk', 'build', 'db', 'lab'))}-{number:05}",
        kind=version.image.kind,
        image_version=version,
        flavour=flavour,
        vcpus=flavour.vcpus,
        memory_mib=flavour.memory_mib,
        disk_gib=flavour.disk_gib,
        host=estate.hosts[number % len(estate.hosts)],
        login_user="me",
        mac=f"52:54:{number >> 24 & 255:02x}:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}",
        ready_at=created,
    )
    machine.created_at = created  # Kept by `_save`, which does not let auto_now_add replace it.
    _give_state(machine, dice.randrange(1000), created)
    return machine


def _give_state(machine: Machine, lot: int, created: dt.datetime) -> None:
    machine.status, machine.power_state, machine.power_state_at = Status.READY, PowerState.RUNNING, created
    if lot < FAILED:
        machine.status, machine.power_state = Status.ERROR, PowerState.SHUT_OFF
        machine.error_message, machine.holds_quota, machine.ready_at = "The host has no room.", False, None
    elif lot < FAILED + BUILDING:
        machine.status, machine.power_state, machine.task = Status.BUILDING, PowerState.SHUT_OFF, Task.BUILDING
        machine.task_since, machine.ready_at = timezone.now(), None
    elif lot < FAILED + BUILDING + BUSY:
        machine.task, machine.task_since = Task.STOPPING, timezone.now()
    elif lot < FAILED + BUILDING + BUSY + UNKNOWN:
        machine.power_state = PowerState.UNKNOWN
    elif lot < FAILED + BUILDING + BUSY + UNKNOWN + OFF:
        machine.power_state = PowerState.SHUT_OFF
    if machine.power_state == PowerState.RUNNING:
        machine.console_socket = f"/run/casement/{machine.pk}/vnc.sock"
        machine.addresses = ["10.213.0.10"]


def _was_deleted(machine: Machine) -> None:
    machine.status, machine.power_state, machine.task = Status.DELETED, PowerState.SHUT_OFF, Task.NONE
    machine.task_since, machine.holds_quota, machine.console_socket = None, False, ""
    machine.addresses, machine.deleted_at, machine.error_message = [], machine.created_at, ""


def _count(project: Project, host: Host, amount: Amount) -> None:
    project.used_machines += amount.machines
    project.used_vcpus += amount.vcpus
    project.used_memory_mib += amount.memory_mib
    project.used_disk_gib += amount.disk_gib
    host.reserved_vcpus += amount.vcpus
    host.reserved_memory_mib += amount.memory_mib
    host.reserved_disk_gib += amount.disk_gib


# --- what happened ------------------------------------------------------------------------------------------------


def _jobs(estate: Estate, dice: random.Random) -> None:
    """Every machine was asked for once, and a third was started or stopped later. Steps go with them."""
    jobs = [job for machine in estate.machines for job in _jobs_of(machine, dice)]
    _save(Job, jobs)
    _save(JobStep, (step for job in jobs for step in _steps_of(job)))


def _jobs_of(machine: Machine, dice: random.Random) -> Iterator[Job]:
    created = machine.created_at
    if machine.status == Status.BUILDING:
        yield _job(machine, JobName.MACHINE_CREATE, JobStatus.RUNNING, timezone.now() - dt.timedelta(seconds=30))
        return
    if machine.status == Status.ERROR:
        ended = timezone.now() - dt.timedelta(minutes=dice.randrange(60 * 24 * 10))
        yield _job(machine, JobName.MACHINE_CREATE, JobStatus.FAILED, ended)
        return
    yield _job(machine, JobName.MACHINE_CREATE, JobStatus.DONE, created)
    if machine.task == Task.STOPPING:
        yield _job(machine, JobName.MACHINE_STOP, JobStatus.WAITING, timezone.now() - dt.timedelta(seconds=20))
    elif dice.random() < 0.3:
        yield _job(machine, JobName.MACHINE_START, JobStatus.DONE, created + dt.timedelta(hours=1))
    if machine.status == Status.DELETED:
        yield _job(machine, JobName.MACHINE_DELETE, JobStatus.DONE, created + dt.timedelta(hours=2))


def _job(machine: Machine, name: JobName, status: JobStatus, at: dt.datetime) -> Job:
    job = Job(
        name=name,
        target_type="machine",
        target_id=machine.pk,
        target_name=machine.name,
        project=machine.project,
        actor=machine.owner,
        queue=machine.host.queue,
        status=status,
        attempts=1,
        started_at=at,
        finished_at=at + dt.timedelta(seconds=40) if status in {JobStatus.DONE, JobStatus.FAILED} else None,
        lease_until=timezone.now() + dt.timedelta(minutes=5) if status == JobStatus.RUNNING else None,
        due_at=timezone.now() + dt.timedelta(seconds=30) if status == JobStatus.WAITING else None,
        error_code="storage-full" if status == JobStatus.FAILED else "",
        error_message="The host has no room." if status == JobStatus.FAILED else "",
    )
    job.created_at = at
    return job


def _steps_of(job: Job) -> Iterator[JobStep]:
    done = job.status == JobStatus.DONE
    for position, name in enumerate(STEPS[JobName(job.name)]):
        past = done or position == 0
        yield JobStep(
            job=job,
            position=position,
            name=name,
            status=StepStatus.DONE if past else StepStatus.PENDING,
            progress=100 if past else 0,
            started_at=job.started_at if past else None,
            finished_at=job.finished_at if past else None,
        )


def _events(estate: Estate, dice: random.Random) -> Iterator[Event]:
    for machine in estate.machines:
        yield _event(machine, "machine.requested", machine.created_at)
        yield _event(machine, dice.choice(("machine.start", "machine.stop", "console.open")), machine.created_at)
        if machine.status == Status.DELETED:
            yield _event(machine, "machine.delete", machine.created_at)


def _event(machine: Machine, action: str, at: dt.datetime) -> Event:
    event = Event(
        actor=machine.owner,
        actor_name=machine.owner.username if machine.owner else "",
        action=action,
        target_type="machine",
        target_id=str(machine.pk),
        target_name=machine.name,
        project=machine.project,
        request_ip="192.0.2.7",
    )
    event.at = at
    return event


def _sessions(estate: Estate, dice: random.Random) -> Iterator[ConsoleSession]:
    """Every third machine's screen was looked at; a few are looked at now."""
    for machine in estate.machines[::3]:
        is_open = machine.power_state == PowerState.RUNNING and dice.random() < 0.02
        session = ConsoleSession(
            user=machine.owner,
            user_name=machine.owner.username if machine.owner else "",
            machine=machine,
            machine_name=machine.name,
            mode=ConsoleSession.Mode.CONTROL,
            request_ip="192.0.2.7",
            ended_at=None if is_open else machine.created_at + dt.timedelta(hours=1),
        )
        session.started_at = machine.created_at
        yield session


# --- saving -------------------------------------------------------------------------------------------------------


def _save(model: type[M], rows: Iterable[M]) -> list[M]:
    """Insert rows in batches. Times that are given stay, where the model would put its own."""
    stamps = [column for column in model._meta.fields if getattr(column, "auto_now_add", False)]
    for column in stamps:
        column.auto_now_add = False  # type: ignore[attr-defined]  # only fields that have it are in the list
    try:
        waiting, saved = iter(rows), []
        while batch := list(islice(waiting, BATCH)):
            for row in batch:
                for column in stamps:
                    if getattr(row, column.attname) is None:
                        setattr(row, column.attname, timezone.now())
            saved += model._default_manager.bulk_create(batch)
        return saved
    finally:
        for column in stamps:
            column.auto_now_add = True  # type: ignore[attr-defined]  # as above
