"""Clones, images of machines and rebuilding: what is claimed, counted, refused and shown."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.copies import capturing, cloning, rebuilding
from portal.copies.capturing import CaptureRequest
from portal.copies.cloning import CloneRequest
from portal.copies.models import DiskBase, DiskCopy
from portal.copies.states import BaseStatus, Identity
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
from portal.images import services as images
from portal.images.models import Image, ImageVersion, Source, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.lib.secrets import seal, unseal
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task
from portal.snapshots import services as snapshots
from portal.snapshots.models import Snapshot
from portal.snapshots.states import Status as SnapshotStatus
from portal.snapshots.states import Task as SnapshotTask

pytestmark = pytest.mark.django_db


@pytest.fixture
def source(machine: Machine) -> Machine:
    """A machine that is counted, and whose password is known."""
    held = machine.amount
    Project.objects.filter(pk=machine.project_id).update(
        used_machines=1, used_vcpus=held.vcpus, used_memory_mib=held.memory_mib, used_disk_gib=held.disk_gib
    )
    Host.objects.update(reserved_vcpus=held.vcpus, reserved_memory_mib=held.memory_mib, reserved_disk_gib=held.disk_gib)
    Machine.objects.update(login_password=seal("first-password"))
    machine.refresh_from_db()
    return machine


def cloned(source: Machine, actor: User, name: str = "torch", **values: Any) -> Machine:
    source.refresh_from_db()
    return cloning.request_clone(source, actor=actor, wanted=CloneRequest(name, **values))


def let_go(machine: Machine) -> None:
    """As when the worker has read its disk."""
    for copy in DiskCopy.objects.filter(source=machine):
        cloning.release_source(copy)


def taken(machine: Machine, **values: Any) -> Snapshot:
    sizes = {name: getattr(machine, name) for name in ("vcpus", "memory_mib", "disk_gib")}
    ready = {"status": SnapshotStatus.READY, "task": SnapshotTask.NONE}
    return Snapshot.objects.create(machine=machine, name=uuid4().hex[:8], **(ready | sizes | values))


# --- clones ---------------------------------------------------------------------------------------------------------


def test_a_clone_is_counted_before_anything_is_copied_and_is_a_machine_of_its_own(
    source: Machine, alice: User, project: Project
) -> None:
    clone = cloned(source, alice)
    project.refresh_from_db()
    source.refresh_from_db()
    assert (project.used_machines, project.used_disk_gib) == (2, 20)
    assert Host.objects.get().reserved_disk_gib == 20
    assert (source.task, clone.task, clone.status) == (Task.COPYING, Task.BUILDING, Status.REQUESTED)
    same = ("project_id", "host_id", "kind", "image_version_id", "vcpus", "memory_mib", "disk_gib", "login_user")
    assert {name: getattr(clone, name) for name in same} == {name: getattr(source, name) for name in same}
    for name in ("pk", "mac", "genid", "login_password"):
        assert getattr(clone, name) != getattr(source, name), name
    assert clone.cloned_from == source
    job = Job.objects.get(target_id=clone.pk)
    assert (job.name, job.queue) == (JobName.MACHINE_CLONE, source.host.queue)
    assert set(Event.objects.values_list("action", flat=True)) == {"machine.clone", "machine.cloned"}
    [told] = happened.Event.objects.filter(kind="machine.requested")
    assert told.data == {"cloned_from": str(source.pk)}


def test_what_keeps_everything_keeps_the_password_and_is_the_original_to_its_seed(source: Machine, alice: User) -> None:
    clone = cloned(source, alice, identity=Identity.KEPT)
    assert unseal(clone.login_password) == "first-password"
    assert cloning.original_inside(clone) == source
    let_go(source)
    assert cloning.original_inside(cloned(source, alice, "other")).name == "other"


def test_without_room_nothing_is_left_busy(source: Machine, alice: User, project: Project) -> None:
    Project.objects.filter(pk=project.pk).update(max_disk_gib=15)
    with pytest.raises(QuotaExceededError):
        cloned(source, alice)
    Project.objects.filter(pk=project.pk).update(max_disk_gib=60)
    Host.objects.update(reserved_disk_gib=10**6)
    with pytest.raises(NoCapacityError):
        cloned(source, alice)
    Host.objects.update(reserved_disk_gib=10, enabled=False)
    with pytest.raises(NoCapacityError, match="takes no new machines"):
        cloned(source, alice)
    source.refresh_from_db()
    project.refresh_from_db()
    assert (source.task, project.used_machines, DiskCopy.objects.count()) == (Task.NONE, 1, 0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"task": Task.STOPPING}, "is busy"),
        ({"keeps_definition": True}, "Somebody else defined"),
        ({"missing_since": timezone.now()}, "missing"),
        ({"power_state": PowerState.UNKNOWN}, "does not answer"),
        ({"status": Status.ERROR}, "Failed"),
    ],
)
def test_what_cannot_be_read_as_of_one_moment_is_not_copied(
    source: Machine, alice: User, values: dict[str, Any], words: str
) -> None:
    Machine.objects.update(**values)
    with pytest.raises(ConflictError, match=words):
        cloned(source, alice)
    with pytest.raises(ConflictError, match=words):
        capturing.request_capture(source, actor=alice, wanted=CaptureRequest(title="Torch"))
    assert Machine.objects.count() == 1


def test_names_are_checked_and_the_same_request_gives_the_same_clone(source: Machine, alice: User) -> None:
    for name in ("beacon", "No Name"):
        with pytest.raises((ConflictError, InvalidError)) as refused:
            cloned(source, alice, name)
        assert refused.value.field == "name"
    key, wanted = uuid4(), CloneRequest("torch")
    source.refresh_from_db()
    made = [cloning.request_clone(source, actor=alice, wanted=wanted, request_key=key).pk for _ in range(2)]
    assert made[0] == made[1]


def test_a_viewer_and_a_stranger_copy_nothing(source: Machine, vera: User, charlie: User) -> None:
    for person in (vera, charlie):
        with pytest.raises((ForbiddenError, NotFoundError)):
            cloned(source, person)
        with pytest.raises((ForbiddenError, NotFoundError)):
            capturing.request_capture(source, actor=person, wanted=CaptureRequest(title="Torch"))
    source.refresh_from_db()
    assert source.task == Task.NONE


def test_of_a_snapshot_further_linked_clones_take_the_base_that_is_there_and_leave_the_original_alone(
    source: Machine, alice: User
) -> None:
    snapshot = taken(source)
    first = cloned(source, alice, snapshot=snapshot)
    source.refresh_from_db()
    assert source.task == Task.NONE, "it may go on with whatever it does"
    with pytest.raises(ConflictError, match="being copied"):
        snapshots.begin(snapshot, SnapshotTask.DELETING)
    base = DiskBase.objects.get()
    cloning.record_base_ready(base)
    let_go(source)
    cloning.record_cloned(first)
    snapshots.begin(snapshot, SnapshotTask.DELETING)
    Snapshot.objects.update(task=SnapshotTask.NONE)
    second = cloned(source, alice, "lamp", snapshot=snapshot)
    source.refresh_from_db()
    assert (DiskBase.objects.get().copies.count(), source.task) == (2, Task.NONE)
    assert not cloning.copy_behind(second).holds_source
    Project.objects.update(max_machines=9)
    cloned(source, alice, "as-it-was", snapshot=snapshot, identity=Identity.KEPT)
    assert DiskBase.objects.count() == 2, "one without identity was taken for one with it"


def test_a_snapshot_of_a_larger_disk_or_of_another_machine_is_not_cloned(source: Machine, alice: User) -> None:
    with pytest.raises(ConflictError, match="larger"):
        cloned(source, alice, snapshot=taken(source, disk_gib=20))
    other = Machine.objects.create(
        project=source.project, name="x", kind="server", vcpus=1, memory_mib=1, disk_gib=1, host=source.host, mac="x"
    )
    with pytest.raises(NotFoundError):
        cloned(source, alice, snapshot=taken(other))
    gone = taken(source, status=SnapshotStatus.DELETED)
    with pytest.raises(NotFoundError):
        cloned(source, alice, snapshot=gone)
    assert not DiskBase.objects.exists()


def test_a_base_goes_when_nothing_reads_from_it_and_not_before(source: Machine, alice: User, host: Host) -> None:
    clone = cloned(source, alice)
    base = DiskBase.objects.get()
    cloning.record_base_ready(base)
    let_go(source)
    cloning.record_cloned(clone)
    # A clone of the clone: its base reads from the first one.
    clone.refresh_from_db()
    Machine.objects.filter(pk=clone.pk).update(power_state=PowerState.RUNNING)
    child = cloned(clone, alice, "child")
    assert DiskBase.objects.get(parent=base).copies.get().machine == child
    services.record_deleted(clone)
    assert cloning.unneeded_bases(host) == []
    services.record_deleted(child)
    [second] = cloning.unneeded_bases(host)
    assert second.parent == base and second.status == BaseStatus.DELETING
    cloning.record_base_gone(second)
    assert cloning.unneeded_bases(host) == [base]
    cloning.record_base_gone(base)
    assert not DiskBase.objects.exists()


def test_after_so_many_links_a_base_stands_alone(source: Machine, alice: User, host: Host) -> None:
    parent = None
    for _ in range(cloning.MOST_LINKS):
        parent = DiskBase.objects.create(host=host, identity=Identity.NEW, parent=parent, status=BaseStatus.READY)
    original = Machine.objects.create(
        project=source.project, name="x", kind="server", vcpus=1, memory_mib=1, disk_gib=1, host=host, mac="x"
    )
    DiskCopy.objects.create(source=original, machine=source, base=parent)
    clone = cloned(source, alice)
    base = cloning.copy_behind(clone).base
    assert base is not None and (base.is_flat, base.parent) == (True, None)


def test_a_clone_that_failed_is_cloned_again_and_not_built_of_the_image(source: Machine, alice: User) -> None:
    clone = cloned(source, alice)
    cloning.record_clone_failed(clone, message="No room.")
    clone.refresh_from_db()
    source.refresh_from_db()
    assert (clone.status, clone.holds_quota, source.task) == (Status.ERROR, False, Task.NONE)
    with pytest.raises(ConflictError):
        services.request_retry(clone, actor=alice)


# --- images ---------------------------------------------------------------------------------------------------------


def test_an_image_of_a_machine_is_the_projects_and_gets_versions(source: Machine, alice: User, bob: User) -> None:
    version = capturing.request_capture(source, actor=bob, wanted=CaptureRequest(title=" Torch "))
    image = version.image
    assert (image.title, image.project, image.source, version.number) == ("Torch", source.project, Source.MACHINE, 1)
    assert (image.has_agent, image.min_memory_mib) == (True, 512)
    capturing.record_captured(version)
    version.refresh_from_db()
    source.refresh_from_db()
    assert (version.status, source.task) == (VersionStatus.READY, Task.NONE)
    again = capturing.request_capture(source, actor=alice, wanted=CaptureRequest(image=image))
    assert (again.image, again.number) == (image, 2)
    # A double click.
    assert capturing.request_capture(source, actor=alice, wanted=CaptureRequest(image=image)) == again
    assert [job.name for job in Job.objects.all()] == [JobName.IMAGE_CAPTURE] * 2


def test_only_operators_share_with_everyone_and_never_with_the_machines_keys_in_it(
    source: Machine, alice: User, operator: User
) -> None:
    for_all = CaptureRequest(title="Torch", for_everyone=True)
    with pytest.raises(ForbiddenError):
        capturing.request_capture(source, actor=alice, wanted=for_all)
    with pytest.raises(InvalidError) as refused:
        kept = CaptureRequest(title="Torch", for_everyone=True, identity=Identity.KEPT)
        capturing.request_capture(source, actor=operator, wanted=kept)
    assert refused.value.field == "identity"
    assert capturing.request_capture(source, actor=operator, wanted=for_all).image.project is None


def test_images_of_recipes_and_of_other_projects_get_no_version_of_it(
    source: Machine, alice: User, operator: User, charlie: User, image: Image
) -> None:
    elsewhere = charlie.memberships.get().project
    theirs = Image.objects.create(slug="theirs", title="Theirs", source=Source.UPLOAD, project=elsewhere)
    for wanted in (theirs, image):
        with pytest.raises(InvalidError):
            capturing.request_capture(source, actor=operator, wanted=CaptureRequest(image=wanted))
    source.refresh_from_db()
    assert source.task == Task.NONE


# --- rebuilding -----------------------------------------------------------------------------------------------------


def test_it_is_rebuilt_when_its_name_was_typed_and_keeps_what_is_its_own(
    source: Machine, alice: User, image_version: ImageVersion
) -> None:
    for typed in ("", "beaco", "BEACON"):
        with pytest.raises(InvalidError) as refused:
            rebuilding.request_rebuild(source, actor=alice, version=image_version, confirmed=typed)
        assert refused.value.field == "confirm"
    job = rebuilding.request_rebuild(source, actor=alice, version=image_version, confirmed="beacon ")
    assert rebuilding.request_rebuild(source, actor=alice, version=image_version, confirmed="beacon") == job
    source.refresh_from_db()
    assert (job.name, source.task, source.next_version) == (JobName.MACHINE_REBUILD, Task.REBUILDING, image_version)
    kept = (source.name, source.mac, source.disk_gib, unseal(source.login_password))
    with pytest.raises(ConflictError):
        images.request_delete_version(image_version, actor=User.objects.create(username="x", is_staff=True))
    snapshot = taken(source)
    rebuilding.record_renewed(source)
    rebuilding.record_rebuilt(source)
    source.refresh_from_db()
    snapshot.refresh_from_db()
    assert snapshot.status == SnapshotStatus.DELETED, "it was in the disk that is no more"
    assert (source.task, source.next_version, source.image_version) == (Task.NONE, None, image_version)
    assert (source.name, source.mac, source.disk_gib, unseal(source.login_password)) == kept


def test_what_is_protected_foreign_or_too_small_is_not_rebuilt(
    source: Machine, alice: User, bob: User, image_version: ImageVersion, charlie: User
) -> None:
    def refused(*, field: str | None = None, **values: Any) -> None:
        Machine.objects.filter(pk=source.pk).update(**values)
        source.refresh_from_db()
        with pytest.raises((ConflictError, InvalidError)) as caught:
            rebuilding.request_rebuild(source, actor=alice, version=image_version, confirmed=source.name)
        assert caught.value.field == field

    refused(protected=True)
    refused(protected=False, keeps_definition=True)
    refused(keeps_definition=False, memory_mib=128, field="image")
    refused(memory_mib=1024, disk_gib=2, field="image")
    Machine.objects.update(disk_gib=10)
    Image.objects.update(project=charlie.memberships.get().project)
    image_version.refresh_from_db()
    refused(field="image")
    assert not Job.objects.exists()


def test_a_clone_that_is_rebuilt_is_none_any_more(
    source: Machine, alice: User, host: Host, image_version: ImageVersion
) -> None:
    clone = cloned(source, alice)
    cloning.record_base_ready(DiskBase.objects.get())
    cloning.record_cloned(clone)
    Machine.objects.filter(pk=clone.pk).update(power_state=PowerState.RUNNING)
    clone.refresh_from_db()
    rebuilding.request_rebuild(clone, actor=alice, version=image_version, confirmed=clone.name)
    clone.refresh_from_db()
    rebuilding.record_renewed(clone)
    clone.refresh_from_db()
    assert clone.cloned_from is None
    assert len(cloning.unneeded_bases(host)) == 1


# --- pages ----------------------------------------------------------------------------------------------------------


def page(client: Client, name: str, machine: Machine) -> str:
    response = client.get(reverse(name, args=[machine.pk]))
    assert response.status_code == 200
    return response.content.decode()


def test_the_forms_say_what_happens_and_ask_for_it(client: Client, source: Machine, alice: User) -> None:
    client.force_login(alice)
    form = page(client, "copies:clone", source)
    assert 'value="beacon-2"' in form
    assert "runs on" in form
    values = {"name": "beacon-2", "kind": "linked", "identity": "new", "request_key": str(uuid4())}
    answer = client.post(reverse("copies:clone", args=[source.pk]), values)
    clone = Machine.objects.get(name="beacon-2")
    assert answer["Location"] == reverse("machines:detail", args=[clone.pk])
    assert "Cloned from" in page(client, "machines:detail", clone)
    assert "Being copied" in page(client, "machines:detail", source)
    again = client.post(reverse("copies:clone", args=[source.pk]), {**values, "request_key": "", "name": "x"})
    assert again.status_code == 422 and "is busy" in again.content.decode()


def test_the_image_form_offers_the_projects_images_and_says_at_the_field_what_is_wrong(
    client: Client, source: Machine, alice: User, operator: User, image: Image
) -> None:
    mine = Image.objects.create(slug="mine", title="Mine", source=Source.UPLOAD, project=source.project)
    client.force_login(alice)
    form = page(client, "copies:capture", source)
    assert str(mine.pk) in form and str(image.pk) not in form
    assert "everyone" not in form.lower().split("who can use it")[1].split("</fieldset>")[0]
    address = reverse("copies:capture", args=[source.pk])
    wrong = client.post(address, {"image": "new", "title": " ", "owner": "project", "identity": "new"})
    assert wrong.status_code == 422 and not Job.objects.exists()
    client.force_login(operator)
    values = {"image": "new", "title": "Torch", "owner": "everyone", "identity": "kept"}
    assert "cannot have this machine" in client.post(address, values).content.decode()
    made = client.post(address, {**values, "identity": "new"})
    version = ImageVersion.objects.get(image__title="Torch")
    assert made["Location"] == reverse("images:detail", args=[version.image_id])


def test_the_rebuild_form_says_what_is_lost_and_which_images_do_not_fit(
    client: Client, source: Machine, alice: User, image_version: ImageVersion
) -> None:
    large = Image.objects.create(slug="large", title="Large", source=Source.UPLOAD)
    ImageVersion.objects.create(image=large, number=1, status=VersionStatus.READY, virtual_size_bytes=90 << 30)
    client.force_login(alice)
    form = page(client, "copies:rebuild", source)
    assert "lost for good" in form and "needs a disk of at least 90" in form
    address = reverse("copies:rebuild", args=[source.pk])
    wrong = client.post(address, {"image": image_version.pk, "confirm": "torch"})
    assert wrong.status_code == 422 and "Type the machine" in wrong.content.decode()
    right = client.post(address, {"image": image_version.pk, "confirm": "beacon"})
    assert right["Location"] == reverse("machines:detail", args=[source.pk])
    assert Job.objects.get().name == JobName.MACHINE_REBUILD


def test_the_actions_are_shown_to_who_may_and_when_they_can_be(
    client: Client, source: Machine, bob: User, vera: User
) -> None:
    addresses = [reverse(f"copies:{name}", args=[source.pk]) for name in ("clone", "capture", "rebuild")]
    client.force_login(bob)
    shown = page(client, "machines:detail", source)
    assert all(address in shown for address in addresses)
    Machine.objects.update(task=Task.STOPPING)
    shown = page(client, "machines:detail", source)
    assert not any(address in shown for address in addresses)
    Machine.objects.update(task=Task.NONE)
    client.force_login(vera)
    shown = page(client, "machines:detail", source)
    assert not any(address in shown for address in addresses)
