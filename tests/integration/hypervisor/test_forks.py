"""Parents and forks: the contract on both drivers, and on real QEMU what is shared and what is not."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.integration.hypervisor.harness import BOOT_S, GIB, GUEST_S, Bench, make_seed
from tests.support.libvirtd import wait_until
from tests.support.microguest import ROOT_UUID
from workers.hypervisor.errors import (
    DomainNotFoundError,
    ForkFailedError,
    GuestAgentError,
    HypervisorError,
    InvalidOperationError,
    InvalidSpecError,
    VolumeNotFoundError,
)
from workers.hypervisor.kvm import parents as parents_module
from workers.hypervisor.kvm.domain_xml import ParentMemory
from workers.hypervisor.kvm.driver import KvmDriver
from workers.hypervisor.types import DiskSpec, Firmware, HostConfig, MachineSpec, ParentInfo, ParentSpec, PowerState

pytestmark = pytest.mark.timeout(1800)

MIB = 1 << 20


COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /run/counted; sleep 0.5; done"


@pytest.fixture(scope="module")
def real_parent(real_bench: Bench) -> Iterator[ParentSpec]:
    """One for all tests that only read it: booting its template is what takes time."""
    spec = real_bench.template()
    inside(real_bench, spec.uuid, f"echo template > /run/mark; ({COUNTER}) >/dev/null 2>&1 &")
    real_bench.driver.capture_parent(spec.uuid, trial_agent=True)
    real_bench.parents.remove(spec.uuid)
    before = checksums(real_bench, spec)
    yield spec
    real_bench.clean()
    assert checksums(real_bench, spec) == before, "a fork wrote to its parent"
    real_bench.driver.delete_parent(spec.uuid)


@pytest.fixture
def parent(bench: Bench, request: pytest.FixtureRequest) -> ParentSpec:
    """Not to be removed."""
    shared: ParentSpec = request.getfixturevalue("real_parent") if bench.is_real else bench.captured()
    return shared


@pytest.fixture
def own_parent(bench: Bench) -> ParentSpec:
    """To be removed."""
    return bench.captured(ready=False)


def checksums(bench: Bench, parent: ParentSpec) -> dict[str, str]:
    driver = bench.driver
    assert isinstance(driver, KvmDriver)
    folder = driver._storage().parent_folder(parent.uuid)
    assert {"ram", "state", "whole", "disk.qcow2"} <= {path.name for path in folder.iterdir()}
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def inside(bench: Bench, machine: UUID, script: str) -> str:
    """What a shell in the guest prints. The fake's guest runs none."""
    result = bench.driver.run_in_guest(machine, ("/bin/sh", "-c", script), timeout_s=GUEST_S)
    assert result.exit_code == 0, (script, result.stderr)
    return result.stdout.decode().strip()


def info_of(bench: Bench, parent: ParentSpec) -> ParentInfo:
    (info,) = [info for info in bench.driver.parents() if info.uuid == parent.uuid]
    return info


def files_of(bench: Bench, parent: ParentSpec) -> list[str]:
    return [volume.name for volume in bench.driver.list_volumes() if volume.parent == parent.uuid]


def machine_files(bench: Bench, machine: UUID) -> set[str]:
    names = (volume.name for volume in bench.driver.list_volumes() if volume.machine == machine)
    return {name.rpartition("/")[2] for name in names}


# --- parents ------------------------------------------------------------------------------------------------------


