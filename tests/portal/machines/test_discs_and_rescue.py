"""Discs in drives, machines made from an ISO, rescue and back: what can be asked for, and what is refused in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event as Audit
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, PortalError
from portal.events.models import Event
from portal.hosts.models import Host
from portal.images import services as images
from portal.images.models import Image, ImageVersion, Source, VersionStatus
from portal.isos.models import Iso, Role, Status
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.lib.secrets import seal, unseal
from portal.machines import (
    access,
    cards,
    discs,
    disks,
    hibernation,
    installing,
    rescue,
    resizing,
    selectors,
    services,
)
from portal.machines.models import Disc, Firmware, Flavour, Machine
from portal.machines.states import PowerState, Task
from portal.machines.states import Status as MachineStatus


@pytest.fixture
def iso(project: Project) -> Iso:
    return Iso.objects.create(project=project, name="Debian 12", status=Status.READY, size_bytes=1)


@pytest.fixture
def drivers(db: None) -> Iso:
    return Iso.objects.create(name="virtio-win", role=Role.DRIVERS, status=Status.READY, size_bytes=1)


@pytest.fixture
def other_version(project: Project) -> ImageVersion:
    image = Image.objects.create(slug="rescue", title="Rescue", source=Source.UPLOAD, project=project)
    return ImageVersion.objects.create(image=image, number=1, status=VersionStatus.READY)


# --- drives -------------------------------------------------------------------------------------------------------


def test_a_disc_goes_into_the_first_empty_drive_and_out_again(alice: User, machine: Machine, iso: Iso) -> None:
    job = discs.request_insert(machine, actor=alice, iso=iso)
    assert (job.name, machine.discs.get().slot) == (JobName.DISC_INSERT, 0)
    assert discs.request_insert(machine, actor=alice, iso=iso) == job, "the same again, while it is under way"
    discs.record_inserted(machine)
    Job.objects.all().delete()
    discs.request_insert(machine, actor=alice, iso=iso)
    discs.record_inserted(machine)
    Job.objects.all().delete()
    assert sorted(machine.discs.values_list("slot", flat=True)) == [0, 1]
    with pytest.raises(ConflictError, match="already"):
        discs.request_insert(machine, actor=alice, iso=iso)
    disc = machine.discs.get(slot=1)
    discs.request_eject(machine, actor=alice, disc=disc.pk, force=True)
    assert machine.discs.get(slot=1).force
    discs.record_ejected(machine)
    machine.refresh_from_db()
    assert (machine.discs.count(), machine.task) == (1, Task.NONE)


def test_a_disc_that_the_guest_keeps_is_still_there(alice: User, machine: Machine, iso: Iso) -> None:
    disc = Disc.objects.create(machine=machine, slot=0, iso=iso)
    discs.request_eject(machine, actor=alice, disc=disc.pk)
    discs.record_not_ejected(machine, message="The guest keeps the drive shut.")
    machine.refresh_from_db()
    assert (machine.discs.get().task, machine.error_message) == ("", "The guest keeps the drive shut.")


def test_discs_of_other_projects_and_of_other_machines_are_not_there(
    alice: User, charlie: User, machine: Machine, iso: Iso
) -> None:
    theirs = Iso.objects.create(project=charlie.memberships.get().project, name="theirs", status=Status.READY)
    with pytest.raises(NotFoundError):
        discs.request_insert(machine, actor=alice, iso=theirs)
    with pytest.raises(NotFoundError):
        discs.request_eject(machine, actor=alice, disc=uuid4())
    assert not machine.discs.exists()


def test_what_is_not_ready_or_no_drive_is_refused(alice: User, machine: Machine, iso: Iso) -> None:
    Iso.objects.update(status=Status.CHECKING)
    with pytest.raises(ConflictError):
        discs.request_insert(machine, actor=alice, iso=iso)
    Iso.objects.update(status=Status.READY)
    with pytest.raises(InvalidError):
        discs.request_insert(machine, actor=alice, iso=iso, slot=2)
    machine.refresh_from_db()
    assert machine.task == Task.NONE


def test_a_hibernated_machine_keeps_its_drives_as_they_are(alice: User, machine: Machine, iso: Iso) -> None:
    Machine.objects.update(power_state=PowerState.SHUT_OFF, saved_at=timezone.now())
    with pytest.raises(ConflictError, match="hibernated"):
        discs.request_insert(machine, actor=alice, iso=iso)


def test_what_is_tried_first_is_said_and_written_down(alice: User, vera: User, machine: Machine) -> None:
    for _twice in range(2):
        discs.set_boot_disc(machine, actor=alice, first=True)
    machine.refresh_from_db()
    assert machine.boot_disc
    assert Audit.objects.filter(action="disc.first").count() == 1
    with pytest.raises(ForbiddenError):
        discs.set_boot_disc(machine, actor=vera, first=False)


# --- from an ISO --------------------------------------------------------------------------------------------------


def test_a_machine_from_an_iso(
    alice: User, project: Project, host: Host, flavour: Flavour, iso: Iso, drivers: Iso
) -> None:
    key = uuid4()
    wanted: dict[str, Any] = {"actor": alice, "flavour": flavour, "disk_gib": 23, "name": "windows"}
    machine = installing.request_install(
        project, iso=iso, drivers=drivers, firmware=Firmware.UEFI_SECURE, tpm=True, request_key=key, **wanted
    )
    assert installing.request_install(project, iso=iso, request_key=key, **wanted) == machine
    assert (machine.iso_name, machine.firmware, machine.tpm) == ("Debian 12", "uefi_secure", True)
    assert [disc.iso for disc in machine.discs.order_by("slot")] == [iso, drivers]
    job = Job.objects.get()
    assert (job.name, machine.image_version, machine.login_user) == (JobName.MACHINE_INSTALL, None, "")
    project.refresh_from_db()
    host.refresh_from_db()
    assert (project.used_disk_gib, host.reserved_disk_gib, project.used_vcpus) == (23, 23, flavour.vcpus)
    with pytest.raises(ConflictError):
        installing.request_install(project, iso=iso, request_key=uuid4(), **wanted)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"name": "Not A Host"}, "name"), ({"disk_gib": 0}, "disk_gib"), ({"disk_gib": 70_000}, "disk_gib")],
)
def test_what_cannot_be_is_refused_at_its_field(
    alice: User, project: Project, host: Host, flavour: Flavour, iso: Iso, change: dict[str, object], field: str
) -> None:
    wanted: dict[str, Any] = {"flavour": flavour, "disk_gib": 8, "name": "lamp", **change}
    with pytest.raises(InvalidError) as caught:
        installing.request_install(project, actor=alice, iso=iso, **wanted)
    assert caught.value.field == field
    project.refresh_from_db()
    assert (project.used_machines, Machine.objects.count()) == (0, 0)


def test_building_it_again_installs_it_again(
    alice: User, project: Project, host: Host, flavour: Flavour, iso: Iso
) -> None:
    machine = installing.request_install(project, actor=alice, iso=iso, flavour=flavour, disk_gib=8, name="lamp")
    services.record_build_failed(machine, message="No room.")
    Job.objects.all().delete()
    assert services.request_retry(machine, actor=alice).name == JobName.MACHINE_INSTALL


def test_the_page_for_it(client: Client, alice: User, project: Project, host: Host, flavour: Flavour) -> None:
    page = reverse("machines:new-iso")
    client.force_login(alice)
    assert "There is no ISO to install from yet" in client.get(page).content.decode()
    iso = Iso.objects.create(project=project, name="Debian 12", status=Status.READY)
    text = client.get(page, {"iso": str(iso.pk)}).content.decode()
    assert re.search(rf'value="{iso.pk}" required checked', text)
    form = {
        "project": project.pk,
        "iso": iso.pk,
        "flavour": flavour.pk,
        "disk_gib": "12",
        "name": "lamp",
        "kind": "server",
        "firmware": "uefi_secure",
        "tpm": "on",
        "request_key": uuid4(),
    }
    assert client.post(page, form | {"disk_gib": "0"}).status_code == 422
    assert client.post(page, form).status_code == 302
    machine = Machine.objects.get()
    assert (machine.disk_gib, machine.firmware, machine.tpm, machine.kind) == (12, "uefi_secure", True, "server")
    text = client.get(reverse("machines:detail", args=[machine.pk])).content.decode()
    assert "installed from this ISO" in text and "UEFI with Secure Boot" in text and "TPM 2.0" in text


# --- rescue -------------------------------------------------------------------------------------------------------


def test_rescue_has_a_password_of_its_own_and_is_over_without_a_trace(
    alice: User, machine: Machine, other_version: ImageVersion
) -> None:
    job = rescue.request_rescue(machine, actor=alice, image_version=other_version)
    assert job.name == JobName.MACHINE_RESCUE
    machine.refresh_from_db()
    assert machine.is_in_rescue and unseal(machine.rescue_password)
    assert rescue.request_rescue(machine, actor=alice, image_version=other_version) == job
    rescue.record_begun(machine)
    rescue.record_rescued(machine)
    Job.objects.all().delete()
    machine.refresh_from_db()
    assert (machine.task, machine.rescued_at is not None) == (Task.NONE, True)
    assert rescue.request_unrescue(machine, actor=alice).name == JobName.MACHINE_UNRESCUE
    rescue.record_own_disk(machine)
    rescue.record_back(machine)
    machine.refresh_from_db()
    assert (machine.is_in_rescue, machine.rescue_password, machine.rescued_at, machine.task) == (False, "", None, "")
    kinds = list(Event.objects.filter(subject_type="machine").order_by("pk").values_list("kind", flat=True))
    assert kinds == ["machine.rescued", "machine.back"]


def test_a_rescue_that_failed_before_its_definition_changed_is_none(
    alice: User, machine: Machine, other_version: ImageVersion
) -> None:
    rescue.request_rescue(machine, actor=alice, image_version=other_version)
    rescue.record_not_rescued(machine, message="No room.")
    machine.refresh_from_db()
    assert (machine.is_in_rescue, machine.task, machine.error_message) == (False, Task.NONE, "No room.")


def test_one_that_could_not_be_taken_back_says_that_it_is_in_rescue(
    alice: User, machine: Machine, other_version: ImageVersion
) -> None:
    """Its host was away: nobody could define it as it was."""
    rescue.request_rescue(machine, actor=alice, image_version=other_version)
    rescue.record_begun(machine)
    rescue.record_not_rescued(machine, message="The host is away.")
    machine.refresh_from_db()
    assert (machine.is_in_rescue, machine.task) == (True, Task.NONE)
    assert "unrescue" in selectors.allowed_actions(alice, machine)


REFUSED: dict[str, Callable[[Machine, User], object]] = {
    "resize": lambda machine, alice: resizing.request_resize(machine, actor=alice, flavour=_larger()),
    "hibernate": lambda machine, alice: hibernation.request_hibernate(machine, actor=alice),
    "new disk": lambda machine, alice: disks.request_new_disk(machine, actor=alice, name="data", size_gib=1),
    "card": lambda machine, alice: cards.request_card(machine, actor=alice),
    "password": lambda machine, alice: access.request_password(machine, actor=alice),
    "disc": lambda machine, alice: discs.request_insert(machine, actor=alice, iso=_any_iso()),
    "rescue": lambda machine, alice: rescue.request_rescue(machine, actor=alice, iso=_any_iso()),
}


def _larger() -> Flavour:
    return Flavour.objects.create(name="larger", title="Larger", vcpus=2, memory_mib=2048, disk_gib=10)


def _any_iso() -> Iso:
    return Iso.objects.get_or_create(name="any", defaults={"status": Status.READY})[0]


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_no_sense_in_rescue_is_refused_in_words(
    alice: User, machine: Machine, other_version: ImageVersion, what: str
) -> None:
    Machine.objects.update(rescue_version=other_version, rescued_at=timezone.now())
    machine.refresh_from_db()
    with pytest.raises(ConflictError, match="rescue system"):
        REFUSED[what](machine, alice)
    machine.refresh_from_db()
    assert machine.task == Task.NONE


def test_it_can_be_switched_on_and_off_in_rescue(alice: User, machine: Machine, other_version: ImageVersion) -> None:
    Machine.objects.update(rescue_version=other_version, rescued_at=timezone.now())
    for request in (services.request_stop, services.request_reset, services.request_reboot, services.request_pause):
        Machine.objects.update(task=Task.NONE)
        Job.objects.all().delete()
        assert request(machine, actor=alice).target_id == machine.pk


def test_its_own_version_cannot_rescue_it(alice: User, machine: Machine, image_version: ImageVersion) -> None:
    with pytest.raises(ConflictError, match="this very version"):
        rescue.request_rescue(machine, actor=alice, image_version=image_version)


def test_who_may_not_make_machines_may_not_rescue_them(vera: User, machine: Machine, iso: Iso) -> None:
    with pytest.raises(PortalError):
        rescue.request_rescue(machine, actor=vera, iso=iso)


def test_a_machine_that_somebody_else_defined_is_left_as_it_is(alice: User, machine: Machine, iso: Iso) -> None:
    Machine.objects.update(keeps_definition=True)
    machine.refresh_from_db()
    for ask in (
        lambda: rescue.request_rescue(machine, actor=alice, iso=iso),
        lambda: discs.request_insert(machine, actor=alice, iso=iso),
        lambda: discs.set_boot_disc(machine, actor=alice, first=True),
    ):
        with pytest.raises(ConflictError):
            ask()


def test_what_a_machine_is_rescued_by_is_not_deleted(
    operator: User, machine: Machine, other_version: ImageVersion
) -> None:
    Machine.objects.update(rescue_version=other_version)
    with pytest.raises(ConflictError, match="in rescue"):
        images.request_delete_version(other_version, actor=operator)


def test_the_pages_say_that_it_is_in_rescue_and_how_to_get_back(
    client: Client, alice: User, vera: User, machine: Machine, other_version: ImageVersion
) -> None:
    client.force_login(alice)
    page = client.get(reverse("machines:rescue", args=[machine.pk])).content.decode()
    assert str(other_version.pk) in page and str(machine.image_version_id) not in page
    assert client.post(reverse("machines:rescue", args=[machine.pk]), {"system": str(uuid4())}).status_code == 422
    Machine.objects.update(rescue_version=other_version, rescued_at=timezone.now(), rescue_password=seal("rescue-word"))
    detail = reverse("machines:detail", args=[machine.pk])
    text = client.get(detail).content.decode()
    assert 'id="in-rescue"' in text and reverse("machines:unrescue", args=[machine.pk]) in text
    assert "virtio-machine-disk" in text and "rescue-word" not in text
    assert "In rescue" in client.get(reverse("machines:list")).content.decode()
    secret = reverse("machines:rescue-secret", args=[machine.pk])
    answer = client.post(secret)
    assert "rescue-word" in answer.content.decode() and "no-store" in answer["Cache-Control"]
    assert Audit.objects.filter(action="machine.rescue_secret").count() == 1
    client.force_login(vera)
    text = client.get(detail).content.decode()
    assert 'id="in-rescue"' in text and reverse("machines:unrescue", args=[machine.pk]) not in text
    assert client.post(secret).status_code == 403


def test_deleted_in_rescue_nothing_of_it_is_kept(machine: Machine, other_version: ImageVersion) -> None:
    rescued = {"rescue_version": other_version, "rescue_password": "sealed", "rescued_at": timezone.now()}
    Machine.objects.update(holds_quota=False, **rescued)
    machine.refresh_from_db()
    services.record_deleted(machine)
    machine.refresh_from_db()
    assert (machine.status, machine.is_in_rescue, machine.rescue_password) == (MachineStatus.DELETED, False, "")
