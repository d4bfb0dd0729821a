"""Copies of disks: the contract on both drivers, and on real QEMU what a guest finds in them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.integration.hypervisor.harness import BOOT_S, GIB, GUEST_S, Bench, make_seed
from tests.support.libvirtd import wait_until
from tests.support.microguest import ON_DISK, kernel_for_appliances
from workers.hypervisor.errors import (
    DomainNotFoundError,
    HypervisorError,
    InvalidOperationError,
    VolumeNotFoundError,
)
from workers.hypervisor.types import Firmware, MachineSpec, VolumeInfo
from workers.imaging import qemu_img
from workers.imaging.inspector import inspect_image

pytestmark = pytest.mark.timeout(1200)


def nothing(_percent: int) -> None:
    """Where nobody looks at the progress."""


@pytest.fixture
def base(bench: Bench) -> Iterator[UUID]:
    """The id of an image that a test makes; it goes after the disks that read from it."""
    uuid = uuid4()
    yield uuid
    bench.clean()
    bench.driver.delete_image(uuid)


def image_info(bench: Bench, image: UUID) -> VolumeInfo | None:
    return next((info for info in bench.driver.list_volumes() if info.image == image), None)


def disk_of(bench: Bench, machine: UUID) -> VolumeInfo | None:
    return next((info for info in bench.driver.list_volumes() if info.machine == machine and info.is_disk), None)


# --- a machine that is off ----------------------------------------------------------------------------------------


def test_a_full_copy_is_made_once_and_shares_nothing_or_the_image(bench: Bench) -> None:
    source, alone, sharing, percents = bench.defined(), bench.spec(), bench.spec(), list[int]()
    for _twice in range(2):
        info = bench.driver.copy_disk(
            alone.uuid, source=source.uuid, snapshot=None, base=None, progress=percents.append
        )
        assert (info.machine, info.capacity_bytes) == (alone.uuid, GIB)
    assert percents[-1] == 100
    assert percents == sorted(set(percents)), "it was copied again"
    bench.driver.copy_disk(sharing.uuid, source=source.uuid, snapshot=None, base=bench.image, progress=nothing)
    disks = [disk_of(bench, spec.uuid) for spec in (alone, sharing)]
    bases = [disk.base for disk in disks if disk is not None]
    assert bases == [None, bench.image]
    bench.driver.delete_storage(source.uuid)
    for spec in (alone, sharing):
        bench.driver.write_seed(spec.uuid, make_seed(spec))
        bench.driver.define(spec)


def test_what_is_not_there_or_is_based_on_something_else_is_not_copied(bench: Bench, base: UUID) -> None:
    source, copy = bench.defined(), bench.spec()
    with pytest.raises(VolumeNotFoundError):
        bench.driver.copy_disk(copy.uuid, source=uuid4(), snapshot=None, base=None, progress=nothing)
    with pytest.raises(VolumeNotFoundError):
        bench.driver.make_base(base, source=uuid4(), snapshot=None, flat=True, progress=nothing)
    with pytest.raises(InvalidOperationError):
        bench.driver.copy_disk(copy.uuid, source=source.uuid, snapshot=None, base=uuid4(), progress=nothing)
    assert disk_of(bench, copy.uuid) is None and image_info(bench, base) is None


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "delta"])
def test_a_base_is_made_once_and_neither_removed_nor_changed_while_a_clone_reads_from_it(
    bench: Bench, base: UUID, flat: bool
) -> None:
    """Nor by starting it: no machine has it as its own disk."""
    source, clone = bench.defined(), bench.spec()
    for _twice in range(2):
        info = bench.driver.make_base(base, source=source.uuid, snapshot=None, flat=flat, progress=nothing)
        assert (info.machine, info.capacity_bytes, info.image) == (None, GIB, base)
        assert info.base == (None if flat else bench.image)
    bench.driver.delete_storage(source.uuid)
    bench.driver.create_disk(clone.uuid, image=base, size_bytes=GIB)
    with pytest.raises(InvalidOperationError):
        bench.driver.delete_image(base)
    with pytest.raises(InvalidOperationError):
        bench.driver.remove_identity(base, personal=False)
    if not flat:
        with pytest.raises(InvalidOperationError):
            bench.driver.delete_image(bench.image)
    bench.driver.delete_storage(clone.uuid)
    bench.driver.delete_image(base)
    bench.driver.delete_image(base)
    assert image_info(bench, base) is None and bench.driver.has_image(bench.image)


def test_an_image_is_handed_out_whole_and_a_part_of_one_is_not(bench: Bench, base: UUID, tmp_path: Path) -> None:
    source, delta = bench.defined(), uuid4()
    bench.driver.make_base(base, source=source.uuid, snapshot=None, flat=True, progress=nothing)
    target = tmp_path / "image.qcow2"
    for _twice in range(2):
        bench.driver.get_image(base, target, progress=nothing)
        assert inspect_image(target).virtual_size_bytes == GIB
    assert list(tmp_path.iterdir()) == [target] or not bench.is_real
    with pytest.raises(VolumeNotFoundError):
        bench.driver.get_image(uuid4(), tmp_path / "none", progress=nothing)
    bench.driver.make_base(delta, source=source.uuid, snapshot=None, flat=False, progress=nothing)
    try:
        with pytest.raises(InvalidOperationError):
            bench.driver.get_image(delta, tmp_path / "none", progress=nothing)
    finally:
        bench.driver.delete_image(delta)
    assert not (tmp_path / "none").exists()


def test_a_renewed_disk_has_neither_its_old_content_nor_its_snapshots(bench: Bench) -> None:
    spec, driver = bench.defined(), bench.driver
    driver.take_snapshot(spec.uuid, uuid4(), memory=False)
    driver.grow_disk(spec.uuid, None, size_bytes=2 * GIB)
    with pytest.raises(VolumeNotFoundError):
        driver.renew_disk(spec.uuid, image=uuid4(), size_bytes=GIB)
    for _twice in range(2):
        assert driver.renew_disk(spec.uuid, image=bench.image, size_bytes=GIB).capacity_bytes == GIB
        assert driver.snapshots(spec.uuid) == []
    renewed = disk_of(bench, spec.uuid)
    assert renewed is not None and renewed.base == bench.image
    driver.define(spec)
    driver.start(spec.uuid)
    with pytest.raises(InvalidOperationError):
        driver.renew_disk(spec.uuid, image=bench.image, size_bytes=GIB)


def test_a_running_machine_is_copied_from_a_snapshot_only(bench: Bench, base: UUID) -> None:
    spec, copy, driver, snapshot = bench.started(), bench.spec(), bench.driver, uuid4()
    with pytest.raises(InvalidOperationError):
        driver.copy_disk(copy.uuid, source=spec.uuid, snapshot=None, base=None, progress=nothing)
    with pytest.raises(InvalidOperationError):
        driver.make_base(base, source=spec.uuid, snapshot=None, flat=True, progress=nothing)
    with pytest.raises(InvalidOperationError):
        driver.remove_identity(spec.uuid, personal=False)
    driver.take_snapshot(spec.uuid, snapshot, memory=False)
    driver.copy_disk(copy.uuid, source=spec.uuid, snapshot=snapshot, base=None, progress=nothing)
    driver.make_base(base, source=spec.uuid, snapshot=snapshot, flat=False, progress=nothing)
    driver.delete_snapshot(spec.uuid, snapshot)
    assert disk_of(bench, copy.uuid) is not None and image_info(bench, base) is not None


def test_a_clone_starts_by_what_its_originals_firmware_knows(bench: Bench) -> None:
    """What a system that was installed has written there is where its loader lies."""
    source, clone, plain = bench.started(firmware=Firmware.UEFI), bench.spec(firmware=Firmware.UEFI), bench.defined()
    bench.driver.force_off(source.uuid)
    bench.driver.copy_disk(clone.uuid, source=source.uuid, snapshot=None, base=None, progress=nothing)
    bench.driver.write_seed(clone.uuid, make_seed(clone))
    bench.driver.define(clone)
    if bench.is_real:
        with store_of(source).open("r+b") as store:
            store.seek(-16, os.SEEK_END)
            store.write(b"casement's mark!")
    for _twice in range(2):
        bench.driver.copy_firmware(clone.uuid, source=source.uuid)
    if bench.is_real:
        assert store_of(clone).read_bytes() == store_of(source).read_bytes()
    bench.driver.start(clone.uuid)
    if bench.is_real:
        assert store_of(clone).read_bytes().endswith(b"casement's mark!"), "libvirt made it anew"
    bench.driver.copy_firmware(plain.uuid, source=clone.uuid)
    with pytest.raises(DomainNotFoundError):
        bench.driver.copy_firmware(clone.uuid, source=uuid4())


def store_of(spec: MachineSpec) -> Path:
    """The file of a machine's UEFI variables, as libvirt calls it."""
    return Path(f"/var/lib/libvirt/qemu/nvram/{spec.name}_VARS.fd")


