"""Making, importing and deleting image versions, with the real importer and a host in memory."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from portal.accounts.models import Project, User
from portal.errors import ConflictError
from portal.hosts.models import Host
from portal.images import services
from portal.images.models import Image, ImageVersion, Kind, VersionStatus
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.machines.models import Machine
from tests.workers.support import fake_of, work_on, write_image
from workers.imaging.errors import ImageBuildError
from workers.imaging.facts import ImageFacts
from workers.workflows import images

Upload = Callable[..., tuple[ImageVersion, Job]]


@pytest.fixture
def upload(alice: User, project: Project, host: Host) -> Upload:
    def upload(content: bytes, name: str = "disk.qcow2") -> tuple[ImageVersion, Job]:
        version = services.add_upload(
            SimpleUploadedFile(name, content), actor=alice, title="Mine", kind=Kind.SERVER, project=project
        )
        return version, Job.objects.get(target_id=version.pk)

    return upload


@pytest.fixture
def qcow2(tmp_path: Path) -> bytes:
    """A whole disk of 8 MiB with a boot sector, as a vendor would give it."""
    raw, disk = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(b"\0" * 510 + b"\x55\xaa" + bytes(range(256)) * 2 + b"\0" * (8 * 1024**2 - 1024))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk], check=True)
    return disk.read_bytes()


@pytest.mark.parametrize("name", ["a.img", "a.raw", "a", "A.QCOW2", "../../etc/passwd", "a\nb"])
def test_a_good_disk_is_taken_whatever_its_name(upload: Upload, qcow2: bytes, host: Host, name: str) -> None:
    version, job = upload(qcow2, name)
    assert work_on(job).status == JobStatus.DONE
    version.refresh_from_db()
    assert version.status == VersionStatus.READY
    assert version.virtual_size_bytes == 8 * 1024**2
    assert len(version.sha256) == len(version.upload_sha256) == 64
    assert version.path.is_file()
    assert not version.upload_path.exists()
    assert version.pk in fake_of(host).images, "the first launch need not wait for the copy"


@pytest.mark.parametrize("content", [b"QFI", b"QFI\xfb" + b"\0" * 200, b"\x1f\x8b\x08" + b"\0" * 600, b"hello" * 1000])
def test_what_is_no_disk_is_refused_with_a_reason_and_leaves_no_file(upload: Upload, content: bytes) -> None:
    version, job = upload(content)
    assert work_on(job).status == JobStatus.FAILED
    version.refresh_from_db()
    assert version.status == VersionStatus.FAILED
    assert len(version.error) > 20
    assert not version.path.exists()
    assert not version.upload_path.exists()
    assert list(version.path.parent.glob("*")) == []


def test_half_an_upload_is_refused(upload: Upload, qcow2: bytes) -> None:
    version, job = upload(qcow2[: len(qcow2) // 2])
    assert work_on(job).status == JobStatus.FAILED
    assert not version.path.exists()


def test_a_failed_upload_can_be_deleted_and_the_image_goes_with_it(upload: Upload, alice: User) -> None:
    version, job = upload(b"hello" * 1000)
    work_on(job)
    version.refresh_from_db()
    assert work_on(services.request_delete_version(version, actor=alice)).status == JobStatus.DONE
    assert not Image.objects.exists()


def test_deleting_a_version_removes_its_files_everywhere(
    image_version: ImageVersion, operator: User, host: Host
) -> None:
    path = write_image(image_version)
    images._put_on_hosts(image_version)
    job = services.request_delete_version(image_version, actor=operator)
    assert services.request_delete_version(image_version, actor=operator) == job
    work_on(job)
    assert not path.exists()
    assert image_version.pk not in fake_of(host).images
    assert not ImageVersion.objects.exists()
    assert Image.objects.exists(), "its recipe can build it again"


def test_a_version_that_machines_are_based_on_is_kept(
    machine: Machine, image_version: ImageVersion, operator: User
) -> None:
    assert machine.image_version == image_version
    with pytest.raises(ConflictError):
        services.request_delete_version(image_version, actor=operator)


def test_a_build_reports_its_progress_and_is_offered_when_it_is_whole(
    image: Image, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def build(_recipe: object, destination: Path, *, scratch: Path, progress: Callable[[int, str], None]) -> ImageFacts:
        progress(40, "Installing packages")
        seen.append(Job.objects.get().steps.get(name="build").detail)
        destination.write_bytes(b"QFI\xfb" + b"\0" * 100)
        return ImageFacts("qcow2", virtual_size_bytes=4, size_bytes=2, sha256="a" * 64)

    monkeypatch.setattr(images, "build_image", build)
    job = services.request_build(image, actor=None)
    assert services.request_build(image, actor=None) == job, "a build under way is not started twice"
    assert work_on(job).status == JobStatus.DONE
    assert seen == ["Installing packages"]
    version = image.versions.get()
    assert (version.status, version.size_bytes, version.sha256) == (VersionStatus.READY, 2, "a" * 64)


def test_a_build_that_fails_says_why_and_can_be_started_again(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> ImageFacts:
        raise ImageBuildError("A package could not be installed.", "the tools' output, with paths")

    monkeypatch.setattr(images, "build_image", broken)
    job = work_on(services.request_build(image, actor=None))
    assert (job.name, job.status, job.error_message) == (
        JobName.IMAGE_BUILD,
        JobStatus.FAILED,
        "A package could not be installed.",
    )
    assert image.versions.get().error == "A package could not be installed."
    assert services.request_build(image, actor=None) != job
