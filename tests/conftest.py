"""The fixed cast: Alice owns the project, Bob is a member, Vera may look, Charlie sees nothing; Olga runs the hosts."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4
from zlib import crc32

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.utils import timezone
from hypothesis import HealthCheck
from hypothesis import settings as of_hypothesis
from pytest_django.fixtures import Settings

from portal.accounts.models import Membership, Project, User
from portal.accounts.permissions import Role
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status

PASSWORD = "correct-horse-battery"

GIB = 1024**3

# On a busy machine an example that takes long, or is made slowly, says nothing of what it tries.
of_hypothesis.register_profile("casement", deadline=None, suppress_health_check=[HealthCheck.too_slow])
of_hypothesis.load_profile("casement")


DATABASE_FIXTURES = {"db", "transactional_db"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only-database", action="store_true", help="only tests that use the database, for another one")
    parser.addoption("--half", type=int, choices=(0, 1), help="of tests that take turns on two databases this half")
    parser.addoption(
        "--turn", type=int, help="what is tried in very many ways is tried in some of them: whose turn it is"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    only_database, half = config.getoption("--only-database"), config.getoption("--half")
    turn = config.getoption("--turn")

    def is_kept(item: pytest.Item) -> bool:
        if turn is not None and item.get_closest_marker("by_turns"):
            return bool(crc32(item.nodeid.encode()) % 2 == turn % 2)
        if not _uses_database(item):
            return not only_database
        return half is None or not _takes_turns(item) or crc32(item.nodeid.encode()) % 2 == half

    kept = [item for item in items if is_kept(item)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if not is_kept(item)])
        items[:] = kept


def _uses_database(item: pytest.Item) -> bool:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    return item.get_closest_marker("django_db") is not None or not DATABASE_FIXTURES.isdisjoint(fixtures)


def _takes_turns(item: pytest.Item) -> bool:
    """Races, which are about the database, and backups, which try both by themselves, are always run."""
    here = Path(__file__).parent
    turns = any(item.path.is_relative_to(here / name) for name in ("portal", "workers"))
    return turns and not item.path.is_relative_to(here / "portal" / "keeping")


@pytest.fixture(autouse=True)
def _own_folders(settings: Settings, tmp_path: Path) -> None:
    settings.IMAGES_DIR = tmp_path / "images"
    settings.UPLOADS_DIR = tmp_path / "uploads"
    settings.ISOS_DIR = tmp_path / "isos"


@pytest.fixture
async def no_connection_left() -> AsyncIterator[None]:
    """For async tests: their database work runs in asgiref's own thread, whose connection no test runner closes."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(username: str, **values: object) -> User:
        return User.objects.create_user(username, f"{username}@example.org", PASSWORD, **values)

    return make


@pytest.fixture
def project(db: None) -> Project:
    """Without a bin: what is deleted is gone. Tests of the bin give it days."""
    limits = {"max_machines": 3, "max_vcpus": 6, "max_memory_mib": 6144, "max_disk_gib": 60}
    return Project.objects.create(name="Lighthouse", bin_days=0, **limits)


def _member(user: User, project: Project, role: Role) -> User:
    Membership.objects.create(user=user, project=project, role=role)
    return user


@pytest.fixture
def alice(make_user: Callable[..., User], project: Project) -> User:
    return _member(make_user("alice"), project, Role.OWNER)


@pytest.fixture
def bob(make_user: Callable[..., User], project: Project) -> User:
    return _member(make_user("bob"), project, Role.MEMBER)


@pytest.fixture
def vera(make_user: Callable[..., User], project: Project) -> User:
    return _member(make_user("vera"), project, Role.VIEWER)


@pytest.fixture
def charlie(make_user: Callable[..., User]) -> User:
    """A stranger, with a project of his own."""
    return _member(make_user("charlie"), Project.objects.create(name="Elsewhere"), Role.OWNER)


@pytest.fixture
def operator(make_user: Callable[..., User]) -> User:
    return make_user("olga", is_staff=True, is_superuser=True)


@pytest.fixture
def host(db: None) -> Host:
    return Host.objects.create(
        name="local",
        uri=f"fake://{uuid4().hex}",  # A host of its own for each test: the fake keeps its domains by this name.
        pool_dir="/nowhere",
        cpus=8,
        memory_mib=16384,
        storage_total_bytes=500 * GIB,
        storage_free_bytes=400 * GIB,
        accelerator="tcg",
        network_mode="nat",
        last_seen_at=timezone.now(),
    )


@pytest.fixture
def image(db: None) -> Image:
    return Image.objects.create(
        slug="debian-12-server",
        title="Debian 12 server",
        kind=Kind.SERVER,
        source=Source.RECIPE,
        recipe="debian-12-server",
        min_memory_mib=512,
    )


@pytest.fixture
def image_version(image: Image) -> ImageVersion:
    return ImageVersion.objects.create(
        image=image, number=1, status=VersionStatus.READY, size_bytes=GIB, virtual_size_bytes=4 * GIB, sha256="0" * 64
    )


@pytest.fixture
def flavour(db: None) -> Flavour:
    return Flavour.objects.create(name="small", title="Small", vcpus=1, memory_mib=1024, disk_gib=10)


@pytest.fixture
def machine(project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, host: Host) -> Machine:
    """A server of Alice's that runs."""
    return Machine.objects.create(
        project=project,
        owner=alice,
        name="beacon",
        kind=Kind.SERVER,
        image_version=image_version,
        flavour=flavour,
        vcpus=1,
        memory_mib=1024,
        disk_gib=10,
        host=host,
        status=Status.READY,
        power_state=PowerState.RUNNING,
        power_state_at=timezone.now(),
        login_user="alice",
        mac="52:54:00:00:00:01",
        console_socket="/nowhere/vnc.sock",
    )
