"""Parents as rows: who wants one, what it takes of its host, when it may be used, and when it goes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.errors import ConflictError, ForbiddenError, InvalidError
from portal.hosts.models import Host
from portal.images import services as images
from portal.images.models import Image, ImageVersion, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines import forking
from portal.machines import services as machines
from portal.machines.models import Flavour, Machine, MadeBy
from portal.machines.states import Status, Task
from portal.parents import selectors, services, tending
from portal.parents.models import Parent, ParentWish
from portal.parents.selectors import Size
from portal.parents.states import State

pytestmark = pytest.mark.django_db

SIZE = {"vcpus": 1, "memory_mib": 1024, "disk_gib": 10}
ONE = Size(**SIZE)


@pytest.fixture
def wanted(image_version: ImageVersion, host: Host) -> Parent:
    parent = services.want(image_version, host, **SIZE)
    assert parent is not None
    return parent


def made(parent: Parent) -> Parent:
    """As when the worker has captured it."""
    services.record_building(parent)
    services.record_captured(parent, memory_bytes=1 << 30)
    services.record_ready(parent)
    Job.objects.filter(target_id=parent.pk).update(status="done", finished_at=timezone.now())
    parent.refresh_from_db()
    return parent


def promised(host: Host) -> tuple[int, int, int]:
    host.refresh_from_db()
    return (host.reserved_vcpus, host.reserved_memory_mib, host.reserved_disk_gib)


def aged(**values: object) -> None:
    Parent.objects.update(**values)


def test_who_wants_one_gets_one_however_often_it_is_said(
    wanted: Parent, image_version: ImageVersion, host: Host
) -> None:
    again = services.want(image_version, host, **SIZE)
    assert again == wanted
    assert (wanted.state, Parent.objects.count()) == (State.WANTED, 1)
    job = Job.objects.get()
    assert (job.name, job.target_id, job.queue) == (JobName.PARENT_BUILD, wanted.pk, host.queue)
    # Its memory and disk, its memory as a file, and that once more as libvirt has it. It has no processors of its own.
    assert promised(host) == (0, 1024, 12)


def test_of_two_at_once_the_rows_allow_one(wanted: Parent) -> None:
    values = {"image_version": wanted.image_version, "host": wanted.host, **SIZE}
    with pytest.raises(IntegrityError), transaction.atomic():
        Parent.objects.create(**values)
    services.retire(wanted)
    Parent.objects.create(**values)  # One that goes is not in the way of the next.


def test_without_room_there_is_none_and_nothing_is_promised(image_version: ImageVersion, host: Host) -> None:
    Host.objects.update(reserved_memory_mib=15000)
    assert services.want(image_version, host, **SIZE) is None
    assert (Parent.objects.count(), Job.objects.count()) == (0, 0)
    assert promised(host) == (0, 15000, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda version: ImageVersion.objects.update(firmware="uefi"),
        lambda version: ImageVersion.objects.update(status=VersionStatus.DELETING),
        lambda version: Image.objects.update(has_agent=False),
    ],
    ids=["uefi", "deleting", "no agent"],
)
def test_what_cannot_be_forked_is_not_kept(
    image_version: ImageVersion, host: Host, change: Callable[[ImageVersion], int]
) -> None:
    change(image_version)
    version = ImageVersion.objects.select_related("image").get()
    assert services.want(version, host, **SIZE) is None


def test_only_one_that_is_whole_and_of_this_hypervisor_is_used(wanted: Parent, host: Host) -> None:
    def usable() -> Parent | None:
        return selectors.usable(wanted.image_version, host, 1, 1024, 10)

    assert usable() is None
    made(wanted)
    assert usable() == wanted
    assert selectors.usable(wanted.image_version, host, 1, 2048, 10) is None
    host.hypervisor_version = "QEMU 99"
    assert usable() is None


def test_capacity_is_given_back_once_whatever_happens(wanted: Parent, host: Host) -> None:
    made(wanted)
    services.retire(wanted, reason="For a test.")
    assert promised(host) == (0, 1024, 12)  # It is still there.
    for _time in range(2):
        services.record_deleted(wanted)
    assert promised(host) == (0, 0, 0)
    assert Parent.objects.get().state == State.DELETED


def test_it_is_tried_three_times_and_then_given_up_until_an_operator_says_so(
    wanted: Parent, image_version: ImageVersion, host: Host, operator: User
) -> None:
    for time in range(1, 4):
        assert promised(host) == (0, 1024, 12)
        services.record_building(wanted)
        services.record_failed(wanted, message="The guest did not come up.")
        Job.objects.update(status="failed")
        assert promised(host) == (0, 0, 0)
        wanted.refresh_from_db()
        assert (wanted.state, wanted.failures, wanted.reason) == (State.FAILED, time, "The guest did not come up.")
        services.want(image_version, host, **SIZE)
        assert Job.objects.count() == time  # Not at once.
        aged(retry_at=timezone.now() - dt.timedelta(seconds=1))
        services.want(image_version, host, **SIZE)
        wanted.refresh_from_db()
    assert (wanted.state, Job.objects.count()) == (State.FAILED, 3)
    for _time in range(2):
        services.request_again(wanted, actor=operator)
    wanted.refresh_from_db()
    assert (wanted.state, wanted.failures, Job.objects.count()) == (State.WANTED, 0, 4)
    assert promised(host) == (0, 1024, 12)
    assert Event.objects.filter(action="parent.retried").count() == 1


def test_one_that_is_being_made_and_retired_is_not_ready_afterwards(wanted: Parent, host: Host) -> None:
    services.record_building(wanted)
    services.retire(wanted)
    services.record_ready(wanted)
    services.record_failed(wanted, message="Stopped.")
    wanted.refresh_from_db()
    assert wanted.state == State.RETIRING
    assert promised(host) == (0, 1024, 12)
    build, delete = Job.objects.order_by("created_at")
    assert (build.cancel_requested, delete.name) == (True, JobName.PARENT_DELETE)


# --- machines that use one ------------------------------------------------------------------------------------------


@pytest.fixture
def asked(project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, host: Host) -> Machine:
    return machines.request_machine(
        project, actor=alice, image_version=image_version, flavour=flavour, name="lamp", login_user="alice"
    )


def test_a_machine_takes_one_once_and_holds_it(wanted: Parent, asked: Machine) -> None:
    assert not forking.is_to_be_forked(asked)
    made(wanted)
    assert forking.is_to_be_forked(asked)
    assert forking.take_parent(asked) == wanted
    asked.refresh_from_db()
    began = asked.forked_at
    assert forking.take_parent(asked) == wanted
    asked.refresh_from_db()
    assert (asked.parent, asked.forked_at) == (wanted, began)
    services.retire(wanted)
    services.retire(wanted)
    assert not Job.objects.filter(name=JobName.PARENT_DELETE).exists()
    assert forking.take_parent(asked) == wanted  # What was begun with it goes on.
    Machine.objects.update(task=Task.NONE, status=Status.READY)
    machines.record_deleted(asked)
    tending.tend()
    assert Job.objects.get(name=JobName.PARENT_DELETE).target_id == wanted.pk
    tending.tend()
    assert Job.objects.filter(name=JobName.PARENT_DELETE).count() == 1


def test_none_is_taken_that_is_going(wanted: Parent, asked: Machine) -> None:
    made(wanted)
    stale = Parent.objects.get()
    services.retire(wanted)
    assert services.record_used(stale) is False
    assert forking.take_parent(asked) is None
    asked.refresh_from_db()
    assert asked.parent is None


def test_a_failed_try_lets_it_go_and_says_why(wanted: Parent, asked: Machine) -> None:
    made(wanted)
    forking.take_parent(asked)
    forking.record_booted(asked, reason="The fork did not run.")
    asked.refresh_from_db()
    assert (asked.parent, asked.made_by, asked.made_by_reason) == (None, MadeBy.BOOT, "The fork did not run.")
    assert not forking.is_to_be_forked(asked)  # Not twice in one job.
    machines.record_build_failed(asked, message="Nor did it boot.")
    asked.refresh_from_db()
    assert (asked.made_by, asked.made_by_reason) == ("", "")


@pytest.mark.parametrize(
    "values", [{"user_data": "sealed"}, {"tpm": True}, {"firmware": "uefi"}, {"iso_name": "debian.iso"}]
)
def test_what_needs_a_first_start_boots(wanted: Parent, asked: Machine, values: dict[str, object]) -> None:
    made(wanted)
    Machine.objects.update(**values)
    asked.refresh_from_db()
    assert not forking.is_to_be_forked(asked)
    assert forking.why_not_forked(asked) == ""


def test_machines_go_where_they_are_there_in_a_moment(
    wanted: Parent, project: Project, alice: User, image_version: ImageVersion, flavour: Flavour, host: Host
) -> None:
    made(wanted)
    Host.objects.filter(pk=host.pk).update(memory_mib=4096)
    values = {"cpus": 64, "memory_mib": 65536, "storage_total_bytes": 10**12, "storage_free_bytes": 10**12}
    Host.objects.create(name="emptier", uri="fake://e", pool_dir="/e", last_seen_at=timezone.now(), **values)
    for expected in ("local", "local", "emptier"):  # The third one has no room beside the parent and two.
        machine = machines.request_machine(
            project,
            actor=alice,
            image_version=image_version,
            flavour=flavour,
            name=f"lamp-{uuid4().hex[:6]}",
            login_user="alice",
        )
        assert machine.host.name == expected
    project.max_machines = 10
    project.save()
    own = machines.request_machine(
        project,
        actor=alice,
        image_version=image_version,
        flavour=flavour,
        name="by-itself",
        login_user="alice",
        user_data="#cloud-config\npackages: [hello]\n",
    )
    assert own.host.name == "emptier"


# --- wishes ---------------------------------------------------------------------------------------------------------


def test_a_wish_is_an_operators_and_is_one(image: Image, operator: User, alice: User) -> None:
    with pytest.raises(ForbiddenError):
        services.add_wish(image, actor=alice, size=ONE)
    first = services.add_wish(image, actor=operator, size=ONE)
    assert services.add_wish(image, actor=operator, size=ONE) == first
    assert Event.objects.filter(action="parent.wished").count() == 1
    with pytest.raises(ForbiddenError):
        services.remove_wish(first, actor=alice)
    Image.objects.update(has_agent=False)
    image.refresh_from_db()
    with pytest.raises(InvalidError, match="agent"):
        services.add_wish(image, actor=operator, size=Size(2, 2048, 10))


def test_a_wish_is_seen_to_for_the_newest_version_and_the_old_one_goes(
    image: Image, image_version: ImageVersion, host: Host, operator: User
) -> None:
    services.add_wish(image, actor=operator, size=ONE)
    tending.tend()
    tending.tend()
    first = Parent.objects.get()
    made(first)
    newer = ImageVersion.objects.create(image=image, number=2, status=VersionStatus.READY)
    tending.tend()
    assert set(Parent.objects.values_list("image_version__number", "state")) == {(1, "ready"), (2, "wanted")}
    Parent.objects.filter(pk=first.pk).update(wanted_at=timezone.now() - dt.timedelta(minutes=11))
    tending.tend()
    first.refresh_from_db()
    assert first.state == State.RETIRING
    assert selectors.newest_forkable(image) == newer


def test_a_wish_taken_back_leaves_what_others_want(
    image: Image, image_version: ImageVersion, host: Host, operator: User
) -> None:
    wish = services.add_wish(image, actor=operator, size=ONE)
    tending.tend()
    parent = made(Parent.objects.get())
    for _time in range(2):
        services.remove_wish(wish, actor=operator)
    services.want(image_version, host, **SIZE)  # A pool says so every few seconds.
    aged(wanted_at=timezone.now() - dt.timedelta(minutes=5))
    tending.tend()
    parent.refresh_from_db()
    assert parent.state == State.READY
    aged(wanted_at=timezone.now() - dt.timedelta(minutes=11))
    tending.tend()
    parent.refresh_from_db()
    assert (parent.state, bool(parent.reason)) == (State.RETIRING, True)


def test_what_another_qemu_captured_is_made_anew(
    image: Image, image_version: ImageVersion, host: Host, operator: User
) -> None:
    Host.objects.update(hypervisor_version="QEMU 7.2.0")
    services.add_wish(image, actor=operator, size=ONE)
    tending.tend()
    old = made(Parent.objects.get())
    assert old.made_for == "QEMU 7.2.0 (tcg)"
    Host.objects.update(hypervisor_version="QEMU 9.1.0")
    tending.tend()
    tending.tend()
    old.refresh_from_db()
    assert old.state == State.RETIRING
    assert "QEMU 7.2.0" in old.reason
    assert Parent.objects.get(state=State.WANTED).pk != old.pk


def test_what_stands_in_the_way_of_a_wish_is_said(
    image: Image, image_version: ImageVersion, host: Host, operator: User
) -> None:
    services.add_wish(image, actor=operator, size=ONE)
    Host.objects.update(reserved_memory_mib=15000)
    tending.tend()
    assert "local: There is no room" in ParentWish.objects.get().note
    Host.objects.update(reserved_memory_mib=0)
    tending.tend()
    assert ParentWish.objects.get().note == ""
    ImageVersion.objects.update(status=VersionStatus.FAILED)
    tending.tend()
    assert "No version" in ParentWish.objects.get().note


def test_they_are_kept_on_hosts_that_run_machines_of_the_image(
    machine: Machine, image: Image, host: Host, operator: User
) -> None:
    values = {"cpus": 64, "memory_mib": 65536, "storage_total_bytes": 10**12, "storage_free_bytes": 10**12}
    Host.objects.create(name="emptier", uri="fake://e", pool_dir="/e", last_seen_at=timezone.now(), **values)
    services.add_wish(image, actor=operator, size=ONE)
    tending.tend()
    assert [parent.host for parent in Parent.objects.all()] == [host]
    Machine.objects.update(status=Status.DELETED)
    tending.tend()
    assert [parent.host for parent in Parent.objects.all()] == [host]  # Where one is it stays.
    Parent.objects.all().delete()
    tending.tend()
    assert [parent.host.name for parent in Parent.objects.all()] == ["emptier"]


def test_a_version_that_is_kept_running_is_not_deleted(wanted: Parent, operator: User) -> None:
    made(wanted)
    with pytest.raises(ConflictError, match="running copy"):
        images.request_delete_version(wanted.image_version, actor=operator)
    services.retire(wanted)
    services.record_deleted(wanted)
    images.request_delete_version(wanted.image_version, actor=operator)
    images.record_version_deleted(wanted.image_version)
    assert not ImageVersion.objects.exists()


def test_what_is_gone_is_forgotten_after_a_week(wanted: Parent) -> None:
    services.retire(wanted)
    services.record_deleted(wanted)
    tending.tend()
    assert Parent.objects.count() == 1
    aged(deleted_at=timezone.now() - dt.timedelta(days=8))
    tending.tend()
    assert Parent.objects.count() == 0


def test_only_operators_see_any(wanted: Parent, operator: User, alice: User) -> None:
    assert [vars(parent)["fork_count"] for parent in selectors.parents_for(operator)] == [0]
    assert list(selectors.parents_for(alice)) == []
