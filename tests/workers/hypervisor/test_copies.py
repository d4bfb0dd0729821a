"""Copies of disks in a pool, by the real qemu-img: what is read, what is left of what failed, what stays in use."""

from __future__ import annotations

import subprocess
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from workers.hypervisor.errors import HypervisorError, InvalidOperationError, StorageFullError
from workers.hypervisor.kvm import copies
from workers.hypervisor.kvm.storage import Storage
from workers.imaging import qemu_img

MIB = 1 << 20
CANARY = b"canary--" * 64


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "pool", qemu_gid=None)
    storage.prepare()
    return storage


@pytest.fixture
def image(storage: Storage, tmp_path: Path) -> UUID:
    """An image that holds a word."""
    version, file = uuid4(), tmp_path / "image.qcow2"
    qemu_img.create_empty(file, size_bytes=4 * MIB)
    write(file, 0, b"image")
    storage.put_image(version, file, nothing)
    return version


def nothing(_percent: int) -> None:
    """Nobody watches."""


def write(disk: Path, at: int, words: bytes) -> None:
    data = disk.with_name("words")
    data.write_bytes(words.ljust(512, b"\0"))
    command = f"write -s {data} {at} 512"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, str(disk)], check=True, capture_output=True)
    data.unlink()


def content(disk: Path) -> bytes:
    raw = disk.with_name("raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw)], check=True)
    try:
        return raw.read_bytes()
    finally:
        raw.unlink()


def made(storage: Storage, image: UUID) -> UUID:
    machine = uuid4()
    storage.create_disk(machine, image, 8 * MIB)
    write(storage.disk(machine), MIB, b"machine")
    return machine


def copied(storage: Storage, source: UUID, *, base: UUID | None = None, snapshot: UUID | None = None) -> UUID:
    machine = uuid4()
    copies.copy_disk(storage, machine, source=source, snapshot=snapshot, base=base, progress=nothing)
    return machine


def based(storage: Storage, source: UUID, *, flat: bool = False) -> UUID:
    base = uuid4()
    copies.make_base(storage, base, source=source, snapshot=None, flat=flat, progress=nothing)
    return base


def test_a_copy_holds_what_was_there_at_its_moment_whether_it_stands_alone_or_not(
    storage: Storage, image: UUID
) -> None:
    source, snapshot = made(storage, image), uuid4()
    qemu_img.create_snapshot(storage.disk(source), str(snapshot))
    write(storage.disk(source), MIB, b"later")
    for base in (None, image):
        now, then = copied(storage, source, base=base), copied(storage, source, base=base, snapshot=snapshot)
        assert qemu_img.snapshots(storage.disk(then)) == set()
        for machine, words in ((now, b"later"), (then, b"machine")):
            whole = content(storage.disk(machine))
            assert (whole[:5], whole[MIB : MIB + len(words)], len(whole)) == (b"image", words, 8 * MIB)
            assert storage.bases_of(machine) == ((storage.image(image),) if base else ())


def test_what_a_disks_header_names_is_not_read(storage: Storage, image: UUID, tmp_path: Path) -> None:
    """A guest that broke out may have written it; the pool knows what the disk reads from."""
    source, canary = made(storage, image), tmp_path / "canary"
    canary.write_bytes(CANARY)
    rebased = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(canary)]
    subprocess.run([*rebased, str(storage.disk(source))], check=True)
    for whole in (
        content(storage.disk(copied(storage, source))),
        content(storage.image(based(storage, source, flat=True))),
        content(storage.disk(copied(storage, source, base=image))),
        content(storage.image(based(storage, source))),
    ):
        assert whole[:5] == b"image" and b"canary" not in whole


def test_a_disk_that_keeps_its_data_elsewhere_is_not_read(storage: Storage, image: UUID, tmp_path: Path) -> None:
    source, canary = made(storage, image), tmp_path / "canary"
    canary.write_bytes(CANARY)
    options = f"data_file={canary},data_file_raw=on"
    disk = storage.disk(source)
    disk.unlink()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(disk), "1M"], check=True)
    with pytest.raises(HypervisorError) as refused:
        copied(storage, source)
    assert refused.value.code == "invalid-image"


def test_clones_of_clones_read_through_all_bases_and_none_goes_before_its_last_reader(
    storage: Storage, image: UUID
) -> None:
    first, bases = made(storage, image), list[UUID]()
    machine = first
    for step in range(3):
        bases.append(based(storage, machine))
        machine = uuid4()
        storage.create_disk(machine, bases[-1], 8 * MIB)
        write(storage.disk(machine), (2 + step) * MIB, f"step {step}".encode())
    names = [storage.image(base) for base in reversed(bases)] + [storage.image(image)]
    assert list(storage.bases_of(machine)) == names
    whole = content(storage.disk(machine))
    assert [whole[at * MIB : at * MIB + 6] for at in (2, 3, 4)] == [b"step 0", b"step 1", b"step 2"]
    assert whole[:5] == b"image" and whole[MIB : MIB + 7] == b"machine"
    storage.delete_machine(first)
    for base in (image, *bases):
        with pytest.raises(InvalidOperationError):
            storage.delete_image(base)
    alone = copied(storage, machine)
    storage.delete_machine(machine)
    for info in storage.list_volumes():
        if info.machine is not None and info.machine != alone:
            storage.delete_machine(info.machine)
    for base in (*reversed(bases), image):
        storage.delete_image(base)
    assert content(storage.disk(alone)) == whole


def test_a_copy_that_fails_leaves_neither_file_nor_what_it_was_to_read_from(
    storage: Storage, image: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, machine, base = made(storage, image), uuid4(), uuid4()

    def stop(_percent: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copies.copy_disk(storage, machine, source=source, snapshot=None, base=image, progress=stop)
    with pytest.raises(KeyboardInterrupt):
        copies.make_base(storage, base, source=source, snapshot=None, flat=False, progress=stop)
    monkeypatch.setattr(Storage, "free_bytes", lambda _self: 1)
    with pytest.raises(StorageFullError):
        copied(storage, source)
    with pytest.raises(StorageFullError):
        based(storage, source)
    left = [path.name for path in storage.image(image).parent.iterdir()]
    assert left == [f"{image}.qcow2"]
    assert not storage.disk(machine).exists() and not list(storage.machine_folder(machine).glob(".*"))


def test_what_a_killed_worker_left_is_no_obstacle_and_can_be_removed(storage: Storage, image: UUID) -> None:
    source, base, machine = made(storage, image), uuid4(), uuid4()
    folder = storage.image(image).parent
    (folder / f".{base}.part").write_bytes(b"half of it")
    (folder / f"{base}.base").write_text(str(image))
    storage.machine_folder(machine).mkdir()
    (storage.machine_folder(machine) / ".disk.part").write_bytes(b"half of it")
    copies.copy_disk(storage, machine, source=source, snapshot=None, base=None, progress=nothing)
    assert content(storage.disk(machine))[:5] == b"image"
    storage.delete_machine(source)
    with pytest.raises(InvalidOperationError):
        storage.delete_image(image)
    storage.delete_image(base)
    storage.delete_image(image)
    assert not (folder / f"{base}.base").exists()


def test_a_renewed_disk_is_never_read_through_the_old_base(storage: Storage, image: UUID, tmp_path: Path) -> None:
    source, other = made(storage, image), uuid4()
    storage.put_image(other, tmp_path / "image.qcow2", nothing)
    storage.renew_disk(source, other, 8 * MIB)
    assert storage.bases_of(source) == (storage.image(other),)
    assert content(storage.disk(source))[MIB : MIB + 7] != b"machine"
    storage.delete_image(image)
