"""Clones, images of machines and rebuilding, on a host in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from portal.accounts.models import Project, User
from portal.copies import capturing, cloning, rebuilding
from portal.copies.capturing import CaptureRequest
from portal.copies.cloning import CloneRequest
from portal.copies.models import DiskBase, DiskCopy
from portal.copies.states import Identity
from portal.hosts.models import Host
from portal.images.models import ImageVersion, VersionStatus
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobStatus
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task
from tests.support.agreement import disagreements
from tests.workers.support import assert_nothing_left, left_on, work_on
from workers import reconcile
from workers.hypervisor.errors import HostUnreachableError, StorageFullError
from workers.hypervisor.fake import FakeHost

pytestmark = pytest.mark.django_db

Built = Callable[[], Machine]
Copied = Callable[..., Machine]


def clone_of(source: Machine, alice: User, **values: Any) -> tuple[Machine, Job]:
    source.refresh_from_db()
    wanted = CloneRequest(f"clone-{Machine.objects.count()}", **values)
    clone = cloning.request_clone(source, actor=alice, wanted=wanted)
    job = work_on(Job.objects.get(target_id=clone.pk))
    clone.refresh_from_db()
    source.refresh_from_db()
    return clone, job


def off(machine: Machine, alice: User) -> Machine:
    work_on(services.request_force_off(machine, actor=alice))
    machine.refresh_from_db()
    return machine


def test_a_running_machine_is_cloned_as_of_one_moment_and_runs_on(built: Built, alice: User, fake: FakeHost) -> None:
    source = built()
    clone, job = clone_of(source, alice)
    assert job.status == JobStatus.DONE, job.error_message
    assert (clone.status, clone.power_state) == (Status.READY, PowerState.RUNNING)
    assert (source.task, source.power_state, fake.domains[source.pk].starts) == (Task.NONE, PowerState.RUNNING, 1)
    assert (fake.calls["take_snapshot"], fake.calls["delete_snapshot"]) == (1, 1)
    assert not fake.snapshots.get(source.pk)
    base = DiskBase.objects.get()
    assert fake.bases[clone.pk] == base.pk and fake.without_identity == {base.pk: False}
    assert fake.images[base.pk].base == source.image_version_id, "it was copied whole, for a linked clone"
    seed, original = fake.seeds[clone.pk], fake.seeds[source.pk]
    assert str(clone.pk) in seed.meta_data and clone.name in seed.user_data and clone.mac in seed.network_config
    assert seed.user_data != original.user_data
    assert fake.domains[clone.pk].spec.genid != fake.domains[source.pk].spec.genid
    assert disagreements() == []


def test_bases_that_read_from_each_other_go_together(built: Built, alice: User, fake: FakeHost, host: Host) -> None:
    """A clone of a clone: its base reads from the first one's."""
    first, _job = clone_of(built(), alice)
    second, _job = clone_of(first, alice)
    assert DiskBase.objects.get(copies__machine=second).parent == DiskBase.objects.get(copies__machine=first)
    Project.objects.update(bin_days=0)
    for clone in (first, second):
        work_on(services.request_delete(Machine.objects.get(pk=clone.pk), actor=alice))
    reconcile.reconcile_host(host.pk)
    assert not DiskBase.objects.exists()
    assert disagreements() == []


def test_a_full_clone_of_a_machine_that_is_off_shares_nothing_and_needs_no_snapshot(
    built: Built, alice: User, fake: FakeHost
) -> None:
    source = off(built(), alice)
    clone, job = clone_of(source, alice, linked=False)
    assert job.status == JobStatus.DONE, job.error_message
    assert clone.pk not in fake.bases and not DiskBase.objects.exists()
    assert fake.without_identity == {clone.pk: False}
    assert fake.calls["take_snapshot"] == 0
    assert (source.power_state, source.task) == (PowerState.SHUT_OFF, Task.NONE)
    assert disagreements() == []


def test_what_keeps_everything_is_not_touched_inside(built: Built, alice: User, fake: FakeHost) -> None:
    source = off(built(), alice)
    clone, _job = clone_of(source, alice, linked=False, identity=Identity.KEPT)
    assert fake.without_identity == {}
    assert str(source.pk) in fake.seeds[clone.pk].meta_data and source.name in fake.seeds[clone.pk].meta_data


def test_a_system_that_is_not_known_is_told_in_words_and_taken_back(
    built: Built, alice: User, fake: FakeHost, host: Host
) -> None:
    source = built()
    fake.unknown_systems.add(source.pk)
    clone, job = clone_of(source, alice)
    assert (job.status, job.error_code) == (JobStatus.FAILED, "unknown-system")
    assert "everything as it is" in clone.error_message
    reconcile.reconcile_host(host.pk)
    assert left_on(fake, clone.pk) == [] and not DiskBase.objects.exists()
    assert disagreements() == []
    clone, job = clone_of(source, alice, identity=Identity.KEPT)
    assert job.status == JobStatus.DONE


@pytest.mark.parametrize("call", ["take_snapshot", "make_base", "remove_identity", "create_disk", "define", "start"])
def test_a_clone_that_cannot_be_made_leaves_its_original_as_it_was(
    built: Built, alice: User, fake: FakeHost, host: Host, call: str
) -> None:
    source = built()
    fake.fail_next(call, StorageFullError("The host's storage is full."))
    clone, job = clone_of(source, alice)
    assert (job.status, clone.status, source.task) == (JobStatus.FAILED, Status.ERROR, Task.NONE)
    reconcile.reconcile_host(host.pk)
    assert disagreements() == []
    work_on(services.request_delete(clone, actor=alice))
    work_on(services.request_delete(source, actor=alice))
    assert_nothing_left(clone)


