"""Discs, empty disks and rescue systems: the contract on both drivers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.integration.hypervisor.harness import GIB, Bench, make_seed
from workers.hypervisor.errors import InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.types import MachineSpec, PowerState

pytestmark = pytest.mark.timeout(900)


def quietly(_percent: int) -> None:
    """Nobody watches."""


@pytest.fixture
def disc_file(tmp_path: Path) -> Path:
    """Begins as a disk that reads another file begins; a disc is plain bytes all the same."""
    file = tmp_path / "anything.iso"
    file.write_bytes(b"QFI\xfb\0\0\0\3" + (1024).to_bytes(8, "big") + b"\0\0\0\x0b" + b"/etc/passwd" + bytes(64 * 1024))
    return file


@pytest.fixture
def disc(bench: Bench, disc_file: Path) -> Iterator[UUID]:
    iso = uuid4()
    bench.driver.put_iso(iso, disc_file, progress=quietly)
    yield iso
    bench.clean()  # Machines go first: a disc in a drive is not removed.
    bench.driver.delete_iso(iso)


def drives(bench: Bench, spec: MachineSpec) -> tuple[UUID | None, ...]:
    return bench.driver.devices(spec.uuid).discs


def test_a_disc_is_put_once_and_removed_once(bench: Bench, disc_file: Path) -> None:
    iso, percents = uuid4(), list[int]()
    assert not bench.driver.has_iso(iso)
    info = bench.driver.put_iso(iso, disc_file, progress=percents.append)
    assert percents[-1] == 100
    size = disc_file.stat().st_size
    assert (info.iso, info.machine, info.image, info.volume, info.capacity_bytes) == (iso, None, None, None, size)
    percents.clear()
    assert bench.driver.put_iso(iso, disc_file, progress=percents.append) == info
    assert not percents, "it was copied again"
    assert [one for one in bench.driver.list_volumes() if one.iso == iso] == [info]
    bench.driver.delete_iso(iso)
    bench.driver.delete_iso(iso)
    assert not bench.driver.has_iso(iso)


def test_a_disc_whose_file_is_missing_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    iso = uuid4()
    with pytest.raises(VolumeNotFoundError):
        bench.driver.put_iso(iso, tmp_path / "nothing.iso", progress=quietly)
    assert all(str(iso) not in volume.name for volume in bench.driver.list_volumes())


def test_an_empty_disk_is_made_once_and_stands_alone(bench: Bench) -> None:
    spec = bench.spec(seeded=False)
    made = bench.driver.create_empty_disk(spec.uuid, size_bytes=GIB)
    assert (made.capacity_bytes, made.machine, made.is_disk) == (GIB, spec.uuid, True)
    assert bench.driver.create_empty_disk(spec.uuid, size_bytes=2 * GIB).capacity_bytes == GIB
    bench.driver.define(spec)
    bench.driver.delete_storage(spec.uuid)
    assert all(info.machine != spec.uuid for info in bench.driver.list_volumes())


def test_discs_of_a_machine_that_is_off_are_in_its_definition(bench: Bench, disc: UUID) -> None:
    spec = bench.defined(discs=(None, None))
    assert drives(bench, spec) == (None, None)
    for _twice in range(2):
        assert bench.driver.insert_disc(spec.uuid, 1, disc)
    assert drives(bench, spec) == (None, disc)
    with pytest.raises(InvalidOperationError):
        bench.driver.delete_iso(disc)
    for _twice in range(2):
        assert bench.driver.insert_disc(spec.uuid, 1, None)
    assert drives(bench, spec) == (None, None)
    bench.driver.define(replace(spec, discs=(disc, None), boot_disc=True))
    assert drives(bench, spec) == (disc, None)


def test_a_disc_goes_in_and_out_of_a_machine_that_runs(bench: Bench, disc: UUID) -> None:
    spec = bench.started(discs=(None, None))
    assert bench.driver.insert_disc(spec.uuid, 0, disc)
    assert drives(bench, spec) == (disc, None)
    bench.driver.force_off(spec.uuid)
    assert drives(bench, spec) == (disc, None), "its definition has it, too"
    bench.driver.start(spec.uuid)
    assert bench.driver.insert_disc(spec.uuid, 0, None, force=True)
    assert drives(bench, spec) == (None, None)
    bench.driver.force_off(spec.uuid)
    assert drives(bench, spec) == (None, None)
    bench.driver.delete_iso(disc)
    assert not bench.driver.has_iso(disc)


def test_what_was_started_without_a_drive_has_none_until_its_next_start(bench: Bench, disc: UUID) -> None:
    spec = bench.started()
    with pytest.raises(InvalidOperationError):
        bench.driver.insert_disc(spec.uuid, 0, disc)
    assert drives(bench, spec) == ()
    bench.driver.force_off(spec.uuid)
    assert bench.driver.insert_disc(spec.uuid, 0, disc)
    assert drives(bench, spec)[0] == disc


def test_a_disc_that_is_not_there_is_neither_inserted_nor_defined(bench: Bench) -> None:
    spec, nothing = bench.defined(discs=(None, None)), uuid4()
    with pytest.raises(VolumeNotFoundError):
        bench.driver.insert_disc(spec.uuid, 0, nothing)
    with pytest.raises(VolumeNotFoundError):
        bench.driver.define(replace(spec, discs=(nothing, None)))
    assert drives(bench, spec) == (None, None)


# --- rescue -------------------------------------------------------------------------------------------------------


@pytest.fixture
def system(bench: Bench) -> Iterator[UUID]:
    """Another image than machines are made from."""
    image = uuid4()
    bench.driver.put_image(image, bench.image_file, progress=quietly)
    yield image
    bench.clean()
    bench.driver.delete_image(image)


def test_a_machine_starts_from_its_rescue_system_and_from_its_own_disk_again(bench: Bench, system: UUID) -> None:
    spec = bench.defined()
    in_rescue = replace(spec, rescue=True)
    with pytest.raises(VolumeNotFoundError):
        bench.driver.define(in_rescue)
    for _twice in range(2):
        bench.driver.prepare_rescue(spec.uuid, image=system, seed=make_seed(spec, "rescue"))
    assert [info.is_disk for info in bench.driver.list_volumes() if info.is_rescue] == [False]
    with pytest.raises(InvalidOperationError):
        bench.driver.delete_image(system)
    bench.driver.define(in_rescue)
    assert bench.driver.devices(spec.uuid).rescue
    bench.driver.start(spec.uuid)
    assert bench.driver.power_state(spec.uuid) is PowerState.RUNNING
    bench.driver.force_off(spec.uuid)
    bench.driver.define(spec)
    for _twice in range(2):
        bench.driver.end_rescue(spec.uuid)
    assert not bench.driver.devices(spec.uuid).rescue
    assert not [info for info in bench.driver.list_volumes() if info.is_rescue]
    bench.driver.start(spec.uuid)
    bench.driver.delete_image(system)


def test_a_rescue_needs_its_image(bench: Bench) -> None:
    spec = bench.defined()
    with pytest.raises(VolumeNotFoundError):
        bench.driver.prepare_rescue(spec.uuid, image=uuid4(), seed=make_seed(spec))
    assert not [info for info in bench.driver.list_volumes() if info.is_rescue]


def test_a_machine_that_is_removed_in_rescue_leaves_nothing(bench: Bench, system: UUID) -> None:
    spec = bench.defined()
    bench.driver.prepare_rescue(spec.uuid, image=system, seed=make_seed(spec))
    bench.driver.define(replace(spec, rescue=True))
    bench.driver.undefine(spec.uuid)
    bench.driver.delete_storage(spec.uuid)
    assert all(info.machine != spec.uuid for info in bench.driver.list_volumes())
    bench.driver.delete_image(system)
