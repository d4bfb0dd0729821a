"""ISOs as rows and pages: who adds and deletes them, what they count, and that one in a drive stays."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.models import Project, User
from portal.audit.models import Event as Audit
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, QuotaExceededError
from portal.events.models import Event
from portal.isos import services
from portal.isos.models import Iso, Role, Status
from portal.isos.selectors import isos_for, isos_in
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.machines.models import Disc, Machine
from portal.uploads import services as uploads
from portal.uploads.models import Upload

UPLOAD = reverse("isos:upload")
GIB = 1024**3


def whole(user: User, size: int = 5) -> UUID:
    upload = uploads.begin(user, name="debian-12.iso", size_bytes=size)
    with upload.path.open("wb") as file:
        file.truncate(size)
    return upload.pk


@pytest.fixture
def iso(project: Project, alice: User) -> Iso:
    return Iso.objects.create(project=project, name="Debian 12", status=Status.READY, size_bytes=1, created_by=alice)


def test_a_whole_upload_becomes_an_iso_that_is_checked(bob: User, project: Project) -> None:
    upload = whole(bob, GIB + 1)
    iso = services.request_iso(upload, actor=bob, name=" Debian 12 ", project=project, sha256="A" * 64)
    assert (iso.pk, iso.name, iso.status, iso.expected_sha256) == (upload, "Debian 12", Status.CHECKING, "a" * 64)
    assert (iso.upload_name, iso.size_bytes, iso.upload_path.is_file()) == ("debian-12.iso", GIB + 1, True)
    assert not Upload.objects.exists()
    job = Job.objects.get()
    assert (job.name, job.target_id, job.queue) == (JobName.ISO_IMPORT, iso.pk, services.QUEUE)
    project.refresh_from_db()
    assert project.used_disk_gib == 2, "rounded up"
    assert Audit.objects.get().action == "iso.uploaded"
    assert services.request_iso(upload, actor=bob, name="again", project=project) == iso
    assert Job.objects.count() == 1


def test_what_does_not_fit_the_quota_keeps_its_upload(bob: User, project: Project) -> None:
    Project.objects.update(max_disk_gib=1)
    upload = whole(bob, GIB + 1)
    with pytest.raises(QuotaExceededError):
        services.request_iso(upload, actor=bob, name="Debian 12", project=project)
    assert Upload.objects.get().is_whole
    assert not Iso.objects.exists()


@pytest.mark.parametrize("sum_", ["a" * 63, "g" * 64, "sha1:" + "a" * 40])
def test_what_is_no_checksum_is_refused(bob: User, project: Project, sum_: str) -> None:
    with pytest.raises(InvalidError) as caught:
        services.request_iso(whole(bob), actor=bob, name="x", project=project, sha256=sum_)
    assert caught.value.field == "sha256"


def test_people_add_isos_only_where_they_may(
    bob: User, vera: User, charlie: User, operator: User, project: Project
) -> None:
    for person, owner in ((vera, project), (charlie, project), (bob, None)):
        with pytest.raises((ForbiddenError, NotFoundError)):
            services.request_iso(uuid4(), actor=person, name="x", project=owner)
    assert services.request_iso(whole(operator), actor=operator, name="x", project=None).holds_quota is False


def test_a_failure_gives_the_quota_back_and_says_why(bob: User, project: Project) -> None:
    iso = services.request_iso(whole(bob), actor=bob, name="x", project=project)
    for _twice in range(2):
        services.record_failed(iso, message="This is no ISO.")
    iso.refresh_from_db()
    project.refresh_from_db()
    assert (iso.status, iso.error, project.used_disk_gib) == (Status.FAILED, "This is no ISO.", 0)
    assert [event.kind for event in Event.objects.filter(subject_type="iso")] == ["iso.failed"]


def test_what_lies_in_a_drive_or_rescues_a_machine_is_not_deleted(alice: User, machine: Machine, iso: Iso) -> None:
    disc = Disc.objects.create(machine=machine, slot=0, iso=iso)
    with pytest.raises(ConflictError):
        services.request_delete(iso, actor=alice)
    iso.refresh_from_db()
    assert iso.status == Status.READY
    disc.delete()
    Machine.objects.update(rescue_iso=iso)
    with pytest.raises(ConflictError):
        services.request_delete(iso, actor=alice)
    Machine.objects.update(rescue_iso=None)
    job = services.request_delete(iso, actor=alice)
    assert services.request_delete(iso, actor=alice) == job
    with pytest.raises(ConflictError):
        services.hold_ready(iso.pk)


def test_only_owners_and_operators_delete(bob: User, operator: User, iso: Iso) -> None:
    with pytest.raises(ForbiddenError):
        services.request_delete(iso, actor=bob)
    services.request_delete(iso, actor=operator)


def test_while_a_host_may_have_a_copy_the_row_stays(iso: Iso, project: Project) -> None:
    Iso.objects.update(status=Status.DELETING)
    services.record_deleted(iso, everywhere=False)
    assert Iso.objects.get().status == Status.DELETING
    services.record_deleted(iso, everywhere=True)
    assert not Iso.objects.exists()


def test_each_sees_everyones_and_ones_own(alice: User, charlie: User, project: Project, iso: Iso) -> None:
    shared = Iso.objects.create(name="virtio-win", status=Status.READY, role=Role.DRIVERS)
    Iso.objects.create(project=project, name="broken", status=Status.FAILED)
    assert {one.name for one in isos_for(alice)} == {"Debian 12", "virtio-win", "broken"}
    assert list(isos_for(charlie)) == [shared]
    assert list(isos_in(alice, project, Role.INSTALLER)) == [iso]


# --- pages --------------------------------------------------------------------------------------------------------


def test_the_page_makes_an_iso_of_what_its_script_has_sent(client: Client, bob: User, project: Project) -> None:
    client.force_login(bob)
    values = {"upload": str(whole(bob)), "name": "Debian <b>12</b>", "owner": str(project.pk), "role": "installer"}
    answer = client.post(UPLOAD, values, headers={"Accept": "application/json"})
    iso = Iso.objects.get()
    assert (answer.status_code, answer.json()) == (201, {"url": reverse("isos:detail", args=[iso.pk])})
    for page in (reverse("isos:list"), reverse("isos:detail", args=[iso.pk])):
        text = client.get(page).content.decode()
        assert "Debian &lt;b&gt;12" in text and "<b>12" not in text


def test_what_is_wrong_stands_at_its_field_and_the_upload_is_kept(client: Client, bob: User, project: Project) -> None:
    client.force_login(bob)
    upload = whole(bob)
    values = {"upload": str(upload), "name": "", "owner": "everyone", "role": "toaster", "sha256": "x"}
    answer = client.post(UPLOAD, values, headers={"Accept": "application/json"})
    assert (answer.status_code, set(answer.json()["errors"])) == (422, {"name", "owner", "role"})
    answer = client.post(UPLOAD, values | {"name": "x", "owner": str(project.pk), "role": "drivers"})
    assert (answer.status_code, set(answer.context["form"].errors)) == (422, {"sha256"})
    assert Upload.objects.get().pk == upload


def test_what_was_begun_is_told_on_the_page(client: Client, bob: User, alice: User, project: Project) -> None:
    uploads.begin(bob, name="half.iso", size_bytes=5)
    uploads.begin(alice, name="hers.iso", size_bytes=5)
    client.force_login(bob)
    for page in (UPLOAD, reverse("isos:list"), reverse("images:upload")):
        text = client.get(page).content.decode()
        assert "half.iso" in text and "hers.iso" not in text


def test_the_page_of_one_says_what_it_is_for_and_why_it_cannot_go(
    client: Client, alice: User, vera: User, machine: Machine, iso: Iso
) -> None:
    page = reverse("isos:detail", args=[iso.pk])
    client.force_login(alice)
    text = client.get(page).content.decode()
    assert reverse("machines:new-iso") in text and reverse("isos:delete", args=[iso.pk]) in text
    Disc.objects.create(machine=machine, slot=0, iso=iso)
    text = client.get(page).content.decode()
    assert "drive of 1 machine" in text and reverse("isos:delete", args=[iso.pk]) not in text
    client.force_login(vera)
    text = client.get(page).content.decode()
    assert reverse("machines:new-iso") not in text and "Delete this ISO" not in text