def test_a_template_runs_until_it_is_captured_and_is_told_from_machines(bench: Bench) -> None:
    spec, driver = bench.template(), bench.driver
    driver.start_parent(spec)
    (listed,) = [info for info in driver.list() if info.uuid == spec.uuid]
    assert (listed.name, listed.owned, listed.parent) == (spec.name, True, True)
    assert listed.power_state is PowerState.RUNNING
    assert driver.get(spec.uuid) == listed
    assert driver.devices(spec.uuid).macs == frozenset()
    assert driver.run_in_guest(spec.uuid, ("/bin/echo", "here")).stdout == b"here\n"
    assert driver.screenshot(spec.uuid).startswith(b"\x89PNG")
    assert not driver.has_parent(spec.uuid)
    assert not info_of(bench, spec).captured

    info = driver.capture_parent(spec.uuid, trial_agent=True)
    assert driver.has_parent(spec.uuid)
    assert (info.captured, info.restorable, info.forks) == (True, True, 0)
    assert info.memory_bytes > 0
    assert info.state_bytes > 0
    assert info == info_of(bench, spec) == driver.capture_parent(spec.uuid, trial_agent=True)
    driver.start_parent(spec)
    with pytest.raises(DomainNotFoundError):
        driver.get(spec.uuid)
    assert not [info for info in driver.list() if info.parent], "the template or its trial is still there"
    machine = bench.defined()
    assert not driver.get(machine.uuid).parent


def test_a_parent_is_removed_whole_once_and_captured_or_not(bench: Bench) -> None:
    captured, running = bench.captured(ready=False), bench.template(ready=False)
    for spec in (captured, running):
        assert files_of(bench, spec)
        for _twice in range(2):
            bench.driver.delete_parent(spec.uuid)
            assert not files_of(bench, spec)
            assert not bench.driver.has_parent(spec.uuid)
    assert [info for info in bench.driver.list() if info.parent] == []
    assert not {captured.uuid, running.uuid} & {info.uuid for info in bench.driver.parents()}


def test_a_template_that_ended_is_not_captured_and_is_made_anew(bench: Bench) -> None:
    spec, driver = bench.template(ready=False), bench.driver
    driver.force_off(spec.uuid)
    with pytest.raises(DomainNotFoundError):
        driver.power_state(spec.uuid)
    with pytest.raises(InvalidOperationError):
        driver.capture_parent(spec.uuid, trial_agent=False)
    assert not driver.has_parent(spec.uuid)
    driver.start_parent(spec)
    driver.capture_parent(spec.uuid, trial_agent=False)
    assert driver.has_parent(spec.uuid)


def test_a_parent_needs_its_image_which_stays_as_long_as_the_parent(bench: Bench) -> None:
    driver, image = bench.driver, uuid4()
    spec = bench.parent_spec(image=image)
    with pytest.raises(VolumeNotFoundError):
        driver.start_parent(spec)
    with pytest.raises(DomainNotFoundError):
        driver.get(spec.uuid)
    driver.put_image(image, bench.image_file, progress=lambda _percent: None)
    driver.start_parent(spec)
    with pytest.raises(InvalidOperationError):
        driver.delete_image(image)
    driver.delete_parent(spec.uuid)
    driver.delete_image(image)
    assert not driver.has_image(image)


def test_what_is_not_there_is_not_captured_forked_or_removed(bench: Bench) -> None:
    driver, nothing = bench.driver, uuid4()
    spec = bench.spec()
    driver.write_seed(spec.uuid, make_seed(spec))
    with pytest.raises(VolumeNotFoundError):
        driver.capture_parent(nothing, trial_agent=False)
    with pytest.raises(VolumeNotFoundError):
        driver.fork(spec, nothing)
    driver.delete_parent(nothing)
    assert not driver.has_parent(nothing)
    assert machine_files(bench, spec.uuid) == {"seed.iso"}


# --- forks --------------------------------------------------------------------------------------------------------


