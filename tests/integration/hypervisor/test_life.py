"""Pausing, hibernating, resizing, passwords and keys: the contract on both drivers, and what the real guest sees."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from tests.integration.hypervisor.harness import BOOT_S, GUEST_S, Bench, following
from tests.support.libvirtd import wait_until
from workers.hypervisor.errors import GuestAgentError, InvalidOperationError
from workers.hypervisor.types import EventKind, MachineInfo, PowerState

pytestmark = pytest.mark.timeout(900)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice@laptop"
# Counts in the guest's memory alone: a guest that started anew begins at one.
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /run/counted; sleep 0.1; done"


def test_a_machine_that_is_off_is_neither_paused_nor_saved_nor_resized(bench: Bench) -> None:
    spec, driver = bench.defined(), bench.driver
    for operation in (driver.suspend, driver.resume, driver.save):
        with pytest.raises(InvalidOperationError):
            operation(spec.uuid)
    with pytest.raises(InvalidOperationError):
        driver.set_vcpus(spec.uuid, 1)
    with pytest.raises(InvalidOperationError):
        driver.set_memory(spec.uuid, 256)
    with pytest.raises(GuestAgentError):
        driver.set_password(spec.uuid, "alice", "a-new-word")
    with pytest.raises(GuestAgentError):
        driver.add_ssh_key(spec.uuid, "alice", KEY)
    driver.discard_saved(spec.uuid)
    assert not driver.get(spec.uuid).saved


def test_paused_and_going_on_twice_each(bench: Bench) -> None:
    with following(bench.driver) as log:
        log.wait_for(lambda event: event.kind is EventKind.RESYNC)  # What happens before that, nobody tells.
        spec, driver = bench.started(), bench.driver
        for _ in range(2):
            driver.suspend(spec.uuid)
            assert driver.power_state(spec.uuid) is PowerState.PAUSED
        log.wait_for(lambda event: (event.uuid, event.power_state) == (spec.uuid, PowerState.PAUSED))
        for _ in range(2):
            driver.resume(spec.uuid)
            assert driver.power_state(spec.uuid) is PowerState.RUNNING


def listed(bench: Bench, machine: UUID) -> MachineInfo:
    return next(info for info in bench.driver.list() if info.uuid == machine)


def test_saved_memory_is_told_of_until_it_is_discarded(bench: Bench) -> None:
    spec, driver = bench.started(), bench.driver
    assert not listed(bench, spec.uuid).saved
    for _ in range(2):
        driver.save(spec.uuid)
        assert driver.power_state(spec.uuid) is PowerState.SHUT_OFF
        assert driver.get(spec.uuid).saved
        assert listed(bench, spec.uuid).saved
    # Another definition does not change what it goes on with.
    driver.define(replace(spec, console_secret="another1"))
    driver.start(spec.uuid)
    assert driver.console(spec.uuid).secret == spec.console_secret
    assert not listed(bench, spec.uuid).saved
    driver.suspend(spec.uuid)
    driver.save(spec.uuid)
    for _ in range(2):
        driver.discard_saved(spec.uuid)
        assert not driver.get(spec.uuid).saved
    driver.start(spec.uuid)
    assert driver.console(spec.uuid).secret == "another1"


def test_what_was_paused_goes_on_when_it_wakes(bench: Bench) -> None:
    spec, driver = bench.started(), bench.driver
    driver.suspend(spec.uuid)
    driver.save(spec.uuid)
    driver.start(spec.uuid)
    assert driver.power_state(spec.uuid) is PowerState.RUNNING


def test_no_saved_memory_is_left_of_a_machine_that_is_removed(bench: Bench) -> None:
    spec, driver = bench.started(), bench.driver
    driver.save(spec.uuid)
    driver.undefine(spec.uuid)
    bench.add_files(spec)
    driver.define(spec)
    assert not driver.get(spec.uuid).saved


def test_more_than_there_is_room_for_is_refused(bench: Bench) -> None:
    spec, driver = bench.started(vcpus=1, most_vcpus=2, memory_mib=256, most_memory_mib=320), bench.driver
    for vcpus in (0, 3):
        with pytest.raises(InvalidOperationError):
            driver.set_vcpus(spec.uuid, vcpus)
    with pytest.raises(InvalidOperationError):
        driver.set_memory(spec.uuid, 321)
    assert driver.get(spec.uuid).vcpus == 1
    assert driver.get(spec.uuid).memory_mib == 320


def test_a_booted_guest_is_given_processors_memory_a_password_and_a_key_and_goes_on_after_hibernating(
    bench: Bench,
) -> None:
    """One boot for all of it: booting is what takes time."""
    spec, driver = bench.booted(vcpus=1, most_vcpus=3, memory_mib=256, most_memory_mib=384), bench.driver
    inside = Inside(bench, spec.uuid)
    began_with = inside.memory_mib()
    for _ in range(2):
        driver.set_vcpus(spec.uuid, 2)
        driver.set_memory(spec.uuid, 320)
        assert driver.get(spec.uuid).vcpus == listed(bench, spec.uuid).vcpus == 2
    if bench.is_real:
        wait_until(lambda: inside.processors() == 2, GUEST_S)
        wait_until(lambda: 50 < inside.memory_mib() - began_with < 80, GUEST_S, inside.memory_mib)
    for _ in range(2):
        driver.set_password(spec.uuid, "alice", "a-new-word")
        driver.add_ssh_key(spec.uuid, "alice", KEY)
    with_password = inside.text("cat /etc/shadow")
    keys = inside.text("cat /home/alice/.ssh/authorized_keys")
    if bench.is_real:
        assert "alice:!" not in with_password
        assert "a-new-word" not in with_password
        assert keys.count(KEY) == 1
        with pytest.raises(GuestAgentError):
            driver.set_password(spec.uuid, "nobody-here", "a-new-word")
    inside.text(f"({COUNTER}) >/dev/null 2>&1 &")
    counted = inside.counted(at_least=1)
    driver.save(spec.uuid)
    driver.start(spec.uuid)
    wait_until(lambda: driver.agent_ready(spec.uuid), BOOT_S)
    if bench.is_real:
        # It did not begin anew, and it goes on.
        after = inside.counted(at_least=counted)
        assert inside.counted(at_least=after + 1) > after
        assert inside.processors() == 2
        assert inside.text("cat /etc/shadow") == with_password


class Inside:
    """What the programs of a guest see."""

    def __init__(self, bench: Bench, machine: UUID) -> None:
        self._bench, self._machine = bench, machine

    def text(self, script: str) -> str:
        result = self._bench.driver.run_in_guest(self._machine, ("/bin/sh", "-c", script), timeout_s=GUEST_S)
        assert result.exit_code == 0, result.stderr
        return result.stdout.decode()

    def processors(self) -> int:
        return int(self.text("grep -c ^processor /proc/cpuinfo"))

    def memory_mib(self) -> int:
        return int(self.text("awk '/MemTotal/ {print $2}' /proc/meminfo") or 0) // 1024

    def counted(self, *, at_least: int) -> int:
        if self._bench.is_real:
            wait_until(lambda: int(self.text("cat /run/counted 2>/dev/null || echo 0") or 0) >= at_least, GUEST_S)
            return int(self.text("cat /run/counted") or at_least)
        return 0
