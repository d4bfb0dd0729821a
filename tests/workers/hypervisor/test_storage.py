"""The pool on its own, without libvirt."""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.hypervisor.errors import HypervisorError, VolumeNotFoundError
from workers.hypervisor.kvm import serial
from workers.hypervisor.kvm import storage as storage_module
from workers.hypervisor.kvm.qcow2 import parse_header, read_header
from workers.hypervisor.kvm.serial import read_log
from workers.hypervisor.kvm.storage import Storage
from workers.hypervisor.types import SeedSpec

SEED = SeedSpec("a: b\n", "#cloud-config\n", "version: 2\n")


def qcow2(size: int = 1 << 26, *, backing: int = 0, features: int = 0, version: int = 3) -> bytes:
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size).ljust(72, b"\0")
    return (head + struct.pack(">Q", features)).ljust(65_536, b"\0")


def no_progress(_percent: int) -> None:
    """Nobody watches."""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return tmp_path / "pool"


@pytest.fixture
def storage(pool: Path) -> Storage:
    storage = Storage(pool, qemu_gid=None)
    storage.prepare()
    return storage


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.qcow2"
    path.write_bytes(qcow2())
    return path


def test_a_copy_that_breaks_off_leaves_nothing(storage: Storage, pool: Path, source: Path) -> None:
    def stop(_percent: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.put_image(uuid4(), source, stop)
    assert not list((pool / "images").iterdir())


def test_what_a_killed_worker_left_is_replaced(storage: Storage, pool: Path, source: Path) -> None:
    version = uuid4()
    (pool / "images" / f".{version}.part").write_bytes(b"x" * 10_000_000)
    storage.put_image(version, source, no_progress)
    assert (pool / "images" / f"{version}.qcow2").read_bytes() == source.read_bytes()
    assert len(list((pool / "images").iterdir())) == 1


def test_two_workers_with_one_image_make_one(storage: Storage, pool: Path, source: Path) -> None:
    version, errors = uuid4(), list[BaseException]()

    def put() -> None:
        try:
            storage.put_image(version, source, no_progress)
        except HypervisorError as error:
            errors.append(error)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert [path.name for path in (pool / "images").iterdir()] == [f"{version}.qcow2"]


@pytest.mark.parametrize(
    "content", [qcow2(backing=4096), qcow2(features=4), qcow2(version=4), b"", b"QFI\xfb", b'RW 1 FLAT "/etc/shadow" 0']
)
def test_an_image_that_does_not_stand_alone_is_refused(
    storage: Storage, pool: Path, tmp_path: Path, content: bytes
) -> None:
    bad = tmp_path / "bad.qcow2"
    bad.write_bytes(content)
    with pytest.raises(HypervisorError) as caught:
        storage.put_image(uuid4(), bad, no_progress)
    assert caught.value.code == "invalid-image"
    assert not list((pool / "images").iterdir())


def test_a_source_that_is_a_link_or_a_pipe_is_refused(storage: Storage, tmp_path: Path, source: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(source)
    os.mkfifo(pipe)
    for path in (link, pipe):
        with pytest.raises(HypervisorError):
            storage.put_image(uuid4(), path, no_progress)


def test_a_machines_folder_that_is_a_link_is_not_followed(storage: Storage, pool: Path, tmp_path: Path) -> None:
    machine, elsewhere = uuid4(), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("here")
    (pool / "machines" / str(machine)).symlink_to(elsewhere)
    with pytest.raises(HypervisorError):
        storage.write_seed(machine, SEED)
    with pytest.raises(HypervisorError):
        storage.delete_machine(machine)
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


def test_a_name_that_is_no_uuid_reaches_no_file(storage: Storage) -> None:
    with pytest.raises(ValueError, match="UUID"):
        storage.write_seed("../../etc", SEED)  # type: ignore[arg-type]  # Wrong on purpose.


def test_errors_name_no_path(storage: Storage, pool: Path, source: Path) -> None:
    (pool / "images").rename(pool / "gone")
    (pool / "images").symlink_to(pool / "gone")
    with pytest.raises(HypervisorError) as caught:
        storage.put_image(uuid4(), source, no_progress)
    assert str(pool) not in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_leftover_base_or_folder_does_no_harm(storage: Storage, pool: Path, source: Path) -> None:
    """Killed between the base's name and the disk: the next call goes on."""
    version, machine = uuid4(), uuid4()
    storage.put_image(version, source, no_progress)
    folder = pool / "machines" / str(machine)
    folder.mkdir()
    (folder / "base").write_text(str(version))
    (folder / ".disk.part").write_bytes(b"half")
    with pytest.raises(VolumeNotFoundError):
        storage.files(machine)
    storage.delete_machine(machine)
    storage.delete_image(version)
    assert storage.list_volumes() == []


def test_a_serial_log_is_kept_small(storage: Storage, pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "SERIAL_LOG_LIMIT", 4096)
    machine = uuid4()
    storage.write_seed(machine, SEED)
    log = pool / "machines" / str(machine) / "serial.log"
    with log.open("ab", buffering=0) as qemu:
        qemu.write(b"x" * 5000 + b"the end")
        storage.trim_serial_logs()
        assert log.stat().st_size == 0
        qemu.write(b"goes on")
    assert log.read_bytes() == b"goes on"
    assert read_log(log.parent).endswith(b"the endgoes on")


def test_the_log_is_read_in_the_order_in_which_it_was_written(
    storage: Storage, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As libvirt's log daemon turns files; what is no plain file is none."""
    machine = uuid4()
    folder = storage.machine_folder(machine)
    assert read_log(folder) == b""
    storage.write_seed(machine, SEED)
    for name, words in {"serial.log": b"d", "serial.log.0": b"c", "serial.log.1": b"b", "serial.old.log": b"a"}.items():
        (folder / name).write_bytes(words * 3)
    canary = pool / "canary"
    canary.write_bytes(b"secret")
    (folder / "serial.log.2").symlink_to(canary)
    with pytest.raises(HypervisorError):
        read_log(folder)
    (folder / "serial.log.2").unlink()
    os.mkfifo(folder / "serial.log.2")
    assert read_log(folder) == b"aaabbbcccddd"
    monkeypatch.setattr(serial, "LOG_MOST_BYTES", 4)
    assert read_log(folder) == b"cddd"


def test_a_serial_port_has_a_socket_where_the_path_leaves_room(
    storage: Storage, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = uuid4()
    storage.write_seed(machine, SEED)
    (storage.machine_folder(machine) / "disk.qcow2").touch()
    path = pool / "serial" / str(machine)
    monkeypatch.setattr(storage_module, "SOCKET_PATH_MOST_BYTES", len(str(path)))
    assert storage.files(machine).serial_socket == path
    monkeypatch.setattr(storage_module, "SOCKET_PATH_MOST_BYTES", len(str(path)) - 1)
    assert storage.files(machine).serial_socket is None
    path.touch()
    storage.delete_machine(machine)
    assert not path.exists()


@given(st.binary(max_size=200))
def test_any_header_is_read_or_refused(head: bytes) -> None:
    try:
        parse_header(head)
    except HypervisorError as error:
        assert error.code == "invalid-image"


def test_the_header_says_the_size(source: Path) -> None:
    assert read_header(source).virtual_size == 1 << 26
    with pytest.raises(VolumeNotFoundError):
        read_header(source.with_name("nothing"))


def test_folders_of_strangers_in_the_pool_are_left_out(storage: Storage, pool: Path) -> None:
    (pool / "machines" / "lost+found").mkdir()
    (pool / "machines" / str(UUID(int=1))).mkdir()
    assert storage.list_volumes() == []
