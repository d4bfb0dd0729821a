"""Every address there is, tried by people it is not for. An address that is added later is in here at once."""

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from django.db.models import Model
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from portal.accounts.models import Project, User
from portal.api.operations import OPERATIONS
from portal.audit.models import Event
from portal.console.models import ConsoleLink, ConsoleSession, ScreenBan, ScreenControl, ScreenNotice
from portal.deployments.models import Deployment, Seat
from portal.events.models import Delivery, Webhook
from portal.events.services import add_webhook, try_webhook
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion
from portal.isos.models import Iso
from portal.isos.models import Status as IsoStatus
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines.models import Attachment, Batch, Disc, Machine, MachineLabel, NetworkCard
from portal.machines.states import Status
from portal.pools import broker
from portal.pools.models import Desktop, Entitlement, Place, Pool, Session, SpareHours
from portal.profiles.models import Profile
from portal.snapshots.models import Snapshot, SnapshotSchedule
from portal.snapshots.states import Status as SnapshotStatus
from portal.snapshots.states import Task as SnapshotTask
from portal.uploads.models import Upload
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from tests.support.pool_rows import pool_of

# For people who have not signed in, and the admin, which has its own tests of the same kind.
PUBLIC = {"accounts:login", "jsi18n", "api:openapi"}
# What stands in the address is itself what lets in; tests/portal/deployments/test_links.py tries it.
BY_SECRET = {"deployments:shared"}
# Programs come with tokens; tests/portal/api/test_every_operation.py tries them in the same way.
FOR_PROGRAMS = {f"api:{known.name}" for known in OPERATIONS} | {"api:nowhere"}
# For balancers and Prometheus; tests/portal/keeping/test_health.py says to whom they tell what.
FOR_MACHINES = {"keeping:healthz", "keeping:readyz", "keeping:metrics"}
SENT_AWAY = {301, 302}
UNSEEN = {404, 405}

Target = Callable[[str], Model]


def addresses() -> Iterator[tuple[str, frozenset[str]]]:
    """Names of all addresses with their parameters."""
    yield from _walk(get_resolver(), "")


def _walk(resolver: URLResolver, namespace: str) -> Iterator[tuple[str, frozenset[str]]]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLPattern):
            name = f"{namespace}:{pattern.name}" if namespace else pattern.name
            if name and name not in PUBLIC | BY_SECRET | FOR_MACHINES | FOR_PROGRAMS:
                yield name, frozenset(pattern.pattern.converters)
        elif pattern.app_name != "admin":
            yield from _walk(pattern, pattern.namespace or namespace)


ALL = sorted(addresses())
OF_OBJECTS = [name for name, parameters in ALL if parameters]
OPERATORS_ONLY = [
    name for name, parameters in ALL if not parameters and name.split(":")[0] in ("hosts", "audit", "sessions", "pools")
]


@pytest.fixture
def target(machine: Machine, image_version: ImageVersion, project: Project, alice: User) -> Target:
    """The object of Alice's project that an address of this name is about."""
    job = jobs.enqueue(JobName.MACHINE_STOP, machine, queue="host.local", actor=alice)
    Image.objects.update(project=project)
    membership = alice.memberships.get()
    volume = Volume.objects.create(
        project=project, name="data", host=machine.host, size_gib=1, status=VolumeStatus.AVAILABLE, created_by=alice
    )
    profile = Profile.objects.create(person=alice, project=project)
    session = ConsoleSession.objects.create(user=alice, user_name="alice", machine=machine, machine_name="beacon")

    webhook = add_webhook(project, actor=alice, name="CI", url="https://ci.example.org/hook")
    delivery = try_webhook(webhook, actor=alice)
    binned = Machine.objects.create(
        project=project,
        owner=alice,
        name="thrown-away",
        kind=machine.kind,
        vcpus=1,
        memory_mib=1024,
        disk_gib=10,
        host=machine.host,
        mac="52:54:00:00:00:02",
        status=Status.BINNED,
    )
    batch = Batch.objects.create(actor=alice, action="stop")
    snapshot = snapshot_of(machine, alice)
    iso = Iso.objects.create(project=project, name="installer", status=IsoStatus.READY, size_bytes=1, created_by=alice)
    upload = Upload.objects.create(user=alice, name="half.iso", size_bytes=2)
    pool = pool_of(machine, entitled=(alice,))
    on_desktop = broker.ask(pool, alice).session
    assert on_desktop is not None
    seat = seat_on(machine)

    def of(name: str) -> Model:
        namespace, _, view = name.partition(":")
        if namespace == "events":
            return delivery if "delivery" in view else webhook if "webhook" in view else project
        if namespace == "snapshots":
            return machine if view.startswith("machine") else snapshot
        if view.startswith(("bin-", "many-")):
            return binned if view.startswith("bin-") else batch
        if namespace == "images" and "version" in view:
            return image_version
        if namespace == "accounts":
            return membership if "member" in view else project
        return {
            "machines": machine,
            "console": machine,
            "figures": machine,
            "copies": machine,
            "images": image_version.image,
            "jobs": job,
            "desktops": on_desktop if view.startswith("session") else pool,
            "pools": {"session-sign-off": on_desktop, "desktop-recycle": on_desktop.desktop}.get(view, pool),
            "volumes": volume,
            "profiles": profile,
            "isos": iso,
            "uploads": upload,
            "sessions": session,
            "deployments": seat if view.startswith(("seat", "own")) else seat.deployment,
        }.get(namespace, machine.host)

    return of


