"""A parent's files on their own, without libvirt."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.integration.hypervisor.harness import make_parent_spec
from workers.hypervisor.errors import HypervisorError, InvalidOperationError, StorageFullError, VolumeNotFoundError
from workers.hypervisor.kvm.parent_files import FROZEN, ParentFiles, stream_begins_at, write_renamed
from workers.hypervisor.kvm.storage import Storage
from workers.hypervisor.types import ParentSpec
from workers.imaging import qemu_img

GIB = 1 << 30
STREAM = b"QEVM" + bytes(range(256)) * 64


def saved_file(xml: str, *, cookie: bytes = b"", magic: bytes = b"LibvirtQemudSave", stream: bytes = STREAM) -> bytes:
    text = xml.encode() + b"\0"
    numbers = (2, len(text) + len(cookie), 1, 0, len(text) if cookie else 0)
    return struct.pack("<16s19I", magic, *numbers, *[0] * 14) + text + cookie + stream


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return tmp_path / "pool"


@pytest.fixture
def storage(pool: Path) -> Storage:
    storage = Storage(pool, qemu_gid=None)
    storage.prepare()
    return storage


@pytest.fixture
def files(storage: Storage) -> ParentFiles:
    return ParentFiles(storage)


@pytest.fixture
def image(storage: Storage, tmp_path: Path) -> UUID:
    source, version = tmp_path / "image.qcow2", uuid4()
    qemu_img.create_empty(source, size_bytes=GIB)
    storage.put_image(version, source, lambda _percent: None)
    return version


@pytest.fixture
def spec(image: UUID) -> ParentSpec:
    return make_parent_spec(image, disk_bytes=2 * GIB)


def captured(files: ParentFiles, spec: ParentSpec) -> None:
    files.make(spec)
    files.path(spec.uuid, "saved").write_bytes(saved_file("<domain/>"))
    files.keep_state(spec.uuid)
    files.path(spec.uuid, "whole").write_bytes(saved_file("<domain/>"))
    files.finish(spec.uuid, sealed=False)


def test_a_new_parent_has_all_that_its_template_needs(files: ParentFiles, storage: Storage, spec: ParentSpec) -> None:
    for _twice in range(2):
        files.make(spec)
        assert files.path(spec.uuid, "ram").stat().st_size == spec.memory_mib << 20
        assert files.whole(spec.uuid) is None
        info = files.info(spec.uuid, forks=0)
        assert (info.memory_bytes, info.state_bytes, info.captured, info.restorable) == (0, 0, False, False)
        told = files.files(spec.uuid, spec.uuid)
        assert told.bases == (storage.image(spec.image),)
        assert told.disk.is_file()
        assert told.seed.is_file()
        (disk,) = [volume for volume in storage.list_volumes() if volume.name.endswith(f"{spec.uuid}/disk.qcow2")]
        assert (disk.capacity_bytes, disk.base, disk.parent, disk.machine) == (2 * GIB, spec.image, spec.uuid, None)


def test_without_its_image_or_room_nothing_is_made(files: ParentFiles, spec: ParentSpec, image: UUID) -> None:
    with pytest.raises(VolumeNotFoundError):
        files.make(make_parent_spec(uuid4()))
    with pytest.raises(StorageFullError):
        files.make(make_parent_spec(image, memory_mib=1 << 40))
    assert files.note(spec.uuid) is None


def test_a_state_that_is_half_saved_is_none(files: ParentFiles, spec: ParentSpec) -> None:
    files.make(spec)
    saved = files.path(spec.uuid, "saved")
    assert not files.has_state(spec.uuid)
    for content in (b"", b"Libvirt", saved_file("<domain/>", magic=b"LibvirtQemudPart")):
        saved.write_bytes(content)
        assert not files.has_state(spec.uuid)
    saved.write_bytes(saved_file("<domain/>"))
    for _twice in range(2):
        assert files.has_state(spec.uuid)
        files.keep_state(spec.uuid)
        assert files.path(spec.uuid, "state").read_bytes() == STREAM
        assert files.path(spec.uuid, "disk.qcow2").stat().st_mode & 0o7777 == 0o440
        # As it was when a worker was killed before it was frozen.
        files.path(spec.uuid, "disk.qcow2").chmod(0o600)
    assert not saved.exists()
    files.make(spec)
    assert not files.has_state(spec.uuid), "a template that was made anew has the state of the one before"


def test_what_is_no_save_file_is_refused(files: ParentFiles, spec: ParentSpec, tmp_path: Path) -> None:
    for content in (saved_file("<domain/>", stream=b"gzip"), b"LibvirtQemudSave", b""):
        (tmp_path / "saved").write_bytes(content)
        with pytest.raises(HypervisorError):
            stream_begins_at(tmp_path / "saved")


def test_it_is_whole_until_something_is_written_to_it(files: ParentFiles, spec: ParentSpec) -> None:
    captured(files, spec)
    note = files.whole(spec.uuid)
    assert note is not None
    assert (note.vcpus, note.memory_mib, note.disk_bytes, note.image) == (1, 256, 2 * GIB, str(spec.image))
    info = files.info(spec.uuid, forks=3)
    assert (info.captured, info.restorable, info.forks) == (True, True, 3)
    modes = {name: files.path(spec.uuid, name).stat().st_mode & 0o7777 for name in FROZEN}
    assert modes == {"disk.qcow2": 0o440, "seed.iso": 0o400, "ram": 0o600, "state": 0o400, "whole": 0o400}
    with files.path(spec.uuid, "ram").open("r+b") as ram:
        ram.seek(4096)
        ram.write(b"x")
    assert files.whole(spec.uuid) is None
    assert not files.info(spec.uuid, forks=3).captured


@pytest.mark.parametrize("name", FROZEN)
def test_without_one_of_its_files_it_is_not_whole(files: ParentFiles, spec: ParentSpec, name: str) -> None:
    captured(files, spec)
    files.path(spec.uuid, name).unlink()
    assert files.whole(spec.uuid) is None


def test_a_machine_on_it_and_its_image_keep_it(files: ParentFiles, storage: Storage, spec: ParentSpec) -> None:
    captured(files, spec)
    machine = uuid4()
    disk = storage.create_disk(machine, spec.uuid, 0)
    assert disk.capacity_bytes == 2 * GIB
    assert storage.bases_of(machine) == (files.path(spec.uuid, "disk.qcow2"), storage.image(spec.image))
    assert list(storage.machines_on(spec.uuid)) == [machine]
    with pytest.raises(InvalidOperationError):
        files.delete(spec.uuid)
    assert files.whole(spec.uuid) is not None
    storage.undo_fork(machine)
    assert storage.base_id(machine) is None
    files.delete(spec.uuid)
    files.delete(spec.uuid)
    assert files.note(spec.uuid) is None
    storage.delete_image(spec.image)


def test_a_save_file_gets_another_name_and_keeps_the_rest(tmp_path: Path) -> None:
    saved, target = tmp_path / "saved", tmp_path / "renamed"
    for cookie in (b"", b"<cookie/>\0"):
        saved.write_bytes(saved_file("<domain>template</domain>", cookie=cookie))
        write_renamed(saved, target, "<domain>alice's, ü</domain>")
        assert target.read_bytes() == saved_file("<domain>alice's, ü</domain>", cookie=cookie)
        assert target.stat().st_mode & 0o7777 == 0o600
        target.unlink()
    with pytest.raises(VolumeNotFoundError):
        write_renamed(tmp_path / "nothing", target, "<domain/>")