def test_a_fork_runs_and_is_defined_like_any_machine(bench: Bench, parent: ParentSpec) -> None:
    driver, spec = bench.driver, bench.forked(parent, most_vcpus=4, most_memory_mib=512)
    assert driver.fork(spec, parent.uuid).how == "fork"
    info = driver.get(spec.uuid)
    assert (info.name, info.owned, info.parent) == (spec.name, True, False)
    assert (info.power_state, info.vcpus, info.memory_mib) == (PowerState.RUNNING, 1, parent.memory_mib)
    assert driver.console(spec.uuid).secret == spec.console_secret
    assert driver.run_in_guest(spec.uuid, ("/bin/echo", "here")).stdout == b"here\n"
    (disk,) = [volume for volume in driver.list_volumes() if volume.machine == spec.uuid and volume.is_disk]
    assert (disk.capacity_bytes, disk.base) == (parent.disk_bytes, parent.uuid)
    assert info_of(bench, parent).forks == 1

    # Its card is for after its identity, and is in its definition from the start.
    assert driver.devices(spec.uuid).macs == frozenset()
    driver.set_memory(spec.uuid, parent.memory_mib)
    with pytest.raises(InvalidOperationError):
        driver.set_memory(spec.uuid, parent.memory_mib // 2)
    for _twice in range(2):
        driver.attach_nic(spec.uuid, spec.nics[0])
        assert driver.devices(spec.uuid).macs == {spec.nics[0].mac}
    driver.force_off(spec.uuid)
    assert driver.devices(spec.uuid).macs == {spec.nics[0].mac}
    assert driver.get(spec.uuid).memory_mib == 512
    assert driver.fork(spec, parent.uuid).how == "fork", "what was forked and is off is left as it is"
    assert driver.power_state(spec.uuid) is PowerState.SHUT_OFF


def test_two_forks_have_their_own_names_secrets_and_sockets(bench: Bench, parent: ParentSpec) -> None:
    first, second = bench.forked(parent), bench.forked(parent)
    ends = [bench.driver.console(spec.uuid) for spec in (first, second)]
    assert [end.secret for end in ends] == [first.console_secret, second.console_secret]
    for several in ({end.socket_path for end in ends}, {end.serial_path for end in ends}, {first.name, second.name}):
        assert len(several) == 2
    assert info_of(bench, parent).forks == 2
    bench.driver.force_off(first.uuid)
    assert info_of(bench, parent).forks == 1
    assert bench.driver.agent_ready(second.uuid)


def test_a_fork_must_be_as_large_as_its_parent_and_nothing_more(bench: Bench, parent: ParentSpec) -> None:
    driver, spec = bench.driver, bench.fork_spec(parent)
    changed: tuple[dict[str, object], ...] = (
        {"vcpus": 2},
        {"memory_mib": parent.memory_mib * 2},
        {"desktop": not parent.desktop},
        {"firmware": Firmware.UEFI},
        {"tpm": True},
        {"discs": (None, uuid4())},
        {"rescue": True},
        {"disks": (DiskSpec(uuid4()),)},
        {"console_secret": ""},
    )
    for change in changed:
        with pytest.raises(InvalidSpecError):
            driver.fork(replace(spec, **change), parent.uuid)  # type: ignore[arg-type]  # each is of its field's type
        nothing_but_the_seed(bench, spec)


def nothing_but_the_seed(bench: Bench, spec: MachineSpec) -> None:
    assert machine_files(bench, spec.uuid) == {"seed.iso"}
    with pytest.raises(DomainNotFoundError):
        bench.driver.get(spec.uuid)


def test_a_fork_needs_its_seed(bench: Bench, parent: ParentSpec) -> None:
    spec = bench.spec()
    spec = replace(spec, memory_mib=parent.memory_mib, desktop=parent.desktop)
    with pytest.raises(VolumeNotFoundError):
        bench.driver.fork(spec, parent.uuid)
    assert machine_files(bench, spec.uuid) == set()
    spec = replace(spec, seeded=False)
    assert bench.driver.fork(spec, parent.uuid).how == "fork"


def test_a_machine_that_is_there_is_not_made_a_fork(bench: Bench, parent: ParentSpec) -> None:
    spec = bench.defined(desktop=parent.desktop)
    before = machine_files(bench, spec.uuid)
    with pytest.raises(InvalidOperationError):
        bench.driver.fork(spec, parent.uuid)
    assert machine_files(bench, spec.uuid) == before
    assert bench.driver.power_state(spec.uuid) is PowerState.SHUT_OFF


def test_a_template_that_is_not_captured_is_not_forked(bench: Bench) -> None:
    template = bench.template(ready=False)
    spec = bench.fork_spec(template)
    with pytest.raises(VolumeNotFoundError):
        bench.driver.fork(spec, template.uuid)
    nothing_but_the_seed(bench, spec)


def test_a_parent_with_forks_stays_until_the_last_one_of_them_is_gone(bench: Bench, own_parent: ParentSpec) -> None:
    driver, spec = bench.driver, bench.forked(own_parent, ready=False)
    before = files_of(bench, own_parent)

    def refused() -> None:
        with pytest.raises(InvalidOperationError):
            driver.delete_parent(own_parent.uuid)
        assert driver.has_parent(own_parent.uuid)
        assert files_of(bench, own_parent) == before

    refused()
    driver.force_off(spec.uuid)
    assert info_of(bench, own_parent).forks == 0
    refused()
    driver.undefine(spec.uuid)
    refused()
    driver.delete_storage(spec.uuid)
    driver.delete_parent(own_parent.uuid)
    assert not files_of(bench, own_parent)


def test_a_disk_made_anew_lets_the_parent_go(bench: Bench, own_parent: ParentSpec) -> None:
    driver, spec = bench.driver, bench.forked(own_parent, ready=False)
    driver.force_off(spec.uuid)
    driver.renew_disk(spec.uuid, image=bench.image, size_bytes=GIB)
    driver.delete_parent(own_parent.uuid)
    driver.define(spec)
    driver.start(spec.uuid)
    assert driver.power_state(spec.uuid) is PowerState.RUNNING


def test_copies_of_a_fork_stand_alone_or_keep_its_parent(bench: Bench, own_parent: ParentSpec) -> None:
    driver, source = bench.driver, bench.forked(own_parent, ready=False)
    driver.force_off(source.uuid)
    flat, linked = bench.spec(), uuid4()
    driver.copy_disk(flat.uuid, source=source.uuid, snapshot=None, base=None, progress=lambda _percent: None)
    with pytest.raises(InvalidOperationError):
        other = bench.spec()
        driver.copy_disk(other.uuid, source=source.uuid, snapshot=None, base=bench.image, progress=lambda _: None)
    driver.make_base(linked, source=source.uuid, snapshot=None, flat=False, progress=lambda _percent: None)
    driver.undefine(source.uuid)
    driver.delete_storage(source.uuid)
    with pytest.raises(InvalidOperationError):
        driver.delete_parent(own_parent.uuid)
    driver.delete_image(linked)
    driver.delete_parent(own_parent.uuid)
    driver.write_seed(flat.uuid, make_seed(flat))
    driver.define(flat)
    driver.start(flat.uuid)


def test_a_fork_leads_the_life_of_any_machine(bench: Bench, parent: ParentSpec) -> None:
    """One fork for all of it; what its guest keeps over each is for the tests on real QEMU."""
    driver, spec, snapshot = bench.driver, bench.forked(parent), uuid4()
    steps: tuple[Callable[[UUID], object], ...] = (driver.suspend, driver.resume, driver.save, driver.start)
    for step in steps:
        step(spec.uuid)
    answers(bench, spec)
    assert driver.take_snapshot(spec.uuid, snapshot, memory=True).memory_bytes > 0
    driver.grow_disk(spec.uuid, None, size_bytes=2 * GIB)
    driver.restore_snapshot(spec.uuid, snapshot)
    answers(bench, spec)
    driver.delete_snapshot(spec.uuid, snapshot)
    driver.shut_down(spec.uuid)
    wait_until(lambda: driver.power_state(spec.uuid) is PowerState.SHUT_OFF, BOOT_S)
    driver.define(replace(spec, vcpus=2, memory_mib=384))
    driver.start(spec.uuid)
    answers(bench, spec)
    assert driver.get(spec.uuid).memory_mib == 384
    assert info_of(bench, parent).forks == 0
    driver.reboot(spec.uuid)
    answers(bench, spec)


def test_what_a_fork_has_written_is_its_own_and_the_rest_is_shared(bench: Bench, parent: ParentSpec) -> None:
    spec = bench.forked(parent)
    answers(bench, spec)
    (told,) = [machine for machine in bench.driver.stats().machines if machine.uuid == spec.uuid]
    assert told.memory_own_bytes is not None and told.memory_shared_bytes is not None
    assert 0 < told.memory_own_bytes < parent.memory_mib * MIB
    assert told.memory_shared_bytes > 8 * MIB
    clean(bench, spec)


def answers(bench: Bench, spec: MachineSpec) -> None:
    """One that is going down for a reboot may still answer a ping."""

    def said() -> bytes:
        with contextlib.suppress(GuestAgentError):
            return bench.driver.run_in_guest(spec.uuid, ("/bin/echo", "here")).stdout
        return b""

    def state() -> str:
        return f"{bench.driver.power_state(spec.uuid)}; {bench.driver.console_log(spec.uuid)[-2000:]!r}"

    wait_until(lambda: bench.driver.agent_ready(spec.uuid) and said() == b"here\n", 300, state)


def test_what_cannot_be_forked_raises_only_our_errors(bench: Bench, parent: ParentSpec) -> None:
    """A domain of another origin with the machine's name keeps the fork from being; nothing is left of it."""
    driver, spec = bench.driver, bench.fork_spec(parent)
    if not bench.is_real:
        bench.backstage.host.fail_next("fork", HypervisorError("no"))  # type: ignore[attr-defined]  # the fake's own
    else:
        other = bench.defined()
        spec = replace(spec, name=other.name)
    with pytest.raises(HypervisorError):
        driver.fork(spec, parent.uuid)
    nothing_but_the_seed(bench, spec)
    assert info_of(bench, parent).forks == 0


# --- on real QEMU -------------------------------------------------------------------------------------------------

MOUNT = f"mkdir -p /disk && mount -t ext4 $(findfs UUID={ROOT_UUID}) /disk"


@pytest.mark.real
def test_forks_go_on_where_the_template_was_and_share_nothing_from_there(real_bench: Bench, shared: ParentSpec) -> None:
    bench, first, second = real_bench, real_bench.forked(shared), real_bench.forked(shared)
    counted = [int(inside(bench, one.uuid, "cat /run/counted")) for one in (first, second)]
    assert min(counted) > 0
    for number, one in enumerate((first, second)):
        assert inside(bench, one.uuid, "cat /run/mark") == "template"
        counts_on(bench, one.uuid, counted[number])
        inside(bench, one.uuid, f"echo {one.uuid} > /run/mark; {MOUNT}; echo {one.uuid} > /disk/mark; sync")
    for one in (first, second):
        assert inside(bench, one.uuid, "cat /run/mark /disk/mark").split() == [str(one.uuid)] * 2

    # What one of them wrote is not in a third, and the first finds its own again after a cold start with its own seed.
    third = bench.forked(shared)
    assert inside(bench, third.uuid, f"{MOUNT}; cat /run/mark; ls /disk/mark 2>&1 | grep -c No").split() == [
        "template",
        "1",
    ]
    bench.driver.shut_down(first.uuid)
    wait_until(lambda: bench.driver.power_state(first.uuid) is PowerState.SHUT_OFF, BOOT_S)
    bench.driver.start(first.uuid)
    answers(bench, first)
    assert inside(bench, first.uuid, f"{MOUNT}; cat /disk/mark; hostname") == f"{first.uuid}\nalice-1"
    assert inside(bench, first.uuid, "ls /run/mark 2>/dev/null || echo none") == "none"
    clean(bench, first, second, third)


def counts_on(bench: Bench, machine: UUID, counted: int) -> None:
    wait_until(lambda: int(inside(bench, machine, "cat /run/counted") or 0) > counted, GUEST_S)


@pytest.fixture
def shared(real_bench: Bench, real_parent: ParentSpec) -> Iterator[ParentSpec]:
    """The parent of all; the test's forks are gone afterwards, however it ends."""
    yield real_parent
    real_bench.clean()


def clean(bench: Bench, *specs: MachineSpec) -> None:
    for spec in specs:
        bench.driver.undefine(spec.uuid)
        bench.driver.delete_storage(spec.uuid)
        bench.machines.remove(spec.uuid)


@pytest.mark.real
def test_a_fork_that_reboots_boots_from_its_own_disk(real_bench: Bench, shared: ParentSpec) -> None:
    bench, spec = real_bench, real_bench.forked(shared)
    inside(bench, spec.uuid, f"{MOUNT}; echo mine > /disk/mine; sync")
    before = inside(bench, spec.uuid, "cat /proc/sys/kernel/random/boot_id")
    bench.driver.reboot(spec.uuid)

    def booted_anew() -> bool:
        with contextlib.suppress(HypervisorError, AssertionError):
            return inside(bench, spec.uuid, "cat /proc/sys/kernel/random/boot_id") != before
        return False

    wait_until(booted_anew, 300)
    assert inside(bench, spec.uuid, f"{MOUNT}; cat /disk/mine") == "mine"
    assert inside(bench, spec.uuid, "ls /run/mark 2>/dev/null || echo none") == "none"
    clean(bench, spec)


@pytest.mark.real
def test_what_was_saved_of_a_fork_is_whole_and_needs_its_parents_memory_no_more(
    real_bench: Bench, shared: ParentSpec
) -> None:
    """Hibernated and woken, with a snapshot of its memory and back, twice over."""
    bench, driver, snapshot = real_bench, real_bench.driver, uuid4()
    spec = bench.forked(shared)
    inside(bench, spec.uuid, f"echo mine > /run/mark; {MOUNT}; echo mine > /disk/mine; sync")
    driver.take_snapshot(spec.uuid, snapshot, memory=True)
    assert info_of(bench, shared).forks == 1
    inside(bench, spec.uuid, "echo later > /run/mark; echo later > /disk/mine; sync")
    for _twice in range(2):
        driver.save(spec.uuid)
        assert driver.get(spec.uuid).saved
        driver.start(spec.uuid)
        answers(bench, spec)
        assert inside(bench, spec.uuid, "cat /run/mark /disk/mine").split() == ["later", "later"]
        assert info_of(bench, shared).forks == 0
    for _twice in range(2):
        driver.restore_snapshot(spec.uuid, snapshot)
        answers(bench, spec)
        assert inside(bench, spec.uuid, "cat /run/mark /disk/mine").split() == ["mine", "mine"]
        assert info_of(bench, shared).forks == 0
    clean(bench, spec)


@pytest.mark.real
def test_where_memory_cannot_be_mapped_it_is_restored_and_says_why(
    real_bench: Bench, shared: ParentSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, driver = real_bench, real_bench.driver
    nowhere = ParentMemory(shared.memory_mib * MIB, Path("/nonexistent/ram"), incoming=True)
    monkeypatch.setattr(KvmDriver, "_memory_of", lambda *_arguments: nowhere)
    spec = bench.fork_spec(shared)
    forked = driver.fork(spec, shared.uuid)
    assert forked.how == "restore"
    assert forked.reason.startswith("Mapping the parent's memory failed")
    assert "/" not in forked.reason
    assert driver.fork(spec, shared.uuid) == forked
    assert info_of(bench, shared).forks == 0
    answers(bench, spec)
    assert inside(bench, spec.uuid, "cat /run/mark") == "template"
    assert driver.devices(spec.uuid).macs == frozenset()
    assert machine_files(bench, spec.uuid) <= {"seed.iso", "disk.qcow2", "base", "fork.json", "serial.log"}
    driver.save(spec.uuid)
    driver.start(spec.uuid)
    answers(bench, spec)
    assert inside(bench, spec.uuid, "cat /run/mark") == "template"
    clean(bench, spec)

    monkeypatch.setattr(parents_module, "write_renamed", lambda _saved, target, _xml: target.write_bytes(b"rubbish"))
    spec = bench.fork_spec(shared)
    with pytest.raises(ForkFailedError):
        driver.fork(spec, shared.uuid)
    nothing_but_the_seed(bench, spec)


# A worker that is killed at its n-th change of host or pool.
DYING_WORKER = """
import os, signal, sys, uuid
from pathlib import Path
from workers.hypervisor.kvm import connection, fork, monitor, parent_files, parents, storage
left = int(sys.argv[1])
def dying(module, name):
    original = getattr(module, name)
    def wrapped(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)
    setattr(module, name, wrapped)
for module, name in [
    (storage, "replace_file"), (storage, "overlay"), (parent_files, "replace_file"), (parent_files, "overlay"),
    (parents, "replace_file"), (parents, "write_renamed"), (parents, "save_memory"), (fork, "save_state"),
    (fork, "restore"), (fork, "destroy"), (monitor, "ask"), (monitor, "hand_over"), (os, "fsync"),
    (connection.Connection, "call"), (parents, "_wait_until_it_runs"),
]:
    dying(module, name)
from tests.integration.hypervisor.test_forks import work_of
work_of(sys.argv[2])()
"""


def work_of(wish: str) -> Callable[[], object]:
    """What the worker that dies is to do; it is told as text."""
    uri, pool, network, what, spec = wish.split("|", 4)
    driver = KvmDriver(HostConfig(uri, Path(pool), network=network))
    loaded = pickle.loads(bytes.fromhex(spec))  # noqa: S301 - this test's own
    if what == "fork":
        return lambda: driver.fork(*loaded)
    if what == "start":
        return lambda: driver.start_parent(loaded)
    return lambda: driver.capture_parent(loaded, trial_agent=False)


def killed_at(bench: Bench, moment: int, what: str, wish: object) -> bool:
    """True if it was killed; False if it ended before. Whatever else happens to it is a failure of the test."""
    driver = bench.driver
    assert isinstance(driver, KvmDriver)
    config = driver._config
    told = "|".join((config.uri, str(config.pool_dir), config.network, what, pickle.dumps(wish).hex()))
    done = subprocess.run(
        [sys.executable, "-c", DYING_WORKER, str(moment), told],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "bin:."},
        check=False,
        capture_output=True,
        timeout=240,
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr.decode()
    return done.returncode != 0


@pytest.mark.real
def test_a_fork_whose_worker_is_killed_is_made_by_the_next_one(real_bench: Bench, shared: ParentSpec) -> None:
    """At each change in turn; in between, every second one is given up instead, and nothing is left."""
    bench, driver, moment = real_bench, real_bench.driver, 0
    while True:
        moment += 1
        spec = bench.fork_spec(shared)
        if not killed_at(bench, moment, "fork", (spec, shared.uuid)):
            break
        if moment % 2:
            assert driver.fork(spec, shared.uuid).how == "fork"
            answers(bench, spec)
        clean(bench, spec)
        assert info_of(bench, shared).forks == 0
        assert spec.uuid not in {info.uuid for info in driver.list()}
    assert moment > 8, "it was killed almost never"
    answers(bench, spec)
    clean(bench, spec)


@pytest.mark.real
def test_a_parent_whose_workers_are_killed_is_whole_in_the_end(real_bench: Bench) -> None:
    """Each next worker gets one change further; the template runs on or is saved whatever happens to them."""
    bench, driver, spec = real_bench, real_bench.driver, real_bench.parent_spec()
    for moment in range(1, 12):
        killed_at(bench, moment, "start", spec)
        assert not driver.has_parent(spec.uuid)
    driver.start_parent(spec)
    moment = 1
    while killed_at(bench, moment, "capture", spec.uuid):
        moment += 1
        # Not a word of it is believed before all of it is there.
        assert not driver.has_parent(spec.uuid) or not [info for info in driver.list() if info.parent]
    assert moment > 8, "it was killed almost never"
    assert driver.has_parent(spec.uuid)
    assert not [info for info in driver.list() if info.parent]
    fork = bench.forked(spec, ready=False)
    assert driver.power_state(fork.uuid) is PowerState.RUNNING
    bench.clean()
    assert not files_of(bench, spec)