def seat_on(machine: Machine) -> Seat:
    """Of a deployment that the machine is the only desktop of. Its person has no account."""
    assert machine.image_version is not None and machine.flavour is not None
    deployment = Deployment.objects.create(
        project=machine.project,
        name="Chemistry",
        prefix="lab",
        image_version=machine.image_version,
        flavour=machine.flavour,
    )
    return Seat.objects.create(deployment=deployment, number=1, label="Mia", machine=machine)


def snapshot_of(machine: Machine, alice: User) -> Snapshot:
    """One that is ready, as far as the rows say."""
    return Snapshot.objects.create(
        machine=machine,
        name="before the storm",
        status=SnapshotStatus.READY,
        task=SnapshotTask.NONE,
        is_current=True,
        quiesced=True,
        vcpus=machine.vcpus,
        memory_mib=machine.memory_mib,
        disk_gib=machine.disk_gib,
        created_by=alice,
        taken_at=machine.power_state_at,
    )


def path_of(name: str, target: Target) -> str:
    parameters = dict(ALL)[name]
    named = {parameter: "name" if parameter == "pool" else "pk" for parameter in parameters}
    return reverse(name, kwargs={parameter: getattr(target(name), field) for parameter, field in named.items()})


def answers(client: Client, path: str) -> set[int]:
    return {client.get(path).status_code, client.post(path).status_code}


def test_what_needs_no_sign_in_is_no_more_than_this(client: Client, db: None) -> None:
    for name in PUBLIC | FOR_MACHINES:
        assert client.get(reverse(name)).status_code in {200, 404, 503}, name
    assert client.get(reverse("keeping:metrics")).status_code == 404, "there is no token"


def test_the_walk_finds_addresses_of_every_app() -> None:
    assert {name.split(":")[0] for name, _ in ALL} >= {
        "accounts",
        "audit",
        "console",
        "desktops",
        "deployments",
        "events",
        "hosts",
        "images",
        "isos",
        "jobs",
        "machines",
        "pools",
        "profiles",
        "sessions",
        "snapshots",
        "uploads",
        "volumes",
    }


@pytest.mark.parametrize("name", [name for name, _ in ALL])
def test_without_signing_in_every_address_leads_to_the_sign_in_page(client: Client, target: Target, name: str) -> None:
    path = path_of(name, target)
    for answer in (client.get(path), client.post(path)):
        assert answer.status_code in SENT_AWAY | {401}, (name, answer.status_code)
        if answer.status_code in SENT_AWAY:
            assert answer["Location"].startswith("/login/"), (name, answer["Location"])


@pytest.mark.parametrize("name", OF_OBJECTS)
def test_a_stranger_cannot_tell_that_it_exists(client: Client, target: Target, charlie: User, name: str) -> None:
    client.force_login(charlie)
    before = state()
    assert answers(client, path_of(name, target)) <= UNSEEN, name
    assert state() == before


@pytest.mark.parametrize("name", OPERATORS_ONLY)
def test_pages_of_operators_are_not_there_for_others(client: Client, alice: User, name: str) -> None:
    client.force_login(alice)
    assert answers(client, reverse(name)) <= UNSEEN, name


