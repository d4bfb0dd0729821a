"""What the driver in memory adds to the contract: faults on demand, shared hosts, size."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.integration.hypervisor.harness import GIB, following, make_seed, make_spec
from workers.hypervisor.errors import (
    DomainNotFoundError,
    GuestAgentError,
    HostUnreachableError,
    StorageFullError,
)
from workers.hypervisor.fake import FakeDriver, FakeHost
from workers.hypervisor.types import CommandResult, EventKind, MachineSpec, PowerState


@pytest.fixture
def host() -> FakeHost:
    return FakeHost("rack-1", call_limit_s=0.2)


@pytest.fixture
def driver(host: FakeHost) -> FakeDriver:
    return FakeDriver(host)


@pytest.fixture
def image(driver: FakeDriver, tmp_path: Path) -> UUID:
    file = tmp_path / "image.qcow2"
    file.write_bytes(b"QFI\xfb\0\0\0\x03" + bytes(16) + (1 << 26).to_bytes(8, "big") + bytes(4096))
    version = uuid4()
    driver.put_image(version, file, progress=lambda _percent: None)
    return version


def defined(driver: FakeDriver, image: UUID) -> MachineSpec:
    spec = make_spec("casement")
    driver.create_disk(spec.uuid, image=image, size_bytes=GIB)
    driver.write_seed(spec.uuid, make_seed(spec))
    driver.define(spec)
    return spec


def test_a_fault_before_leaves_nothing_and_one_after_leaves_it_done(
    driver: FakeDriver, host: FakeHost, image: UUID
) -> None:
    spec = defined(driver, image)
    host.fail_next("start", HostUnreachableError("gone"))
    with pytest.raises(HostUnreachableError):
        driver.start(spec.uuid)
    assert driver.power_state(spec.uuid) is PowerState.SHUT_OFF
    host.fail_next("start", HostUnreachableError("gone"), after=True)
    with pytest.raises(HostUnreachableError):
        driver.start(spec.uuid)
    assert driver.power_state(spec.uuid) is PowerState.RUNNING
    driver.start(spec.uuid)
    assert host.domains[spec.uuid].starts == 1


def test_another_worker_finds_what_the_first_one_left(driver: FakeDriver, host: FakeHost, image: UUID) -> None:
    spec = defined(driver, image)
    assert FakeDriver(host).get(spec.uuid) == driver.get(spec.uuid)


def test_a_call_that_hangs_ends_at_its_limit_or_when_it_is_released(
    driver: FakeDriver, host: FakeHost, image: UUID
) -> None:
    spec = defined(driver, image)
    host.hang("start")
    with pytest.raises(HostUnreachableError):
        driver.start(spec.uuid)
    host.call_limit_s = 30
    waiting = threading.Thread(target=driver.start, args=(spec.uuid,))
    waiting.start()
    host.release("start")
    waiting.join(60)
    assert driver.power_state(spec.uuid) is PowerState.RUNNING


def test_an_unreachable_host_answers_nothing(driver: FakeDriver, host: FakeHost) -> None:
    host.unreachable = True
    with pytest.raises(HostUnreachableError):
        driver.list()
    host.unreachable = False
    assert driver.list() == []


def test_a_full_host_takes_no_disk_and_keeps_no_part_of_one(driver: FakeDriver, host: FakeHost, image: UUID) -> None:
    host.fill_storage()
    machine = uuid4()
    with pytest.raises(StorageFullError):
        driver.create_disk(machine, image=image, size_bytes=GIB)
    assert [volume.machine for volume in driver.list_volumes()] == [None]


def test_room_comes_back_when_storage_is_removed(driver: FakeDriver, host: FakeHost, image: UUID) -> None:
    before = host.used_bytes
    spec = defined(driver, image)
    driver.undefine(spec.uuid)
    driver.delete_storage(spec.uuid)
    driver.delete_storage(spec.uuid)
    assert host.used_bytes == before
    driver.delete_image(image)
    assert host.used_bytes == 0


def test_an_agent_may_need_several_pings(driver: FakeDriver, host: FakeHost, image: UUID) -> None:
    spec = defined(driver, image)
    host.guest(spec.uuid).agent_after_pings = 3
    driver.start(spec.uuid)
    with pytest.raises(GuestAgentError):
        driver.run_in_guest(spec.uuid, ("/bin/true",))
    assert [driver.agent_ready(spec.uuid) for _ in range(3)] == [False, False, True]
    host.guest(spec.uuid).run = lambda argv, stdin: CommandResult(len(argv), stdin * 2, b"")
    assert driver.run_in_guest(spec.uuid, ("a", "b"), stdin=b"x") == CommandResult(2, b"xx", b"")


def test_what_happens_behind_the_drivers_back_is_an_event(driver: FakeDriver, host: FakeHost, image: UUID) -> None:
    spec = defined(driver, image)
    driver.start(spec.uuid)
    with following(driver) as log:
        log.wait_for(lambda event: event.kind is EventKind.RESYNC)
        host.guest_shuts_down(spec.uuid)
        log.wait_for(lambda event: (event.uuid, event.power_state) == (spec.uuid, PowerState.SHUT_OFF))
        host.vanish(spec.uuid)
        log.wait_for(lambda event: event.kind is EventKind.GONE)
        host.lose_connections()
        log.wait_for(lambda event: event.kind is EventKind.RESYNC, times=2)
    with pytest.raises(DomainNotFoundError):
        driver.get(spec.uuid)


def test_fifty_thousand_machines_are_cheap(driver: FakeDriver, image: UUID) -> None:
    began = time.process_time()
    seed = make_seed(make_spec("casement"))
    for _ in range(50_000):
        spec = make_spec("casement")
        driver.create_disk(spec.uuid, image=image, size_bytes=GIB)
        driver.write_seed(spec.uuid, seed)
        driver.define(spec)
        driver.start(spec.uuid)
    assert len(driver.list()) == 50_000
    assert time.process_time() - began < 60
