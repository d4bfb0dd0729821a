"""Checking and deleting ISOs, and what becomes of discs and rescue when things go wrong, on hosts in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.isos import services as isos
from portal.isos.models import Iso, Status
from portal.jobs.models import Job
from portal.jobs.names import JobName, StepName
from portal.machines import discs, rescue, services
from portal.machines.models import Disc, Machine
from portal.machines.states import PowerState
from portal.uploads import services as uploads
from tests.integration.crash.steps import step_replaced
from tests.support.agreement import disagreements
from tests.workers.support import work_on
from workers import reconcile
from workers.hypervisor.errors import HostUnreachableError, StorageFullError
from workers.hypervisor.fake import FakeHost
from workers.hypervisor.types import VolumeInfo
from workers.workflows import discs as disc_work
from workers.workflows.base import Context

ISO_9660 = bytes(16 * 2048) + b"\1CD001\1" + bytes(2041)
UDF = bytes(16 * 2048) + b"\0BEA01\1" + bytes(2041)


def arrived(alice: User, project: Project, content: bytes, sha256: str = "") -> tuple[Iso, Job]:
    upload = uploads.begin(alice, name="disc.iso", size_bytes=len(content))
    upload.path.write_bytes(content)
    iso = isos.request_iso(upload.pk, actor=alice, name="Disc", project=project, sha256=sha256)
    return iso, Job.objects.get(target_id=iso.pk)


@pytest.fixture
def ready(alice: User, project: Project) -> Iso:
    iso, job = arrived(alice, project, ISO_9660)
    work_on(job)
    iso.refresh_from_db()
    assert iso.status == Status.READY, iso.error
    return iso


@pytest.mark.parametrize("content", [ISO_9660, UDF, b"QFI\xfb" + ISO_9660[4:]], ids=["iso", "udf", "also-qcow2"])
def test_a_disc_is_kept_as_it_came(alice: User, project: Project, content: bytes) -> None:
    sum_ = hashlib.sha256(content).hexdigest()
    iso, job = arrived(alice, project, content, sum_)
    work_on(job)
    iso.refresh_from_db()
    assert (iso.status, iso.sha256, iso.path.read_bytes()) == (Status.READY, sum_, content)
    assert not iso.upload_path.exists()
    assert disagreements() == []


def test_another_checksum_than_was_said_is_refused(alice: User, project: Project) -> None:
    iso, job = arrived(alice, project, ISO_9660, "0" * 64)
    work_on(job)
    iso.refresh_from_db()
    assert iso.status == Status.FAILED and hashlib.sha256(ISO_9660).hexdigest() in iso.error
    assert disagreements() == []


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        bytes(64 * 1024),
        # A disk that is read from another file of the host, and a description of one.
        b"QFI\xfb\0\0\0\3" + (1024).to_bytes(8, "big") + b"\0\0\0\x0b" + b"/etc/passwd" + bytes(64 * 1024),
        b'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 1 FLAT "/etc/passwd" 0\n' + bytes(64 * 1024),
    ],
    ids=["tiny", "empty", "qcow2", "vmdk"],
)
def test_what_is_no_disc_is_refused(alice: User, project: Project, content: bytes) -> None:
    iso, job = arrived(alice, project, content)
    work_on(job)
    iso.refresh_from_db()
    assert iso.status == Status.FAILED and "no ISO" in iso.error
    assert disagreements() == []


def test_a_link_in_the_files_place_is_not_read(alice: User, project: Project, tmp_path: Path) -> None:
    iso, job = arrived(alice, project, ISO_9660)
    (tmp_path / "canary").write_bytes(ISO_9660)
    iso.upload_path.unlink()
    iso.upload_path.symlink_to(tmp_path / "canary")
    work_on(job)
    iso.refresh_from_db()
    assert (iso.status, iso.sha256) == (Status.FAILED, "")


def test_a_copy_on_a_host_that_was_away_is_removed_when_it_is_back(
    alice: User, ready: Iso, host: Host, fake: FakeHost
) -> None:
    fake.isos[ready.pk] = _info(ready)
    job = isos.request_delete(ready, actor=alice)
    fake.fail_next("delete_iso", HostUnreachableError("away"))
    Host.objects.update(last_error="away")
    work_on(job)
    assert Iso.objects.get().status == Status.DELETING
    assert ready.pk in fake.isos
    reconcile.reconcile_host(host.pk)
    assert ready.pk not in fake.isos


def _info(iso: Iso) -> VolumeInfo:
    return VolumeInfo(f"isos/{iso.pk}.iso", None, iso.size_bytes, iso.size_bytes)


# --- drives -------------------------------------------------------------------------------------------------------


def test_a_guest_that_keeps_its_drive_shut_keeps_its_disc_until_it_is_forced(
    built: Callable[[], Machine], alice: User, ready: Iso, fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disc_work, "EJECT_WAIT_S", 0)
    machine = built()
    work_on(discs.request_insert(machine, actor=alice, iso=ready))
    fake.guest(machine.pk).keeps_disc = True
    disc = Disc.objects.get()
    job = work_on(discs.request_eject(machine, actor=alice, disc=disc.pk))
    assert job.error_code == "guest-keeps-disc" and "by force" in job.error_message
    assert disagreements() == []
    work_on(discs.request_eject(machine, actor=alice, disc=disc.pk, force=True))
    assert not Disc.objects.exists()
    assert disagreements() == []


def test_a_host_without_room_for_the_disc_leaves_the_drive_empty(
    built: Callable[[], Machine], alice: User, ready: Iso, fake: FakeHost
) -> None:
    machine = built()
    fake.fail_next("put_iso", StorageFullError("The host has no room."))
    job = work_on(discs.request_insert(machine, actor=alice, iso=ready))
    assert job.error_message == "The host has no room."
    assert not Disc.objects.exists()
    assert disagreements() == []


def test_a_machine_that_is_deleted_frees_its_discs(built: Callable[[], Machine], alice: User, ready: Iso) -> None:
    machine = built()
    work_on(discs.request_insert(machine, actor=alice, iso=ready))
    work_on(services.request_delete(machine, actor=alice))
    work_on(isos.request_delete(ready, actor=alice))
    assert not Iso.objects.exists()
    assert disagreements() == []


# --- rescue -------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(image_version: ImageVersion) -> ImageVersion:
    values = {"status": image_version.status, "virtual_size_bytes": image_version.virtual_size_bytes}
    version = ImageVersion.objects.create(image=image_version.image, number=2, **values)
    image_version.path.parent.mkdir(parents=True, exist_ok=True)
    return version


def in_rescue(machine: Machine, alice: User, system: ImageVersion) -> Machine:
    system.path.write_bytes(machine.image_version.path.read_bytes() if machine.image_version else b"")
    job = work_on(rescue.request_rescue(machine, actor=alice, image_version=system))
    machine.refresh_from_db()
    assert machine.rescued_at is not None, job.error_message
    return machine


def test_it_is_started_and_stopped_in_rescue_and_is_still_in_it(
    built: Callable[[], Machine], alice: User, system: ImageVersion, fake: FakeHost
) -> None:
    machine = in_rescue(built(), alice, system)
    work_on(services.request_force_off(machine, actor=alice))
    machine.refresh_from_db()
    assert machine.is_in_rescue and machine.power_state == PowerState.SHUT_OFF
    work_on(services.request_start(machine, actor=alice))
    live = fake.domains[machine.pk].live
    assert live is not None and live.rescue
    assert disagreements() == []


def test_a_host_that_is_away_while_a_rescue_is_taken_back_leaves_it_in_rescue(
    built: Callable[[], Machine], alice: User, system: ImageVersion, fake: FakeHost
) -> None:
    """What its definition is nobody could change: so the row says what it is, and the way back is open."""
    machine = built()
    system.path.write_bytes(machine.image_version.path.read_bytes() if machine.image_version else b"")

    def breaks(run: Callable[..., None]) -> Callable[[Context[Any]], None]:
        def step(context: Context[Any]) -> None:
            run(context)
            fake.unreachable = True
            raise StorageFullError("It cannot be done.")

        return step

    with step_replaced(JobName.MACHINE_RESCUE, StepName.START, breaks):
        job = work_on(rescue.request_rescue(machine, actor=alice, image_version=system))
    fake.unreachable = False
    machine.refresh_from_db()
    assert (job.error_message, machine.is_in_rescue, machine.task) == ("It cannot be done.", True, "")
    assert disagreements() == []
    work_on(rescue.request_unrescue(machine, actor=alice))
    assert disagreements() == []


def test_back_from_rescue_nothing_of_it_is_left(
    built: Callable[[], Machine], alice: User, system: ImageVersion, fake: FakeHost
) -> None:
    machine = in_rescue(built(), alice, system)
    job = work_on(rescue.request_unrescue(machine, actor=alice))
    machine.refresh_from_db()
    assert (job.error_message, machine.is_in_rescue, machine.power_state) == ("", False, PowerState.RUNNING)
    assert fake.rescues == {}
    assert disagreements() == []


def test_files_of_a_rescue_that_nobody_could_remove_are_removed_later(
    built: Callable[[], Machine], alice: User, system: ImageVersion, fake: FakeHost
) -> None:
    machine = built()
    fake.rescues[machine.pk] = system.pk
    Machine.objects.filter(pk=machine.pk).update(task="stopping", task_since=timezone.now())
    reconcile.reconcile_host(machine.host_id)
    assert machine.pk in fake.rescues, "something is under way"
    Machine.objects.filter(pk=machine.pk).update(task="", task_since=None)
    reconcile.reconcile_host(machine.host_id)
    assert fake.rescues == {}