# --- what a guest finds -------------------------------------------------------------------------------------------

MACHINE_ID, HOST_KEY = "etc/machine-id", "etc/ssh/ssh_host_ed25519_key"
# What an image must not have of the machine that it was made of.
OF_PEOPLE = [
    name
    for name in ON_DISK
    if name.startswith(("var/log/", "var/lib/cloud/")) or "/.ssh/" in name or "_history" in name or ".cache" in name
]
KEPT = ("home/alice/work.txt", "etc/shadow", "etc/ssh/sshd_config", "etc/fstab", "marker")


@pytest.fixture
def real(real_bench: Bench, microguest: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """With what it takes to remove an identity: virt-sysprep, and a kernel for its appliance."""
    for name, value in kernel_for_appliances(microguest.parent).items():
        monkeypatch.setenv(name, value)
    yield real_bench
    real_bench.clean()


def shell(bench: Bench, spec: MachineSpec, command: str) -> str:
    done = bench.driver.run_in_guest(spec.uuid, ("/bin/sh", "-c", command), timeout_s=GUEST_S)
    assert done.exit_code == 0, (command, done.stderr)
    return done.stdout.decode().strip()


def booted(bench: Bench, spec: MachineSpec) -> MachineSpec:
    bench.driver.write_seed(spec.uuid, make_seed(spec))
    bench.driver.define(spec)
    bench.driver.start(spec.uuid)
    wait_until(lambda: bench.driver.agent_ready(spec.uuid), BOOT_S)
    return spec


def files(bench: Bench, spec: MachineSpec) -> dict[str, str]:
    """What of it is on the disk, as it is before the system there is used."""
    shell(bench, spec, "mkdir -p /disk && mount -t ext4 -o ro $(findfs LABEL=root) /disk")
    names = [*ON_DISK, "marker"]
    there = shell(bench, spec, f"cd /disk && for f in {' '.join(names)}; do [ -e $f ] && echo $f; done; true").split()
    found = {name: shell(bench, spec, f"cat /disk/{name}") for name in there}
    shell(bench, spec, "umount /disk")
    return found


@pytest.mark.real
def test_a_copy_has_the_marker_and_an_identity_of_its_own_and_a_renewed_disk_has_neither(
    real: Bench, tmp_path: Path
) -> None:
    """One original for all of it, which runs on meanwhile, and one removal: booting is what takes time.

    It is of a base, as of linked clones, and with all that is removed of an image, which is more.
    """
    driver, base, image, snapshot = real.driver, uuid4(), uuid4(), uuid4()
    source, clone, canary = real.booted(), real.spec(), tmp_path / "canary"
    canary.write_text("the host's")
    try:
        shell(real, source, "/etc/system && echo here > /disk/marker && echo mine > /disk/etc/machine-id && sync")
        # Names that lead out of the disk, and must lead nowhere.
        for name in ("etc/ssh/ssh_host_evil_key", "home/alice/.evil_history", "var/log/evil.log"):
            shell(real, source, f"ln -s {canary} /disk/{name}")
        shell(real, source, f"ln -s {tmp_path} /disk/var/lib/cloud/evil && sync")
        driver.take_snapshot(source.uuid, snapshot, memory=False)
        shell(real, source, "echo later > /disk/marker && sync")
        driver.make_base(base, source=source.uuid, snapshot=snapshot, flat=False, progress=nothing)
        driver.make_base(image, source=source.uuid, snapshot=snapshot, flat=True, progress=nothing)
        driver.delete_snapshot(source.uuid, snapshot)
        with watched() as seen:
            driver.remove_identity(base, personal=True)
        assert canary.read_text() == "the host's"
        is_confined(seen)
        driver.create_disk(clone.uuid, image=base, size_bytes=GIB)
        driver.get_image(image, tmp_path / "image.qcow2", progress=nothing)
        qemu_img.check(tmp_path / "image.qcow2", "qcow2")

        copied = files(real, booted(real, clone))
        assert copied["marker"] == "here", "not of the moment of the snapshot"
        assert set(KEPT) <= set(copied)
        assert copied.get(MACHINE_ID, "") == "" and HOST_KEY not in copied
        assert [name for name in OF_PEOPLE if copied.get(name)] == []
        assert not any("secret" in text for text in copied.values())
        shell(real, clone, "/etc/system")
        own, theirs = (
            [shell(real, spec, f"cat /disk/{name}") for name in (MACHINE_ID, HOST_KEY)] for spec in (clone, source)
        )
        assert own[0] and own[0] != theirs[0] == "mine"
        assert own[1] and own[1] != theirs[1] == ON_DISK[HOST_KEY].strip()

        driver.force_off(source.uuid)
        driver.renew_disk(source.uuid, image=real.image, size_bytes=GIB)
        renewed = files(real, booted(real, source))
        assert "marker" not in renewed and renewed[HOST_KEY] == ON_DISK[HOST_KEY].strip()
    finally:
        real.clean()
        for made in (base, image):
            driver.delete_image(made)


@dataclass
class Seen:
    """The processes of an appliance's QEMU: their status, and which network they are in."""

    statuses: list[dict[str, str]] = field(default_factory=list)
    networks: set[str] = field(default_factory=set)


@contextmanager
def watched() -> Iterator[Seen]:
    """Looks for an appliance's QEMU until the end."""
    seen, over = Seen(), threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, ValueError):
                    command = (process / "cmdline").read_bytes()
                    if b"guestfs" in command and b"qemu-system" in command.split(b"\0")[0]:
                        lines = (process / "status").read_text().splitlines()
                        seen.statuses.append(dict(line.split(":\t", 1) for line in lines if ":\t" in line))
                        seen.networks.add(str((process / "ns/net").readlink()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def is_confined(seen: Seen) -> None:
    """It is not root, may not become so, and has no network."""
    assert seen.statuses, "no appliance was seen"
    for status in seen.statuses:
        assert "0" not in status["Uid"].split() and "0" not in status["Gid"].split()
        assert (int(status["CapEff"], 16), status["NoNewPrivs"]) == (0, "1")
    assert str(Path("/proc/self/ns/net").readlink()) not in seen.networks


@pytest.mark.real
def test_what_is_no_known_system_is_told_and_stays_as_it_was(real: Bench, tmp_path: Path) -> None:
    empty, driver, version, spec = tmp_path / "empty.qcow2", real.driver, uuid4(), real.spec()
    qemu_img.create_empty(empty, size_bytes=16 << 20)
    driver.put_image(version, empty, progress=nothing)
    driver.create_disk(spec.uuid, image=version, size_bytes=16 << 20)
    try:
        with pytest.raises(HypervisorError) as told:
            driver.remove_identity(spec.uuid, personal=False)
        assert told.value.code == "unknown-system"
        driver.write_seed(spec.uuid, make_seed(spec))
        driver.define(spec)
        driver.start(spec.uuid)
    finally:
        real.clean()
        driver.delete_image(version)
