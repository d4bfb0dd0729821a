"""What people ask of volumes is validated, counted and enqueued, or refused with a reason and without a trace."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NoCapacityError,
    NotFoundError,
    QuotaExceededError,
)
from portal.events import models as happened
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.machines import cards, disks
from portal.machines.models import Attachment, Machine, NetworkCard
from portal.machines.states import PowerState, Task
from portal.volumes import services
from portal.volumes.models import Volume
from portal.volumes.selectors import volumes_for
from portal.volumes.states import Status
from portal.volumes.states import Task as VolumeTask


@pytest.fixture
def volume(project: Project, host: Host) -> Volume:
    return Volume.objects.create(project=project, name="data", host=host, size_gib=1, status=Status.AVAILABLE)


def trace(project: Project) -> tuple[object, ...]:
    """What a refused request must not leave."""
    project.refresh_from_db()
    return (
        project.used_disk_gib,
        Host.objects.get().reserved_disk_gib,
        list(Volume.objects.values_list("name", "status", "task", "size_gib")),
        list(Attachment.objects.values_list("volume", "task")),
        list(Machine.objects.values_list("task")),
        Job.objects.count(),
        Event.objects.count(),
    )


def test_a_volume_counts_against_quota_and_host(project: Project, alice: User, host: Host) -> None:
    volume = services.request_volume(project, actor=alice, name=" data ", size_gib=7)
    project.refresh_from_db()
    host.refresh_from_db()
    assert (volume.name, volume.host, volume.status) == ("data", host, Status.CREATING)
    assert (project.used_disk_gib, project.used_machines, host.reserved_disk_gib) == (7, 0, 7)
    assert Job.objects.get().name == "volume.create"
    services.release(volume)
    services.release(volume)
    project.refresh_from_db()
    assert project.used_disk_gib == 0


def test_the_same_request_makes_one_volume(project: Project, alice: User, host: Host) -> None:
    key = uuid4()
    first = services.request_volume(project, actor=alice, name="data", size_gib=1, request_key=key)
    assert services.request_volume(project, actor=alice, name="data", size_gib=1, request_key=key) == first
    with pytest.raises(ConflictError, match="already"):
        services.request_volume(project, actor=alice, name="data", size_gib=1)
    assert Volume.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"size_gib": 0}, InvalidError),
        ({"size_gib": 70_000}, InvalidError),
        ({"size_gib": 61}, QuotaExceededError),
        ({"name": ""}, InvalidError),
        ({"name": "two\nlines"}, InvalidError),
        ({"name": "<b>"}, InvalidError),
        ({"name": "x" * 64}, InvalidError),
    ],
)
def test_what_does_not_fit_leaves_nothing(
    project: Project, alice: User, host: Host, changes: dict[str, object], error: type[Exception]
) -> None:
    before = trace(project)
    with pytest.raises(error):
        services.request_volume(project, actor=alice, **{"name": "data", "size_gib": 1, **changes})  # type: ignore[arg-type]  # Wrong on purpose.
    assert trace(project) == before


def test_a_host_without_room_takes_no_more_disk(project: Project, alice: User, host: Host, volume: Volume) -> None:
    Host.objects.update(reserved_disk_gib=1000)
    before = trace(project)
    for ask in (
        lambda: services.request_volume(project, actor=alice, name="more", size_gib=1),
        lambda: services.request_volume(project, actor=alice, name="more", size_gib=1, host=host),
        lambda: services.request_grow(volume, actor=alice, size_gib=2),
    ):
        with pytest.raises(NoCapacityError):
            ask()
    assert trace(project) == before


def test_viewers_and_strangers_change_nothing(
    project: Project, vera: User, charlie: User, volume: Volume, machine: Machine
) -> None:
    before = trace(project)
    for person in (vera, charlie):
        asks: tuple[Callable[[User], object], ...] = (
            lambda by: services.request_volume(project, actor=by, name="more", size_gib=1),
            lambda by: services.request_grow(volume, actor=by, size_gib=2),
            lambda by: services.request_delete(volume, actor=by),
            lambda by: disks.request_attach(machine, actor=by, volume=volume),
            lambda by: disks.request_new_disk(machine, actor=by, name="more", size_gib=1),
            lambda by: disks.request_grow(machine, actor=by, disk="root", size_gib=20),
            lambda by: disks.request_limits(machine, actor=by, disk="root", iops=1, mib_per_s=0),
            lambda by: disks.set_first_at_start(machine, actor=by, disk="root"),
            lambda by: cards.request_card(machine, actor=by),
        )
        for ask in asks:
            with pytest.raises(ForbiddenError):
                ask(person)
    assert trace(project) == before
    assert list(volumes_for(vera)) == [volume]
    assert not volumes_for(charlie).exists()


def test_a_volume_of_another_project_or_host_is_not_attached(
    project: Project, machine: Machine, volume: Volume, alice: User, charlie: User
) -> None:
    elsewhere = Host.objects.create(name="far", uri="fake://far", pool_dir="/x")
    Volume.objects.filter(pk=volume.pk).update(host=elsewhere)
    volume.refresh_from_db()
    with pytest.raises(ConflictError, match="another host"):
        disks.request_attach(machine, actor=alice, volume=volume)
    theirs = charlie.memberships.get().project
    Volume.objects.filter(pk=volume.pk).update(host=machine.host, project=theirs)
    volume.refresh_from_db()
    with pytest.raises(NotFoundError):
        disks.request_attach(machine, actor=alice, volume=volume)
    assert not Attachment.objects.exists()


@pytest.mark.parametrize(
    "condition",
    [
        {"power_state": PowerState.PAUSED},
        {"power_state": PowerState.UNKNOWN},
        {"task": Task.STOPPING},
        {"status": "building"},
        {"status": "error"},
    ],
    ids=str,
)
def test_a_machine_that_is_busy_paused_or_unheard_of_keeps_its_devices(
    project: Project, machine: Machine, volume: Volume, alice: User, condition: dict[str, str]
) -> None:
    Machine.objects.update(**condition)
    before = trace(project)
    asks: tuple[Callable[[], object], ...] = (
        lambda: disks.request_attach(machine, actor=alice, volume=volume),
        lambda: disks.request_new_disk(machine, actor=alice, name="more", size_gib=1),
        lambda: disks.request_grow(machine, actor=alice, disk="root", size_gib=20),
        lambda: cards.request_card(machine, actor=alice),
    )
    for ask in asks:
        with pytest.raises(ConflictError) as caught:
            ask()
        assert "already" not in str(caught.value)
    assert trace(project) == before


def test_the_root_disk_is_neither_detached_nor_kept(machine: Machine, alice: User) -> None:
    with pytest.raises(InvalidError):
        disks.request_detach(machine, actor=alice, disk="root")
    with pytest.raises(InvalidError):
        disks.set_kept(machine, actor=alice, disk="root", keep=True)


@pytest.mark.parametrize("disk", ["", "nothing", str(UUID(int=7)), "../../etc/passwd"])
def test_a_disk_that_is_not_the_machines_is_not_found(machine: Machine, alice: User, disk: str) -> None:
    with pytest.raises(NotFoundError):
        disks.request_detach(machine, actor=alice, disk=disk)


def test_disks_and_cards_are_bounded(machine: Machine, volume: Volume, alice: User, project: Project) -> None:
    for number in range(disks.MOST_VOLUMES):
        one = Volume.objects.create(
            project=project, name=f"disk {number}", host=machine.host, size_gib=1, status=Status.IN_USE
        )
        Attachment.objects.create(machine=machine, volume=one)
    for number in range(cards.MOST_CARDS):
        NetworkCard.objects.create(machine=machine, mac=f"52:54:00:00:01:{number:02x}")
    before = trace(project)
    with pytest.raises(ConflictError, match="at most"):
        disks.request_attach(machine, actor=alice, volume=volume)
    with pytest.raises(ConflictError, match="at most"):
        cards.request_card(machine, actor=alice)
    assert trace(project) == before


def test_a_volume_in_use_is_not_deleted_and_grows_by_way_of_its_machine(
    machine: Machine, volume: Volume, alice: User, project: Project
) -> None:
    Volume.objects.update(status=Status.IN_USE)
    asks: tuple[Callable[[], object], ...] = (
        lambda: services.request_delete(volume, actor=alice),
        lambda: services.request_grow(volume, actor=alice, size_gib=2),
    )
    for ask in asks:
        with pytest.raises(ConflictError, match="In use"):
            ask()
    volume.refresh_from_db()
    assert (volume.status, volume.task) == (Status.IN_USE, VolumeTask.NONE)


def test_a_disk_never_gets_smaller(machine: Machine, volume: Volume, alice: User) -> None:
    for size in (1, 0):
        with pytest.raises(InvalidError):
            services.request_grow(volume, actor=alice, size_gib=size)
    with pytest.raises(InvalidError):
        disks.request_grow(machine, actor=alice, disk="root", size_gib=10)


def test_what_is_chosen_of_disks_is_an_event(machine: Machine, volume: Volume, alice: User) -> None:
    Volume.objects.update(status=Status.IN_USE)
    disk = str(Attachment.objects.create(machine=machine, volume=volume).pk)
    disks.set_first_at_start(machine, actor=alice, disk=disk)
    for _twice in range(2):
        disks.set_kept(machine, actor=alice, disk=disk, keep=False)
    told = happened.Event.objects.filter(kind="machine.changed", subject_id=machine.pk).order_by("pk")
    assert [event.data["changed"] for event in told] == [["first_disk"], ["kept_disks"]]
    assert {event.actor_name for event in told} == {"alice"}
