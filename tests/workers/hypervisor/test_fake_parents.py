"""What the driver in memory adds to parents and forks: faults on demand, and guests that take an identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.integration.hypervisor.harness import make_parent_spec, make_seed, make_spec
from workers.hypervisor import guest_identity
from workers.hypervisor.errors import (
    DomainNotFoundError,
    ForkFailedError,
    HostUnreachableError,
    StorageFullError,
    VolumeNotFoundError,
)
from workers.hypervisor.fake import FakeDriver, FakeHost
from workers.hypervisor.guest_identity import GuestIdentity
from workers.hypervisor.types import Forked, MachineSpec, ParentSpec, PowerState


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


@pytest.fixture
def parent(driver: FakeDriver, image: UUID) -> ParentSpec:
    spec = make_parent_spec(image)
    driver.start_parent(spec)
    driver.capture_parent(spec.uuid, trial_agent=True)
    return spec


def fork_spec(driver: FakeDriver) -> MachineSpec:
    spec = make_spec("casement", desktop=False)
    driver.write_seed(spec.uuid, make_seed(spec))
    return spec


def test_the_fallback_says_why_and_maps_nothing(driver: FakeDriver, host: FakeHost, parent: ParentSpec) -> None:
    host.parents[parent.uuid].fork_fails = "QEMU refused its memory."
    spec = fork_spec(driver)
    assert driver.fork(spec, parent.uuid) == Forked("restore", "QEMU refused its memory.")
    assert driver.parents()[0].forks == 0
    host.parents[parent.uuid].restore_fails = True
    other = fork_spec(driver)
    with pytest.raises(ForkFailedError):
        driver.fork(other, parent.uuid)
    with pytest.raises(DomainNotFoundError):
        driver.get(other.uuid)
    assert other.uuid not in host.disks


def test_a_trial_that_fails_leaves_no_parent_and_no_template(driver: FakeDriver, host: FakeHost, image: UUID) -> None:
    spec = make_parent_spec(image)
    for broken in (True, False):
        driver.start_parent(spec)
        host.parents[spec.uuid].trial_fails = broken
        host.guest(spec.uuid).has_agent = broken
        with pytest.raises(ForkFailedError):
            driver.capture_parent(spec.uuid, trial_agent=True)
        assert not driver.has_parent(spec.uuid)
        assert driver.list() == []
    driver.start_parent(spec)
    host.guest(spec.uuid).has_agent = False
    driver.capture_parent(spec.uuid, trial_agent=False)
    assert driver.has_parent(spec.uuid)


def test_each_call_can_fail_before_and_after(driver: FakeDriver, host: FakeHost, image: UUID) -> None:
    parent, machine = make_parent_spec(image), fork_spec(driver)
    calls: dict[str, Callable[[], object]] = {
        "start_parent": lambda: driver.start_parent(parent),
        "capture_parent": lambda: driver.capture_parent(parent.uuid, trial_agent=True),
        "has_parent": lambda: driver.has_parent(parent.uuid),
        "parents": driver.parents,
        "fork": lambda: driver.fork(machine, parent.uuid),
    }
    for name, call in calls.items():
        for after in (False, True):
            host.fail_next(name, HostUnreachableError("gone"), after=after)
            with pytest.raises(HostUnreachableError):
                call()
        call()
    assert driver.power_state(machine.uuid) is PowerState.RUNNING
    assert host.domains[machine.uuid].starts == 1
    driver.undefine(machine.uuid)
    driver.delete_storage(machine.uuid)
    for after in (False, True):
        host.fail_next("delete_parent", HostUnreachableError("gone"), after=after)
        with pytest.raises(HostUnreachableError):
            driver.delete_parent(parent.uuid)
    assert driver.parents() == []


def test_room_is_taken_and_comes_back(driver: FakeDriver, host: FakeHost, image: UUID) -> None:
    before = host.used_bytes
    parent = make_parent_spec(image)
    driver.start_parent(parent)
    driver.capture_parent(parent.uuid, trial_agent=True)
    spec = fork_spec(driver)
    driver.fork(spec, parent.uuid)
    driver.undefine(spec.uuid)
    driver.delete_storage(spec.uuid)
    driver.delete_parent(parent.uuid)
    assert host.used_bytes == before
    host.fill_storage()
    with pytest.raises(StorageFullError):
        driver.start_parent(parent)
    assert driver.list() == []
    with pytest.raises(VolumeNotFoundError):
        driver.capture_parent(parent.uuid, trial_agent=False)


def test_forks_share_their_parents_memory_on_the_host(driver: FakeDriver, host: FakeHost, parent: ParentSpec) -> None:
    before = driver.host_usage().memory_used_mib
    for _ in range(10):
        driver.fork(fork_spec(driver), parent.uuid)
    assert driver.host_usage().memory_used_mib - before < 10 * parent.memory_mib


def test_a_guest_takes_the_identity_that_it_is_told(driver: FakeDriver, host: FakeHost, parent: ParentSpec) -> None:
    spec = fork_spec(driver)
    driver.fork(spec, parent.uuid)
    identity = GuestIdentity("alice-1", "alice", None, (), b"r" * 32, spec.uuid)
    argv, stdin = guest_identity.program(identity)
    result = driver.run_in_guest(spec.uuid, argv, stdin=stdin)
    assert result.exit_code == 0
    assert result.stdout.decode().splitlines()[-1] == f"{guest_identity.DONE} {spec.uuid}"
    assert host.guest(spec.uuid).identity["hostname"] == "alice-1"
    other = fork_spec(driver)
    driver.fork(other, parent.uuid)
    assert host.guest(other.uuid).identity == {}, "a fork has the template's identity until it is told another one"
