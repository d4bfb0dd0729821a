"""Uploading a disk: what is taken, what is refused at which field, and that nothing is left of what was refused."""

from __future__ import annotations

import errno
from io import FileIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.images.models import Image, ImageVersion, VersionStatus
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName

UPLOAD = reverse("images:upload")
JSON = {"Accept": "application/json"}
DISK = b"QFI\xfb" + b"\0" * 5000


@pytest.fixture(autouse=True)
def _spool(tmp_path: Path, settings: Settings) -> None:
    """Where Django keeps an upload until it is put away, and where the portal keeps it then."""
    spool = tmp_path / "spool"
    spool.mkdir()
    settings.FILE_UPLOAD_TEMP_DIR = spool


def form(project: Project | None, content: bytes = DISK, **values: object) -> dict[str, Any]:
    return {
        "title": "Lab disk",
        "owner": str(project.pk) if project else "everyone",
        "kind": "server",
        "firmware": "uefi",
        "file": SimpleUploadedFile("lab disk.qcow2", content),
    } | values


def kept() -> list[Path]:
    return [path for folder in (settings.UPLOADS_DIR, settings.FILE_UPLOAD_TEMP_DIR) for path in Path(folder).glob("*")]


def assert_nothing_is_left() -> None:
    assert kept() == []
    assert not Image.objects.exists()
    assert not Job.objects.exists()
    assert not Event.objects.exists()


def test_a_good_upload_is_kept_and_given_to_a_worker(client: Client, project: Project, bob: User) -> None:
    client.force_login(bob)
    answer = client.post(UPLOAD, form(project))
    version = ImageVersion.objects.get()
    assert answer.status_code == 302
    assert answer["Location"] == reverse("images:detail", args=[version.image_id])
    assert [path.read_bytes() for path in kept()] == [DISK]
    assert kept() == [version.upload_path]
    assert (version.status, version.firmware, version.upload_name) == (VersionStatus.BUILDING, "uefi", "lab disk.qcow2")
    assert (version.image.project, version.image.created_by) == (project, bob)
    job = Job.objects.get()
    assert (job.name, job.target_id, job.project) == (JobName.IMAGE_IMPORT, version.pk, project)
    event = Event.objects.get()
    assert (event.action, event.actor, event.project) == ("image.uploaded", bob, project)


def test_a_script_is_told_where_to_go(client: Client, project: Project, bob: User) -> None:
    client.force_login(bob)
    answer = client.post(UPLOAD, form(project), headers=JSON)
    assert answer.status_code == 201
    assert answer.json() == {"url": reverse("images:detail", args=[Image.objects.get().pk])}


def test_an_empty_file_is_refused_at_its_field(client: Client, project: Project, bob: User) -> None:
    client.force_login(bob)
    answer = client.post(UPLOAD, form(project, b""))
    assert answer.status_code == 422
    assert answer.context["form"].errors.keys() == {"file"}
    assert 'id="id_file_error"' in answer.content.decode()
    assert 'value="Lab disk"' in answer.content.decode()  # What was typed is there still.
    assert_nothing_is_left()


def test_a_file_that_is_too_large_is_refused_at_its_field(
    client: Client, project: Project, bob: User, settings: Settings
) -> None:
    settings.IMAGE_MAX_UPLOAD_BYTES = 1024
    client.force_login(bob)
    answer = client.post(UPLOAD, form(project), headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["errors"].keys() == {"file"}
    assert_nothing_is_left()


def test_no_file_at_all_is_refused_at_its_field(client: Client, project: Project, bob: User) -> None:
    client.force_login(bob)
    values = form(project)
    del values["file"]
    answer = client.post(UPLOAD, values)
    assert answer.status_code == 422
    assert answer.context["form"].errors.keys() == {"file"}
    assert_nothing_is_left()


@pytest.mark.parametrize(
    ("field", "value"), [("title", ""), ("title", "x" * 101), ("kind", "toaster"), ("firmware", "openfirmware")]
)
def test_what_cannot_be_is_refused_at_its_field(
    client: Client, project: Project, bob: User, field: str, value: str
) -> None:
    client.force_login(bob)
    answer = client.post(UPLOAD, form(project) | {field: value})
    assert answer.status_code == 422
    assert answer.context["form"].errors.keys() == {field}
    assert_nothing_is_left()


class FullDisk(FileIO):
    def write(self, chunk: object, /) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_behind(
    client: Client, project: Project, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = Path.open

    def open_on_full_disk(path: Path, *args: Any, **values: Any) -> Any:
        return FullDisk(path, "xb") if path.suffix == ".upload" else real_open(path, *args, **values)

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    client.force_login(bob)
    answer = client.post(UPLOAD, form(project))
    assert answer.status_code == 422
    assert answer.context["form"].errors.keys() == {"file"}
    monkeypatch.undo()
    assert_nothing_is_left()


def test_a_failure_after_the_file_was_put_away_takes_it_away(client: Client, project: Project, bob: User) -> None:
    client.force_login(bob)
    client.raise_request_exception = False
    with patch.object(jobs, "enqueue", side_effect=RuntimeError("database is gone")):
        assert client.post(UPLOAD, form(project)).status_code == 500
    assert_nothing_is_left()


def test_people_add_images_only_where_they_may(
    client: Client, project: Project, bob: User, vera: User, charlie: User, operator: User
) -> None:
    client.force_login(vera)
    assert client.get(UPLOAD).status_code == 403
    assert client.post(UPLOAD, form(project)).status_code == 403
    client.force_login(charlie)
    assert client.post(UPLOAD, form(project)).status_code == 422  # He cannot choose what he does not see.
    client.force_login(bob)
    assert client.post(UPLOAD, form(None)).status_code == 422  # Only operators add images for everyone.
    assert_nothing_is_left()
    client.force_login(operator)
    assert client.post(UPLOAD, form(None)).status_code == 302
    assert Image.objects.get().project is None


def test_the_limits_are_said_before_a_file_is_chosen(
    client: Client, project: Project, bob: User, settings: Settings
) -> None:
    settings.IMAGE_MAX_UPLOAD_BYTES = 3 * 1024**3
    settings.IMAGE_MAX_VIRTUAL_BYTES = 77 * 1024**3
    client.force_login(bob)
    text = client.get(UPLOAD).content.decode()
    assert "At most 3 GiB to upload" in text
    assert "At most 77 GiB" in text
    assert f'data-most-bytes="{3 * 1024**3}"' in text


def test_the_name_of_a_file_is_never_a_path(client: Client, project: Project, bob: User) -> None:
    client.force_login(bob)
    client.post(UPLOAD, form(project, file=SimpleUploadedFile("../../etc/<b>x</b>.img", DISK)))
    version = ImageVersion.objects.get()
    assert "/" not in version.upload_name
    assert kept() == [version.upload_path]
    text = client.get(reverse("images:detail", args=[version.image_id])).content.decode()
    assert "<b>x" not in text
