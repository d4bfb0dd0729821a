"""The contract of `workers/hypervisor/driver.py`, on the driver in memory and on real QEMU."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from tests.integration.hypervisor.harness import GIB, GUEST_S, Bench, following, make_seed
from tests.support.libvirtd import wait_until
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import (
    DomainNotFoundError,
    GuestAgentError,
    HypervisorError,
    InvalidOperationError,
    InvalidSpecError,
    VolumeNotFoundError,
)
from workers.hypervisor.types import EventKind, Firmware, MachineInfo, NetworkMode, PowerState

pytestmark = pytest.mark.timeout(900)

PNG = b"\x89PNG\r\n\x1a\n"


def test_a_prepared_host_describes_itself_and_can_be_prepared_again(bench: Bench) -> None:
    info = bench.driver.prepare_host()
    assert info.cpus >= 1
    assert info.memory_mib > 512
    assert 0 < info.storage_free_bytes <= info.storage_total_bytes
    assert info.accelerator.kind in {"kvm", "tcg"}
    assert info.accelerator.reason.endswith(".")
    assert info.network_mode is NetworkMode.NAT
    assert bench.driver.host_info().hostname == info.hostname


def test_usage_is_told(bench: Bench) -> None:
    usage = bench.driver.host_usage()
    assert usage.load >= 0
    assert usage.memory_used_mib >= 0
    assert usage.storage_free_bytes > 0


# --- images and disks ---------------------------------------------------------------------------------------------


def test_an_image_is_put_once_and_removed_once(bench: Bench) -> None:
    version, percents = uuid4(), list[int]()
    assert not bench.driver.has_image(version)
    volume = bench.driver.put_image(version, bench.image_file, progress=percents.append)
    assert percents[-1] == 100
    assert percents == sorted(set(percents))
    assert volume.machine is None
    assert volume.capacity_bytes >= 1 << 20
    assert bench.driver.has_image(version)
    percents.clear()
    assert bench.driver.put_image(version, bench.image_file, progress=percents.append) == volume
    assert not percents, "it was copied again"
    bench.driver.delete_image(version)
    bench.driver.delete_image(version)
    assert not bench.driver.has_image(version)


def test_an_image_that_is_missing_or_no_image_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    version = uuid4()
    with pytest.raises(VolumeNotFoundError):
        bench.driver.put_image(version, tmp_path / "nothing.qcow2", progress=lambda _percent: None)
    rubbish = tmp_path / "rubbish.qcow2"
    rubbish.write_bytes(b"#!/bin/sh\n" * 1000)
    with pytest.raises(HypervisorError) as caught:
        bench.driver.put_image(version, rubbish, progress=lambda _percent: None)
    assert caught.value.code == "invalid-image"
    assert not bench.driver.has_image(version)
    assert all(str(version) not in volume.name for volume in bench.driver.list_volumes())


def test_a_disk_is_made_once_and_keeps_its_size(bench: Bench) -> None:
    spec = bench.spec()
    disk = bench.driver.create_disk(spec.uuid, image=bench.image, size_bytes=GIB)
    assert disk.capacity_bytes == GIB
    assert disk.machine == spec.uuid
    again = bench.driver.create_disk(spec.uuid, image=bench.image, size_bytes=2 * GIB)
    assert again.capacity_bytes == GIB


def test_a_disk_is_never_smaller_than_its_image(bench: Bench) -> None:
    spec = bench.spec()
    disk = bench.driver.create_disk(spec.uuid, image=bench.image, size_bytes=1)
    image = next(volume for volume in bench.driver.list_volumes() if str(bench.image) in volume.name)
    assert disk.capacity_bytes == image.capacity_bytes


def test_a_disk_needs_its_image(bench: Bench) -> None:
    spec = bench.spec()
    with pytest.raises(VolumeNotFoundError):
        bench.driver.create_disk(spec.uuid, image=uuid4(), size_bytes=GIB)
    assert not volumes_of(bench, spec.uuid)


def test_an_image_with_disks_on_it_cannot_be_removed(bench: Bench) -> None:
    version, spec = uuid4(), bench.spec()
    bench.driver.put_image(version, bench.image_file, progress=lambda _percent: None)
    bench.driver.create_disk(spec.uuid, image=version, size_bytes=GIB)
    with pytest.raises(InvalidOperationError):
        bench.driver.delete_image(version)
    assert bench.driver.has_image(version)
    bench.driver.delete_storage(spec.uuid)
    bench.driver.delete_image(version)
    assert not bench.driver.has_image(version)


def test_a_seed_replaces_the_one_before(bench: Bench) -> None:
    spec = bench.spec()
    bench.driver.write_seed(spec.uuid, make_seed(spec))
    bench.driver.write_seed(spec.uuid, make_seed(spec, hostname="1234"))
    assert [name.rsplit("/", 1)[1] for name in volumes_of(bench, spec.uuid)] == ["seed.iso"]


def volumes_of(bench: Bench, machine: UUID) -> list[str]:
    return [volume.name for volume in bench.driver.list_volumes() if volume.machine == machine]


# --- definitions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("firmware", list(Firmware))
def test_nothing_is_left_of_a_machine_that_is_removed(bench: Bench, firmware: Firmware) -> None:
    spec = bench.started(firmware=firmware)
    bench.driver.undefine(spec.uuid)
    bench.driver.undefine(spec.uuid)
    bench.driver.delete_storage(spec.uuid)
    bench.driver.delete_storage(spec.uuid)
    assert spec.uuid not in {info.uuid for info in bench.driver.list()}
    assert not volumes_of(bench, spec.uuid)
    assert not list(Path("/var/lib/libvirt/qemu/nvram").glob(f"{spec.name}*"))


def test_a_machine_without_disk_or_seed_is_not_defined(bench: Bench) -> None:
    spec = bench.spec()
    with pytest.raises(VolumeNotFoundError):
        bench.driver.define(spec)
    bench.driver.create_disk(spec.uuid, image=bench.image, size_bytes=GIB)
    with pytest.raises(VolumeNotFoundError):
        bench.driver.define(spec)
    with pytest.raises(DomainNotFoundError):
        bench.driver.get(spec.uuid)


def test_a_machine_without_console_password_is_refused(bench: Bench) -> None:
    spec = bench.spec(console_secret="")
    bench.add_files(spec)
    with pytest.raises(InvalidSpecError):
        bench.driver.define(spec)
    with pytest.raises(DomainNotFoundError):
        bench.driver.power_state(spec.uuid)


def test_a_defined_machine_is_off_and_ours(bench: Bench) -> None:
    spec = bench.defined(vcpus=2, memory_mib=384)
    bench.driver.define(spec)
    info = bench.driver.get(spec.uuid)
    assert info == next(listed for listed in bench.driver.list() if listed.uuid == spec.uuid)
    assert (info.name, info.vcpus, info.memory_mib, info.owned) == (spec.name, 2, 384, True)
    assert info.power_state is bench.driver.power_state(spec.uuid) is PowerState.SHUT_OFF


def test_a_running_machine_takes_a_new_definition_at_its_next_start(bench: Bench) -> None:
    spec = bench.started()
    bench.driver.define(replace(spec, memory_mib=320, console_secret="another1"))
    assert bench.driver.get(spec.uuid).memory_mib == spec.memory_mib
    assert bench.driver.console(spec.uuid).secret == spec.console_secret
    bench.driver.force_off(spec.uuid)
    bench.driver.start(spec.uuid)
    assert bench.driver.get(spec.uuid).memory_mib == 320
    assert bench.driver.console(spec.uuid).secret == "another1"


def operations_on_a_machine(driver: HypervisorDriver) -> tuple[Callable[[UUID], object], ...]:
    """Those that need the domain to be there."""
    power = (driver.start, driver.shut_down, driver.reboot, driver.reset, driver.force_off)
    looks = (driver.get, driver.power_state, driver.console, driver.screenshot, driver.agent_ready, driver.addresses)
    return (*power, *looks)


def test_a_machine_of_someone_else_is_listed_and_left_alone(bench: Bench) -> None:
    foreign = bench.backstage.add_foreign()
    driver = bench.driver
    try:
        before = next(info for info in driver.list() if info.uuid == foreign)
        assert not before.owned
        for operation in (*operations_on_a_machine(driver), driver.undefine):
            with pytest.raises(DomainNotFoundError):
                operation(foreign)
        spec = replace(bench.spec(), uuid=foreign)
        bench.add_files(spec)
        with pytest.raises(DomainNotFoundError):
            driver.define(spec)
        assert next(info for info in driver.list() if info.uuid == foreign) == before
    finally:
        bench.backstage.remove_foreign(foreign)
        driver.delete_storage(foreign)


def test_a_machine_of_someone_else_is_taken_over_and_given_back(bench: Bench) -> None:
    foreign = bench.backstage.add_foreign()
    driver = bench.driver

    def seen() -> MachineInfo:
        return next(info for info in driver.list() if info.uuid == foreign)

    try:
        before = seen()
        driver.adopt(foreign)
        driver.adopt(foreign)
        assert seen() == replace(before, owned=True)
        driver.start(foreign)
        # It is given back and taken over as it runs, and runs on.
        driver.disown(foreign)
        driver.disown(foreign)
        assert seen() == replace(before, power_state=PowerState.RUNNING)
        with pytest.raises(DomainNotFoundError):
            driver.force_off(foreign)
        driver.adopt(foreign)
        assert driver.power_state(foreign) is PowerState.RUNNING
        driver.force_off(foreign)
        driver.disown(foreign)
        assert seen() == before
    finally:
        driver.adopt(foreign)
        driver.force_off(foreign)
        driver.disown(foreign)
        bench.backstage.remove_foreign(foreign)


def test_nobody_is_not_taken_over(bench: Bench) -> None:
    with pytest.raises(DomainNotFoundError):
        bench.driver.adopt(uuid4())
    bench.driver.disown(uuid4())


def test_an_unknown_machine_is_not_found(bench: Bench) -> None:
    nobody, driver = uuid4(), bench.driver
    for operation in operations_on_a_machine(driver):
        with pytest.raises(DomainNotFoundError):
            operation(nobody)
    driver.undefine(nobody)
    driver.delete_storage(nobody)


# --- power --------------------------------------------------------------------------------------------------------


def test_starting_twice_is_starting_once(bench: Bench) -> None:
    spec = bench.started()
    bench.driver.start(spec.uuid)
    assert bench.driver.power_state(spec.uuid) is PowerState.RUNNING


def test_a_machine_that_is_off_has_no_console_screen_or_agent(bench: Bench) -> None:
    spec, driver = bench.defined(), bench.driver
    for operation in (driver.console, driver.screenshot, driver.reboot, driver.reset):
        with pytest.raises(InvalidOperationError):
            operation(spec.uuid)
    assert driver.agent_ready(spec.uuid) is False
    assert driver.addresses(spec.uuid) == ()
    with pytest.raises(GuestAgentError):
        driver.run_in_guest(spec.uuid, ("/bin/true",))
    driver.shut_down(spec.uuid)
    driver.force_off(spec.uuid)


def test_a_guest_that_ignores_the_power_button_is_forced_off_within_five_seconds(bench: Bench) -> None:
    """F26: a button pressed before the operating system is up is lost, and force must not press the same one."""
    spec = bench.defined()
    bench.driver.start(spec.uuid)
    bench.backstage.ignore_shutdown(spec.uuid)
    bench.driver.shut_down(spec.uuid)
    assert bench.driver.power_state(spec.uuid) is PowerState.RUNNING
    began = time.monotonic()
    bench.driver.force_off(spec.uuid)
    assert time.monotonic() - began < 5
    assert bench.driver.power_state(spec.uuid) is PowerState.SHUT_OFF
    bench.driver.force_off(spec.uuid)


def test_storage_of_a_running_machine_is_kept(bench: Bench) -> None:
    spec = bench.started()
    before = volumes_of(bench, spec.uuid)
    with pytest.raises(InvalidOperationError):
        bench.driver.delete_storage(spec.uuid)
    assert volumes_of(bench, spec.uuid) == before


def test_two_machines_share_no_secret_and_no_socket(bench: Bench) -> None:
    first, second = bench.started(), bench.started()
    ends = [bench.driver.console(spec.uuid) for spec in (first, second)]
    assert [end.secret for end in ends] == [first.console_secret, second.console_secret]
    assert ends[0].secret != ends[1].secret
    assert ends[0].socket_path != ends[1].socket_path
    assert first.console_secret not in repr(ends[0])
    assert first.console_secret not in repr(first)


def test_machines_have_serial_ports_of_their_own_and_a_log_that_may_be_empty(bench: Bench) -> None:
    spec = bench.defined()
    assert bench.driver.console_log(spec.uuid) == b""
    bench.driver.start(spec.uuid)
    ports = {bench.driver.console(one.uuid).serial_path for one in (spec, bench.started())}
    assert len(ports) == 2
    assert "" not in ports
    assert bench.driver.console_log(uuid4()) == b""


def test_a_running_machine_shows_its_screen(bench: Bench) -> None:
    spec = bench.started()
    assert bench.driver.screenshot(spec.uuid).startswith(PNG)


def test_a_booted_guest_answers_runs_commands_has_an_address_and_shuts_down(bench: Bench) -> None:
    """One boot for all of it: booting is what takes time."""
    spec, driver = bench.booted(), bench.driver
    result = driver.run_in_guest(spec.uuid, ("/bin/echo", "a b", "c;d"))
    assert (result.exit_code, result.stdout, result.stderr) == (0, b"a b c;d\n", b"")
    assert driver.run_in_guest(spec.uuid, ("/bin/cat",), stdin=b"\0\xff text").stdout == b"\0\xff text"
    assert driver.run_in_guest(spec.uuid, ("/bin/false",)).exit_code == 1
    wait_until(lambda: driver.addresses(spec.uuid) != (), GUEST_S)
    assert all(address.count(".") == 3 for address in driver.addresses(spec.uuid))
    driver.shut_down(spec.uuid)
    wait_until(lambda: driver.power_state(spec.uuid) is PowerState.SHUT_OFF, GUEST_S)
    assert driver.agent_ready(spec.uuid) is False


# --- events -------------------------------------------------------------------------------------------------------


def test_events_tell_a_machines_life(bench: Bench) -> None:
    with following(bench.driver) as log:
        log.wait_for(lambda event: event.kind is EventKind.RESYNC)
        assert log.events[0].kind is EventKind.RESYNC
        spec = bench.started()
        log.wait_for(lambda event: (event.uuid, event.power_state) == (spec.uuid, PowerState.RUNNING))
        bench.driver.force_off(spec.uuid)
        off = log.wait_for(lambda event: (event.uuid, event.power_state) == (spec.uuid, PowerState.SHUT_OFF))
        assert off.kind is EventKind.CHANGED
        assert off.at.tzinfo is not None
        bench.driver.undefine(spec.uuid)
        log.wait_for(lambda event: event.kind is EventKind.GONE and event.uuid == spec.uuid)
