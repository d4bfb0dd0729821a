"""A stage on hosts in memory."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.machines.models import Flavour
from tests.integration.crash import scenes
from tests.integration.crash.scenes import Stage
from tests.support.outside import NAME, Asked, Handler, Outside, outside_world
from tests.workers.support import fake_of, write_image
from workers import runner
from workers.hypervisor.types import Firmware, MachineSpec
from workers.workflows import fetch, images, power

MANY = 1_000_000


def room_for_many(project: Project, *hosts: Host) -> None:
    Project.objects.filter(pk=project.pk).update(
        max_machines=MANY, max_vcpus=MANY, max_memory_mib=MANY * 1024, max_disk_gib=MANY
    )
    for host in hosts:
        Host.objects.filter(pk=host.pk).update(
            cpus=MANY, memory_mib=MANY * 1024, storage_total_bytes=MANY << 30, storage_free_bytes=MANY << 30
        )


@pytest.fixture
def lives_of(pytestconfig: pytest.Config) -> Callable[[int], Iterator[int]]:
    """How many moments a worker lives through: each `stride`-th number. With `--turn` a third of these, by turns."""
    turn = pytestconfig.getoption("--turn")
    if turn is None:
        return lambda stride: itertools.count(step=stride)
    return lambda stride: itertools.count(turn % 3, 3 * stride)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outside]:
    """A server that has a disk and a file with its checksum."""
    with outside_world(tmp_path / "outside") as world:
        sums = f"{hashlib.sha256(scenes.RAW_DISK).hexdigest()}  disk.img\n".encode()

        def respond(handler: Handler, asked: Asked) -> None:
            handler.answer(200, sums if asked.path.endswith(".sums") else scenes.RAW_DISK)

        monkeypatch.setattr(scenes, "DISK_URL", f"https://{NAME}:{world.serve(respond).port}/disk.img")
        yield world


@pytest.fixture
def stage(
    project: Project,
    alice: User,
    operator: User,
    image_version: ImageVersion,
    flavour: Flavour,
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    outside: Outside,
) -> Stage:
    # Switched off for new machines, so that every scene finds its machine on the first one.
    other = Host.objects.create(
        name="other", uri=f"fake://{uuid4().hex}", pool_dir="/nowhere", enabled=False, last_seen_at=timezone.now()
    )
    for each in (host, other):
        fake = fake_of(each)
        fake.cpus, fake.memory_mib, fake.storage_bytes = MANY, MANY * 1024, MANY << 30
    room_for_many(project, host)
    write_image(image_version)
    monkeypatch.setattr(images, "build_image", scenes.build_in_a_moment)
    monkeypatch.setattr(images, "load_recipes", any_recipe)
    monkeypatch.setattr(fetch, "fetcher", outside.fetcher)

    def add_foreign() -> UUID:
        spec = MachineSpec(uuid4(), "their's", "", 2, 512, Firmware.BIOS, uuid4(), "secret")
        fake_of(host).add_foreign_domain(spec)
        return spec.uuid

    return Stage(project, alice, operator, flavour, image_version, host, other, add_foreign, fake_of(host).vanish)


def any_recipe() -> dict[str, object]:
    return {"any": object()}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats are for work that takes longer than any of this, and watching is for guests that take their time."""
    monkeypatch.setattr(runner, "HEARTBEAT_S", 3600)
    monkeypatch.setattr(power, "WATCHED_S", 0)