def test_a_snapshot_that_could_not_be_removed_is_removed_when_the_host_is_back(
    built: Built, alice: User, fake: FakeHost, host: Host
) -> None:
    source = built()
    fake.fail_next("make_base", StorageFullError("full"))
    fake.fail_next("delete_snapshot", HostUnreachableError("gone"), times=2)
    clone_of(source, alice)
    copy = DiskCopy.objects.get()
    assert copy.is_frozen and copy.pk in fake.snapshots[source.pk]
    reconcile.reconcile_host(host.pk)
    assert copy.pk in fake.snapshots[source.pk]
    reconcile.reconcile_host(host.pk)
    assert fake.snapshots[source.pk] == {}
    assert disagreements() == []


def test_cloning_is_stopped_on_request(built: Built, alice: User, fake: FakeHost, host: Host) -> None:
    source = built()
    clone = cloning.request_clone(source, actor=alice, wanted=CloneRequest("clone"))
    job = Job.objects.get(target_id=clone.pk)
    jobs.request_cancel(job)
    assert work_on(job).status == JobStatus.CANCELLED
    source.refresh_from_db()
    assert source.task == Task.NONE
    reconcile.reconcile_host(host.pk)
    assert disagreements() == []


def test_an_original_that_is_being_read_is_not_taken_for_abandoned(
    built: Built, alice: User, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = built()
    clone = cloning.request_clone(source, actor=alice, wanted=CloneRequest("clone"))
    monkeypatch.setattr(reconcile, "ORPHAN_TASK_AFTER", -reconcile.ORPHAN_TASK_AFTER)
    reconcile.reconcile_host(host.pk)
    source.refresh_from_db()
    assert source.task == Task.COPYING
    Job.objects.filter(target_id=clone.pk).delete()
    reconcile.reconcile_host(host.pk)
    source.refresh_from_db()
    assert (source.task, DiskCopy.objects.get().holds_source) == (Task.NONE, False)


def test_an_original_can_be_deleted_and_its_linked_clone_lives_on(
    built: Built, alice: User, fake: FakeHost, host: Host
) -> None:
    source = built()
    clone, _job = clone_of(source, alice)
    work_on(services.request_delete(source, actor=alice))
    reconcile.reconcile_host(host.pk)
    assert fake.bases[clone.pk] in fake.images
    assert disagreements() == []
    work_on(services.request_delete(clone, actor=alice))
    reconcile.reconcile_host(host.pk)
    assert set(fake.images) == {source.image_version_id}
    assert disagreements() == []


def test_an_image_of_a_machine_has_nothing_of_its_people_in_it_and_can_be_launched(
    built: Built, alice: User, fake: FakeHost
) -> None:
    source = built()
    version = capturing.request_capture(source, actor=alice, wanted=CaptureRequest(title="Torch"))
    job = work_on(Job.objects.get(target_id=version.pk))
    assert job.status == JobStatus.DONE, job.error_message
    version = ImageVersion.objects.select_related("image").get(pk=version.pk)
    assert (version.status, version.virtual_size_bytes) == (VersionStatus.READY, source.disk_gib << 30)
    assert version.path.stat().st_size == version.size_bytes and len(version.sha256) == 64
    assert fake.without_identity == {version.pk: True} and fake.images[version.pk].base is None
    assert disagreements() == []
    assert source.flavour is not None
    launched = services.request_machine(
        source.project, actor=alice, image_version=version, flavour=source.flavour, name="lamp", login_user="alice"
    )
    assert work_on(Job.objects.get(target_id=launched.pk)).status == JobStatus.DONE


def test_a_rebuilt_machine_keeps_name_and_mac_and_has_a_new_disk(
    built: Built, alice: User, fake: FakeHost, image_version: ImageVersion
) -> None:
    machine = built()
    before = (machine.name, machine.mac)
    fake.without_identity[machine.pk] = True  # As a mark in its disk.
    fake.snapshots[machine.pk] = {}
    job = work_on(rebuilding.request_rebuild(machine, actor=alice, version=image_version, confirmed=machine.name))
    assert job.status == JobStatus.DONE, job.error_message
    machine.refresh_from_db()
    assert (machine.name, machine.mac) == before
    assert (machine.power_state, machine.next_version) == (PowerState.RUNNING, None)
    assert machine.pk not in fake.without_identity
    assert fake.domains[machine.pk].spec.nics[0].mac == machine.mac
    assert disagreements() == []


def test_what_cannot_be_rebuilt_for_want_of_the_image_is_left_as_it_was(
    built: Built, alice: User, fake: FakeHost, image_version: ImageVersion
) -> None:
    machine = built()
    request = rebuilding.request_rebuild(machine, actor=alice, version=image_version, confirmed=machine.name)
    ImageVersion.objects.update(status=VersionStatus.DELETING)
    job = work_on(request)
    machine.refresh_from_db()
    assert job.status == JobStatus.FAILED and "left as it was" in job.error_message
    assert (machine.task, machine.power_state, fake.domains[machine.pk].starts) == (Task.NONE, PowerState.RUNNING, 1)
