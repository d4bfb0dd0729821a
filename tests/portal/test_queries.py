"""Every page asks the database the same number of times, however much there is."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import time_machine
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from portal.accounts.guests import make_guest
from portal.accounts.models import ApiToken, User
from portal.accounts.tokens import make_token, note_use
from portal.console.models import ConsoleLink, ConsoleSession, ScreenBan, ScreenControl
from portal.deployments.models import Deployment, Seat
from portal.events.kinds import Kind
from portal.events.models import Webhook
from portal.events.services import add_webhook, record
from portal.isos.models import Iso
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines.models import Attachment, Batch, BatchItem, Disc, Machine, NetworkCard
from portal.machines.states import PowerState, Status, Task
from portal.pools.models import Desktop, Entitlement, Place, Pool, Session, SpareHours
from portal.snapshots.models import Snapshot, SnapshotSchedule, SnapshotVolume
from portal.volumes.models import Volume
from tests.support.estate import Estate, build_estate
from tests.support.pool_rows import add_desktop, pool_of

# The first of them builds both sites and looks at every page, which takes most of a minute where nothing else runs.
pytestmark = [pytest.mark.django_db, pytest.mark.timeout(900)]

# What of the addresses depends on the rows is filled in; `operator` sees all, `member` one project.
PAGES = [
    ("operator", "/machines/"),
    ("operator", "/machines/?page=2"),
    ("operator", "/machines/?view=table"),
    ("operator", "/machines/?q=0000"),
    ("operator", "/machines/?q=person"),
    *[("operator", f"/machines/?status={status}") for status in ("running", "off", "busy", "failed", "unknown")],
    *[("operator", f"/machines/?status={status}") for status in ("building", "error", "ready")],
    *[("operator", f"/machines/?kind={kind}") for kind in ("server", "desktop")],
    ("operator", "/machines/?project=Project+0000"),
    ("operator", "/machines/{machine}/"),
    ("operator", "/machines/new/"),
    ("operator", "/hosts/overview/"),
    ("operator", "/hosts/"),
    ("operator", "/hosts/?q=rack"),
    ("operator", "/hosts/?state=trouble"),
    ("operator", "/hosts/{host}/"),
    ("operator", "/hosts/{host}/figures/"),
    ("operator", "/machines/{machine}/figures/?span=month"),
    ("operator", "/machines/{machine}/snapshots/"),
    ("operator", "/snapshots/{snapshot}/restore/"),
    ("member", "/machines/{machine}/snapshots/"),
    ("operator", "/jobs/"),
    ("operator", "/jobs/?state=active"),
    ("operator", "/jobs/?state=failed"),
    ("operator", "/jobs/?q=0000"),
    ("operator", "/audit/"),
    ("operator", "/audit/?q=person"),
    ("operator", "/audit/?area=machine"),
    ("operator", "/sessions/"),
    ("operator", "/sessions/?state=ended"),
    ("operator", "/sessions/?q=person&mode=control"),
    ("operator", "/machines/{machine}/screen/people/"),
    ("operator", "/projects/"),
    ("operator", "/projects/{project}/"),
    ("operator", "/images/"),
    ("operator", "/projects/{project}/events/"),
    ("operator", "/projects/{project}/events/?kind=machine&q=0000"),
    ("operator", "/projects/{project}/webhooks/"),
    ("operator", "/webhooks/{webhook}/"),
    ("member", "/projects/{project}/events/"),
    ("operator", "/volumes/"),
    ("operator", "/volumes/?q=data&status=in_use"),
    ("operator", "/isos/"),
    ("member", "/isos/"),
    ("operator", "/machines/new/iso/"),
    ("operator", "/pools/"),
    ("operator", "/pools/{pool}/"),
    ("operator", "/pools/{pool}/edit/"),
    ("operator", "/api/v1/pools"),
    ("operator", "/api/v1/pools/{pool}/now"),
    ("operator", "/api/v1/pools/{pool}/desktops"),
    ("operator", "/api/v1/pools/{pool}/sessions"),
    ("operator", "/api/v1/pools/{pool}/line"),
    ("operator", "/api/v1/pools/{pool}/entitlements"),
    ("member", "/desktops/"),
    ("member", "/desktops/tiles"),
    ("member", "/api/v1/desktops"),
    ("member", "/api/v1/desktop-sessions"),
    ("member", "/machines/{machine}/rescue/"),
    ("member", "/machines/"),
    ("member", "/machines/?q=0000"),
    ("member", "/machines/?status=running"),
    ("member", "/machines/{machine}/"),
    ("member", "/machines/new/"),
    ("member", "/machines/{machine}/screen/people/"),
    ("member", "/jobs/"),
    ("member", "/projects/"),
    ("member", "/projects/{project}/"),
    ("member", "/images/"),
    *[
        (who, f"/api/v1/{path}")
        for who in ("operator", "member")
        for path in (
            "machines",
            "machines?sort=name&limit=200",
            "machines?q=0000",
            "machines?status=running",
            "machines/{machine}",
            "machines/{machine}/screen/people",
            "jobs",
            "projects",
            "projects/{project}/members",
            "images",
            "bin",
            "projects/{project}/events",
            "projects/{project}/events?kind=machine&q=0000",
            "machines/{machine}/figures?span=month",
            "loads?machine={machine}",
            "machines/{machine}/sizes",
            "volumes",
            "volumes?q=data&status=in_use",
            "volumes?machine={machine}",
            "volumes?free_for={machine}",
            "volumes/{volume}",
            "machines/{machine}/disks",
            "machines/{machine}/cards",
            "machines/{machine}/snapshots",
            "machines/{machine}/snapshot-schedules",
            "snapshots/{snapshot}",
            "snapshots/{snapshot}/restore",
            "machines/{machine}/discs",
            "machines/{machine}/rescue",
            "isos",
        )
    ],
    *[("operator", f"/api/v1/{path}") for path in ("hosts", "hosts/{host}", "audit", "sessions", "overview")],
    *[
        ("operator", f"/api/v1/{path}")
        for path in (
            "machines?label=web",
            "projects/{project}/webhooks",
            "webhooks/{webhook}",
            "webhooks/{webhook}/deliveries",
            "batches/{batch}",
            "hosts/{host}/figures",
        )
    ],
    ("member", "/volumes/"),
    ("operator", "/deployments/"),
    ("operator", "/deployments/{deployment}/"),
    ("operator", "/deployments/{deployment}/?q=Mia"),
    ("operator", "/deployments/{deployment}/?state=watched"),
    ("operator", "/deployments/{deployment}/links/"),
    ("operator", "/deployments/seats/{seat}/"),
    ("operator", "/deployments/new/"),
    ("member", "/deployments/"),
    ("member", "/deployments/{deployment}/"),
    ("operator", "/api/v1/deployments"),
    ("operator", "/api/v1/deployments/{deployment}"),
    ("operator", "/api/v1/deployments/{deployment}/seats?limit=200"),
    ("operator", "/api/v1/seats/{seat}"),
    ("member", "/api/v1/seats"),
]
Costs = dict[tuple[str, str], int]


@pytest.fixture(scope="module")
def costs(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[tuple[Costs, Costs]]:
    """The number of queries of each page with 10 machines and with 500."""
    # A host that was not heard of for a minute has pages of its own, and to look at all of them may take longer.
    with django_db_blocker.unblock(), time_machine.travel(timezone.now(), tick=False):
        few, many = _costs(hosts=10, machines=10, projects=1), _costs(hosts=100, machines=500, projects=10)
    yield few, many


def _costs(*, hosts: int, machines: int, projects: int) -> Costs:
    with transaction.atomic():
        estate = build_estate(hosts=hosts, machines=machines, projects=projects)
        _one_of_each(estate)
        volume = _volumes(estate)
        _isos(estate)
        _people_at(estate, estate.machines[0])
        pool = _pools(estate, estate.machines[0])
        webhook, batch = _webhook(estate, estate.machines[0]), _batch(estate)
        ids = {
            "pool": pool.pk,
            "webhook": webhook.pk,
            "batch": batch.pk,
            "volume": volume.pk,
            "snapshot": _snapshots(estate, volume).pk,
        }
        seat = _seats(estate)
        ids |= {"deployment": seat.deployment_id, "seat": seat.pk}
        # Each client reads all settings and looks through all static files anew: as many as there are kinds of askers.
        clients = {(who, is_api): _client(estate, who, is_api) for who, is_api in _askers()}
        found = {page: _cost(clients[page[0], page[1].startswith("/api/")], estate, ids, page[1]) for page in PAGES}
        transaction.set_rollback(True)
    return found


def _volumes(estate: Estate) -> Volume:
    """As many as there are machines, up to what one machine can have; half of them attached to the first. The last of
    those is given back."""
    machine = estate.machines[0]
    for number in range(min(len(estate.machines), 24)):
        volume = Volume.objects.create(
            project=machine.project, name=f"data {number}", host=machine.host, size_gib=1, status="available"
        )
        if number % 2:
            Attachment.objects.create(machine=machine, volume=volume)
            NetworkCard.objects.create(machine=machine, mac=f"52:54:00:00:00:{number:02x}")
            Volume.objects.filter(pk=volume.pk).update(status="in_use")
            attached = volume
    return attached


def _seats(estate: Estate) -> Seat:
    """Of half of the first project's machines, at most sixty, some with an account: the first is the member's own. More
    deployments where there is more of everything."""
    machines = Machine.objects.live().filter(project=estate.projects[0]).order_by("-created_at")
    for number in range(1 + len(estate.machines) // 100):
        deployment = Deployment.objects.create(
            project=estate.projects[0],
            name=f"Course {number}",
            prefix="lab",
            image_version=estate.versions[0],
            flavour=estate.flavours[0],
        )
    for number, machine in enumerate([*machines[: min(60, len(estate.machines) // 2)]], 1):
        guest = make_guest(f"Mia {number}", until=timezone.now() + dt.timedelta(days=1)) if number % 2 else None
        Seat.objects.create(deployment=deployment, number=number, label=f"Mia {number}", machine=machine, guest=guest)
        ConsoleSession.objects.create(user=guest or estate.operator, machine=machine, mode="control")
    Seat.objects.create(deployment=deployment, number=100, label="Noah", refusal="There is no room.")
    # The first one's machine is busy, however many there are.
    first = deployment.seats.get(number=1)
    Seat.objects.filter(pk=first.pk).update(person=estate.member)
    return first


def _snapshots(estate: Estate, volume: Volume) -> Snapshot:
    """As many as there are machines, up to fifty, each with a volume, on two ways; the machine is at the first."""
    machine, parent = estate.machines[0], None
    for every in ("hour", "day"):
        schedule = SnapshotSchedule.objects.create(machine=machine, every=every, next_at=timezone.now())
    for number in range(min(len(estate.machines), 50)):
        snapshot = Snapshot.objects.create(
            machine=machine,
            name=f"snapshot {number}",
            parent=parent,
            status="ready",
            task="",
            is_current=number == 0,
            vcpus=1,
            memory_mib=1024,
            disk_gib=10,
            schedule=schedule if number % 2 else None,
            created_by=estate.operator,
        )
        SnapshotVolume.objects.create(snapshot=snapshot, volume=volume, size_gib=1)
        parent = snapshot if number % 3 else parent
    return snapshot


def _isos(estate: Estate) -> None:
    """More of them where there is more of everything, with a job each; two lie in drives."""
    machine = estate.machines[0]
    for number in range(2 + len(estate.machines) // 20):
        project = machine.project if number % 2 else None
        iso = Iso.objects.create(project=project, name=f"disc {number:03}", status="ready", size_bytes=1)
        if number < 2:
            Disc.objects.create(machine=machine, slot=number, iso=iso)
        jobs.enqueue(JobName.ISO_IMPORT, iso, queue="images", actor=estate.operator)


def _one_of_each(estate: Estate) -> None:
    """What comes with a row costs queries of its own, so that there must be one of each, few as they may be."""
    mine = Machine.objects.filter(project=estate.projects[0], status__in=[Status.READY, Status.ERROR, Status.BUILDING])
    states: list[dict[str, Any]] = [
        {"status": Status.READY, "power_state": PowerState.RUNNING, "task": Task.STOPPING},
        {"status": Status.BUILDING, "power_state": PowerState.SHUT_OFF, "task": Task.BUILDING},
        {"status": Status.ERROR, "power_state": PowerState.SHUT_OFF, "error_message": "No room."},
        {"status": Status.READY, "power_state": PowerState.UNKNOWN},
        {"status": Status.READY, "power_state": PowerState.SHUT_OFF},
    ]
    for machine, values in zip(mine.order_by("-created_at"), states, strict=False):
        Machine.objects.filter(pk=machine.pk).update(**values)
        Job.objects.filter(target_id=machine.pk).update(status="running", finished_at=None)
    # The second page has work under way, too.
    later = Machine.objects.live().order_by("-created_at")[60:61]
    Job.objects.filter(target_id__in=[machine.pk for machine in later]).update(status="running", finished_at=None)
    done = Job.objects.filter(status="done").values_list("pk", flat=True)
    Job.objects.filter(pk=done[0]).update(status="failed")


def _people_at(estate: Estate, machine: Machine) -> None:
    """More of them where there is more of everything: at least one who controls, one who asks, one link."""
    ConsoleSession.objects.filter(machine=machine).delete()
    for user in [*estate.people[machine.project_id], estate.operator]:
        for _tab in range(1 + len(estate.machines) // 100):
            ConsoleSession.objects.create(
                user=user, user_name=user.username, machine=machine, machine_name=machine.name, mode="control"
            )
            ConsoleLink.objects.create(
                machine=machine,
                created_by=user,
                mode="view",
                token_hash=uuid4().hex,
                expires_at=timezone.now() + dt.timedelta(days=1),
            )
    ScreenControl.objects.update_or_create(machine=machine, defaults={"user": user, "since": timezone.now()})
    ScreenBan.objects.update_or_create(
        machine=machine, user=user, defaults={"until": timezone.now() + dt.timedelta(days=1)}
    )
    ended = ConsoleSession.objects.filter(ended_at__lt=timezone.now())[:60].values("pk")
    ConsoleSession.objects.filter(pk__in=[row["pk"] for row in ended]).update(ended_at=timezone.now())


def _pools(estate: Estate, machine: Machine) -> Pool:
    """More pools, desktops, sessions and people where there is more of everything. The member has one of each pool."""
    now, much = timezone.now(), len(estate.machines) // 20
    for number in range(2 + much // 5):
        pool = pool_of(machine, name=f"pool-{number}", desktops=0, entitled=(estate.member,), idle_warn_s=60)
        add_desktop(pool, machine, 1, state="taken", person=estate.member)
        add_desktop(pool, machine, 2, state="spare")
        add_desktop(pool, machine, 3, state="failed", error="No room.")
        _on_desktops(pool, estate.member)
    for number in range(4, 6 + much):
        add_desktop(pool, machine, number, state="taken", person=estate.operator)
    _on_desktops(pool, estate.operator)
    people = [User.objects.create_user(f"waits-{number}") for number in range(2 + much)]
    Place.objects.bulk_create(Place(pool=pool, person=person, asked_at=now, seen_at=now) for person in people)
    Entitlement.objects.bulk_create(Entitlement(pool=pool, user=person) for person in people)
    Entitlement.objects.create(pool=pool, project=machine.project)
    # The lists of machines begin with those that something happens to.
    Machine.objects.filter(desktop__isnull=False).update(created_at=now - dt.timedelta(days=3650))
    hours = [SpareHours(pool=pool, weekday=n % 7, from_minute=n, to_minute=n + 1, spare=1) for n in range(2 + much)]
    SpareHours.objects.bulk_create(hours)
    return pool


def _on_desktops(pool: Pool, person: User) -> None:
    """A session on each that is theirs."""
    now = timezone.now()
    for slot, desktop in enumerate(Desktop.objects.filter(pool=pool, person=person)):
        times = dict.fromkeys(("asked_at", "started_at", "on_screen_at", "last_active_at"), now)
        Session.objects.create(pool=pool, desktop=desktop, machine=desktop.machine, person=person, slot=slot, **times)


def _webhook(estate: Estate, machine: Machine) -> Webhook:
    """More events and webhooks where there is more of everything."""
    project, count = estate.projects[0], 1 + len(estate.machines) // 100
    Webhook.objects.filter(project=project).delete()
    for number in range(count):
        hook = add_webhook(project, actor=estate.operator, name=f"CI {number}", url="https://ci.example.org/")
    for _number in range(10 * count):
        record(Kind.MACHINE_STATE, machine, project=project.pk, data={"power_state": "running"})
    return hook


def _batch(estate: Estate) -> Batch:
    """Asked of more machines where there are more, of half of them with a job."""
    Batch.objects.all().delete()
    batch = Batch.objects.create(actor=estate.operator, action="stop")
    for number, machine in enumerate(Machine.objects.live()[: len(estate.machines) // 5]):
        job = Job.objects.filter(target_id=machine.pk).first() if number % 2 == 0 else None
        BatchItem.objects.create(batch=batch, machine=machine, job=job, refusal="" if job else "It is off.")
    return batch


def _askers() -> set[tuple[str, bool]]:
    return {(who, path.startswith("/api/")) for who, path in PAGES}


def _client(estate: Estate, who: str, is_api: bool) -> Client:
    user = User.objects.get(pk=getattr(estate, who).pk)
    client = Client(headers=_token_of(user) if is_api else {})
    client.force_login(user)
    return client


def _cost(client: Client, estate: Estate, ids: dict[str, UUID], path: str) -> int:
    machine = estate.machines[0]
    path = path.format(machine=machine.pk, host=machine.host_id, project=estate.projects[0].pk, **ids)
    with CaptureQueriesContext(connection) as queries:
        answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return len(queries)


def _token_of(user: User) -> dict[str, str]:
    """One for each person; that it is used for the first time is a query of its own, so it has been used."""
    ApiToken.objects.filter(user=user).delete()
    day = dt.timedelta(days=1)
    token, secret = make_token(user, actor=user, name="t", scope=ApiToken.Scope.READ, lifetime=day)
    note_use(token, request_ip="127.0.0.1")
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_a_page_takes_the_same_queries_with_ten_and_with_five_hundred_rows(
    costs: tuple[Costs, Costs], page: tuple[str, str]
) -> None:
    few, many = costs
    assert few[page] == many[page]
    assert many[page] <= 20
