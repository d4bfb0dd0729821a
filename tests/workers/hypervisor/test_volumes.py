"""The folder of volumes on its own, without libvirt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from workers.hypervisor.errors import HypervisorError, StorageFullError, VolumeNotFoundError
from workers.hypervisor.kvm.qcow2 import read_header
from workers.hypervisor.kvm.volumes import VolumeFolder, grow_file
from workers.imaging import qemu_img
from workers.imaging.errors import CommandFailed

MIB = 1 << 20
ROOM = 1 << 40


@pytest.fixture
def volumes(tmp_path: Path) -> VolumeFolder:
    (tmp_path / "volumes").mkdir()
    return VolumeFolder(tmp_path / "volumes")


def fails(words: str) -> Callable[..., None]:
    def fail(*_args: object, **_values: object) -> None:
        raise CommandFailed("qemu-img failed", log_tail=words)

    return fail


def test_a_volume_stands_alone_and_is_nobody_elses_to_read(volumes: VolumeFolder) -> None:
    volume = uuid4()
    volumes.create(volume, 64 * MIB, free_bytes=ROOM)
    path = volumes.path(volume)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_header(path).stands_alone


def test_what_a_killed_worker_left_is_replaced_and_never_listed(volumes: VolumeFolder) -> None:
    volume = uuid4()
    part = volumes.path(volume).with_name(f".{volume}.qcow2.part")
    part.write_bytes(b"half")
    (volumes.folder / "notes.txt").write_text("somebody's")
    (volumes.folder / f"{uuid4()}.qcow2").write_bytes(b"broken")
    (volumes.folder / f"{uuid4()}.qcow2").symlink_to("/etc/passwd")
    assert list(volumes.list()) == []
    volumes.create(volume, 64 * MIB, free_bytes=ROOM)
    assert [info.volume for info in volumes.list()] == [volume]
    assert not part.exists()


@pytest.mark.parametrize(
    ("words", "kind"), [("No space left on device", StorageFullError), ("Killed", HypervisorError)]
)
def test_a_volume_that_cannot_be_made_leaves_nothing_and_tells_no_path(
    volumes: VolumeFolder, monkeypatch: pytest.MonkeyPatch, words: str, kind: type[HypervisorError]
) -> None:
    monkeypatch.setattr(qemu_img, "create_empty", fails(words))
    with pytest.raises(kind) as caught:
        volumes.create(uuid4(), 64 * MIB, free_bytes=ROOM)
    assert str(volumes.folder) not in str(caught.value)
    assert list(volumes.folder.iterdir()) == []


def test_without_room_nothing_is_begun(volumes: VolumeFolder) -> None:
    with pytest.raises(StorageFullError):
        volumes.create(uuid4(), 64 * MIB, free_bytes=MIB)


def test_growing_never_shrinks_and_needs_a_file(volumes: VolumeFolder) -> None:
    volume = uuid4()
    volumes.create(volume, 64 * MIB, free_bytes=ROOM)
    for size, then in ((96 * MIB, 96 * MIB), (MIB, 96 * MIB)):
        grow_file(volumes.path(volume), size)
        assert volumes.info(volume).capacity_bytes == then
    with pytest.raises(VolumeNotFoundError):
        grow_file(volumes.path(uuid4()), MIB)