# A viewer gets a ticket, to watch, and may try the way to the screen: tests/portal/console/.
WATCHING = ("console:ticket", "console:selftest-steps")
ON_SCREENS = [name for name in OF_OBJECTS if name.startswith("console:") and name not in WATCHING]


@pytest.mark.parametrize("name", ON_SCREENS)
def test_a_viewer_changes_nothing_on_a_screen_either(client: Client, target: Target, vera: User, name: str) -> None:
    """Letting go of what she does not hold is answered like any other, and changes nothing."""
    client.force_login(vera)
    before = state()
    values = {"person": str(vera.pk), "link": str(uuid4()), "mode": "control", "lifetime": "1w"}
    answer = client.post(path_of(name, target), values)
    assert answer.status_code in ({302} if name == "console:release" else {403, 404, 405, 409}), name
    assert state() == before


# Watching is what a viewer may.
BY_VIEWERS = ("deployments:seat-step",)
CHANGED_BY_MEMBERS = (
    "deployments",
    *("machines", "copies", "images", "isos", "uploads", "jobs", "sessions", "snapshots", "events", "volumes"),
    *("desktops", "pools"),
    "profiles",
)


@pytest.mark.parametrize(
    "name", [name for name in OF_OBJECTS if name.split(":")[0] in CHANGED_BY_MEMBERS and name not in BY_VIEWERS]
)
def test_a_viewer_changes_nothing(client: Client, target: Target, vera: User, name: str) -> None:
    client.force_login(vera)
    before = state()
    answer = client.post(path_of(name, target))
    assert answer.status_code in {403, 404, 405}, (name, answer.status_code)
    assert state() == before


def state() -> tuple[object, ...]:
    """What a request that is refused must leave as it was."""
    return (
        list(Machine.objects.order_by("pk").values_list("pk", "status", "task", "power_state", "name", "protected")),
        list(MachineLabel.objects.order_by("pk").values_list("machine", "name")),
        list(ImageVersion.objects.values_list("pk", "status")),
        list(Volume.objects.values_list("pk", "status", "task", "size_gib")),
        list(Snapshot.objects.values_list("pk", "status", "task", "name", "description", "schedule")),
        list(SnapshotSchedule.objects.values_list("pk", "every", "keep", "next_at")),
        list(Attachment.objects.values_list("pk", "task", "boot", "iops", "delete_with_machine")),
        list(NetworkCard.objects.values_list("pk", "task")),
        list(Disc.objects.values_list("pk", "slot", "iso", "task")),
        list(Machine.objects.order_by("pk").values_list("pk", "boot_disc", "rescue_version", "rescue_iso")),
        list(Iso.objects.values_list("pk", "status", "name")),
        list(Upload.objects.values_list("pk", "size_bytes", "touched_at")),
        list(Job.objects.values_list("pk", "status", "cancel_requested")),
        list(Project.objects.order_by("pk").values_list("pk", "name", "used_machines", "max_machines", "bin_days")),
        list(User.objects.order_by("pk").values_list("pk", "is_staff", "memberships__role")),
        list(Profile.objects.values_list("pk", "state", "machine", "next_machine", "volume")),
        list(Host.objects.values_list("pk", "enabled")),
        list(ConsoleSession.objects.values_list("pk", "mode", "end_ordered_by", "ended_at", "asked_at")),
        list(ScreenControl.objects.values_list("machine", "user")),
        list(ScreenBan.objects.values_list("machine", "user", "until")),
        list(ConsoleLink.objects.values_list("pk", "revoked_at")),
        list(ScreenNotice.objects.values_list("pk", "text")),
        list(Deployment.objects.values_list("pk", "name")),
        list(Seat.objects.values_list("pk", "person", "machine", "token_hash")),
        list(Webhook.objects.values_list("pk", "name", "url", "enabled")),
        list(Delivery.objects.values_list("pk", "status", "due_at")),
        list(
            Pool.objects.values_list(
                "pk", "title", "maximum", "maintenance", "message", "image_version", "next_version"
            )
        ),
        list(Desktop.objects.order_by("pk").values_list("pk", "state", "person")),
        list(Session.objects.order_by("pk").values_list("pk", "state", "last_active_at", "on_screen_at")),
        list(Place.objects.values_list("pk", "state", "seen_at")),
        list(Entitlement.objects.values_list("pk")),
        list(SpareHours.objects.values_list("pk", "spare")),
        Event.objects.count(),
    )
