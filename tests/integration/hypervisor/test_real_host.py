"""What only real QEMU and libvirt can show: sockets, permissions, filters, full disks, and a libvirt that goes away."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import libvirt
import pytest

from tests.integration.hypervisor import rfb
from tests.integration.hypervisor.harness import BOOT_S, GIB, GUEST_S, Bench, RealBackstage, following, make_seed
from tests.support.libvirtd import (
    Libvirtd,
    foreign_domain_xml,
    run_name,
    running_libvirtd,
    temporary_pool,
    unique_suffix,
    wait_until,
)
from workers.hypervisor.errors import (
    GuestAgentError,
    HostUnreachableError,
    HypervisorError,
    InvalidOperationError,
    StorageFullError,
)
from workers.hypervisor.kvm import accel
from workers.hypervisor.kvm.connection import Connection
from workers.hypervisor.kvm.driver import KvmDriver
from workers.hypervisor.types import EventKind, HostConfig, MachineEvent, PowerState

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.fixture
def bench(real_bench: Bench) -> Iterator[Bench]:
    yield real_bench
    real_bench.clean()


def pool_of(bench: Bench) -> Path:
    assert isinstance(bench.driver, KvmDriver)
    return bench.driver._config.pool_dir


def off(machine: UUID) -> tuple[EventKind, UUID, PowerState]:
    return EventKind.CHANGED, machine, PowerState.SHUT_OFF


def is_off(event: MachineEvent, machine: UUID) -> bool:
    return (event.kind, event.uuid, event.power_state) == off(machine)


def is_paused(event: MachineEvent, machine: UUID) -> bool:
    return (event.uuid, event.power_state) == (machine, PowerState.PAUSED)


def test_what_ends_first_in_a_test_run_leaves_the_others_network_and_pool(bench: Bench) -> None:
    """Several suites share one process; each has its own use of libvirt."""
    with running_libvirtd(), temporary_pool() as other:
        assert other.is_dir()
    assert not other.exists()
    spec = bench.started()
    assert bench.driver.power_state(spec.uuid) is PowerState.RUNNING


# --- the console --------------------------------------------------------------------------------------------------


def test_the_console_is_a_socket_that_asks_for_its_own_password(bench: Bench) -> None:
    spec = bench.started()
    endpoint = bench.driver.console(spec.uuid)
    assert stat.S_ISSOCK(Path(endpoint.socket_path).stat().st_mode)
    assert rfb.password_is_taken(endpoint, spec.console_secret)
    assert not rfb.password_is_taken(endpoint, "")
    assert not rfb.password_is_taken(endpoint, "wrong")


def test_qemu_listens_on_no_tcp_port(bench: Bench) -> None:
    """Of all that this machine's process has open; another QEMU may listen wherever its owner likes."""
    spec = bench.started()
    process = _process_of(spec.uuid)
    opened = {link.readlink().name for link in (process / "fd").iterdir() if link.is_symlink()}
    sockets = {name.removeprefix("socket:[").rstrip("]") for name in opened if name.startswith("socket:[")}
    assert sockets & _inodes(process / "net/unix", place=6), "its screen is a UNIX socket"
    assert not sockets & _inodes(process / "net/tcp", place=9)
    assert not sockets & _inodes(process / "net/tcp6", place=9)


def _process_of(machine: UUID) -> Path:
    """QEMU's folder in /proc; libvirt puts the UUID on its command line."""
    lines = {path.parent: _command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
    (found,) = [folder for folder, line in lines.items() if b"qemu-system" in line and str(machine).encode() in line]
    return found


def _command_line(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # It has ended meanwhile.


def _inodes(table: Path, *, place: int) -> set[str]:
    return {line.split()[place] for line in table.read_text().splitlines()[1:]}


def test_a_machine_that_exists_only_while_it_runs_is_not_taken_over(bench: Bench) -> None:
    """It would be gone for good when it is switched off, and nothing could start it again."""
    uuid = uuid4()
    domain = bench_conn().createXML(foreign_domain_xml(run_name(f"-passing{unique_suffix()}"), str(uuid)))
    try:
        with pytest.raises(InvalidOperationError):
            bench.driver.adopt(uuid)
        assert not next(info for info in bench.driver.list() if info.uuid == uuid).owned
    finally:
        domain.destroy()


# --- files --------------------------------------------------------------------------------------------------------


def test_files_are_for_qemu_and_nobody_else(bench: Bench) -> None:
    spec = bench.started()
    pool = pool_of(bench)
    for path in (pool, *pool.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISSOCK(mode):  # QEMU's own mode; it is the folder that keeps others out.
            assert is_out_of_reach(path), f"anybody may write to {path}"
            continue
        assert not mode & 0o007 or path in {pool, pool / "accelerator.json"}, f"{path.name}: {mode:o}"
    base = pool / "images" / f"{bench.image}.qcow2"
    assert base.stat().st_uid == 0, "QEMU's user must not own a base that others share"
    assert not base.stat().st_mode & 0o222
    assert bench.driver.power_state(spec.uuid) is PowerState.RUNNING


def is_out_of_reach(path: Path) -> bool:
    """True if a stranger on the host cannot connect to the socket: tried by one, with the system's own Python."""
    attempt = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    asked = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", attempt, str(path)],
        user="nobody",
        group="nogroup",
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    return "PermissionError" in asked.stderr


def test_a_disk_whose_header_was_changed_opens_no_other_file(bench: Bench, tmp_path: Path) -> None:
    """A guest that broke out rewrites its own overlay to read a host's file; the next start must not follow it."""
    canary = tmp_path / "canary"
    canary.write_bytes(os.urandom(1 << 20))
    before = canary.stat()
    spec = bench.defined()
    disk = pool_of(bench) / "machines" / str(spec.uuid) / "disk.qcow2"
    rebase = ["qemu-img", "rebase", "-q", "-u", "-f", "qcow2", "-b", str(canary), "-F", "raw", str(disk)]
    subprocess.run(rebase, check=True)
    bench.driver.start(spec.uuid)
    live = bench_conn().lookupByUUIDString(str(spec.uuid))
    assert str(canary) not in live.XMLDesc(0)
    assert open_files(spec.uuid).isdisjoint({str(canary)})
    assert canary.stat().st_uid == before.st_uid


def open_files(machine: UUID) -> set[str]:
    """What the domain's QEMU has open. Its arguments hold the UUID, which is how it is found."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(machine) in (process / "cmdline").read_text(errors="replace"):
                return {str(link.readlink()) for link in (process / "fd").iterdir()}
        except OSError:
            continue
    raise AssertionError("its QEMU was not found")


def bench_conn() -> libvirt.virConnect:
    return libvirt.open("qemu:///system")


def test_an_image_that_names_another_file_is_refused(bench: Bench, tmp_path: Path) -> None:
    """F11: a backing file, and an external data file."""
    canary = tmp_path / "canary"
    canary.write_bytes(b"secret" * 100_000)
    backed, data = tmp_path / "backed.qcow2", tmp_path / "data.qcow2"
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*create, "-u", "-b", str(canary), "-F", "raw", str(backed), "1M"], check=True)
    subprocess.run([*create, "-o", f"data_file={tmp_path / 'raw'}", str(data), "1M"], check=True)
    for image in (backed, data):
        version = uuid4()
        with pytest.raises(HypervisorError) as caught:
            bench.driver.put_image(version, image, progress=lambda _percent: None)
        assert caught.value.code == "invalid-image"
        assert not bench.driver.has_image(version)
    assert not list((pool_of(bench) / "images").glob(".*"))


def test_a_full_disk_is_said_and_leaves_nothing(libvirtd: Libvirtd, microguest: Path, bench: Bench) -> None:
    with temporary_pool() as pool:
        size = microguest.stat().st_size + (80 << 20)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "casement-test", str(pool)], check=True)
        driver = KvmDriver(HostConfig(libvirtd.uri, pool, network=bench.network))
        small = Bench("real", driver, uuid4(), microguest, bench.network, RealBackstage(libvirtd.uri))
        try:
            driver.put_image(small.image, microguest, progress=lambda _percent: None)
            (pool / "ballast").write_bytes(bytes(driver.host_info().storage_free_bytes - (1 << 20)))
            spec = small.spec()
            with pytest.raises(StorageFullError):
                driver.create_disk(spec.uuid, image=small.image, size_bytes=GIB)
            with pytest.raises(StorageFullError):
                driver.put_image(uuid4(), microguest, progress=lambda _percent: None)
            (pool / "more").write_bytes(bytes(driver.host_info().storage_free_bytes - (16 << 10)))
            with pytest.raises(StorageFullError):
                driver.write_seed(spec.uuid, make_seed(spec))
            assert [volume.name for volume in driver.list_volumes()] == [f"images/{small.image}.qcow2"]
            (pool / "more").unlink()
            (pool / "ballast").unlink()
            small.add_files(spec)
            driver.define(spec)
            driver.start(spec.uuid)
            assert driver.power_state(spec.uuid) is PowerState.RUNNING
        finally:
            small.clean()
            driver.close()
            subprocess.run(["umount", str(pool)], check=True)


# --- the accelerator ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kernel(microguest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small guest's kernel, read out of its file system."""
    folder = tmp_path_factory.mktemp("kernel")
    raw, kernel = folder / "disk.raw", folder / "vmlinuz"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(microguest), str(raw)], check=True)
    table = json.loads(subprocess.run(["sfdisk", "--json", str(raw)], check=True, capture_output=True).stdout)
    root = table["partitiontable"]["partitions"][-1]
    disk = f"{raw}?offset={root['start'] * 512}"
    subprocess.run(["debugfs", "-R", f"dump /vmlinuz {kernel}", disk], check=True, capture_output=True)
    assert kernel.stat().st_size > 1 << 20
    return kernel


def test_the_probe_boots_a_real_kernel_up_to_its_first_process(kernel: Path) -> None:
    assert accel.test_boot(kernel, accelerator="tcg", limit_s=BOOT_S) is None


def test_a_host_that_does_not_run_kvm_says_so_within_seconds(kernel: Path) -> None:
    """Either answer is right, as hosts differ; it must come in time and say why."""
    began = time.monotonic()
    found = accel.probe(kernel)
    assert time.monotonic() - began < accel.PROBE_LIMIT_S + 5
    assert found.kind in {"kvm", "tcg"}
    assert found.reason.endswith(".")


# --- the guest ----------------------------------------------------------------------------------------------------


def test_a_guest_has_its_address_and_cannot_take_another(bench: Bench) -> None:
    """The filter lets the leased address through and drops what comes from another address or card."""
    spec = bench.booted()
    driver = bench.driver

    def run(*argv: str) -> int:
        return driver.run_in_guest(spec.uuid, ("/bin/busybox", *argv), timeout_s=GUEST_S).exit_code

    wait_until(lambda: driver.addresses(spec.uuid) != (), GUEST_S)
    address = driver.addresses(spec.uuid)[0]
    net, _, own = address.rpartition(".")
    gateway, stolen = f"{net}.1", f"{net}.{251 if own == '250' else 250}"
    card = driver.run_in_guest(spec.uuid, ("/bin/sh", "-c", "basename /sys/class/net/e*")).stdout.decode().strip()
    # The lease is known a moment before the guest has put the address on its card.
    wait_until(lambda: run("ping", "-c", "1", "-w", "5", gateway) == 0, GUEST_S)
    assert run("ip", "addr", "add", f"{stolen}/24", "dev", card) == 0
    assert run("ping", "-c", "2", "-w", "4", "-I", stolen, gateway) != 0
    assert run("ping", "-c", "2", "-w", "60", gateway) == 0
    assert run("ip", "link", "set", card, "address", "52:54:00:aa:bb:cc") == 0
    assert run("ping", "-c", "2", "-w", "4", gateway) != 0
    assert driver.agent_ready(spec.uuid)
    with pytest.raises(GuestAgentError) as caught:
        driver.run_in_guest(spec.uuid, ("/no/such/program",))
    assert not caught.value.retryable
    with pytest.raises(GuestAgentError, match="did not end"):
        driver.run_in_guest(spec.uuid, ("/bin/busybox", "sleep", "60"), timeout_s=1)


def test_a_reboot_is_asked_for_and_happens(bench: Bench) -> None:
    spec = bench.booted()
    with following(bench.driver) as log:
        log.wait_for(lambda event: event.kind is EventKind.RESYNC)
        bench.driver.reboot(spec.uuid)
        log.wait_for(lambda event: (event.kind, event.uuid) == (EventKind.AGENT, spec.uuid), BOOT_S)
    assert bench.driver.power_state(spec.uuid) is PowerState.RUNNING


def test_the_seed_reaches_the_guest_and_the_boot_is_logged(bench: Bench) -> None:
    """F19: a host name of digits only."""
    spec = bench.spec()
    bench.driver.create_disk(spec.uuid, image=bench.image, size_bytes=GIB)
    bench.driver.write_seed(spec.uuid, make_seed(spec, hostname="1234"))
    bench.driver.define(spec)
    bench.driver.start(spec.uuid)
    wait_until(lambda: bench.driver.agent_ready(spec.uuid), BOOT_S)
    assert bench.driver.run_in_guest(spec.uuid, ("/bin/hostname",)).stdout == b"1234\n"
    wait_until(lambda: b"casement-micro ready: 1234" in bench.driver.console_log(spec.uuid), GUEST_S)
    _types_on_its_serial_port(bench, spec.uuid)


def _types_on_its_serial_port(bench: Bench, machine: UUID) -> None:
    """Visitors come one after the other; what nobody heard is in the log all the same."""
    path = Path(bench.driver.console(machine).serial_path)
    for number in (1, 2):
        with socket.socket(socket.AF_UNIX) as port:
            port.settimeout(GUEST_S)
            port.connect(str(path))
            port.sendall(b"\r")
            port.sendall(b"echo said-$((40+%d))\r" % number)
            heard = b""
            while b"said-4%d" % number not in heard:
                piece = port.recv(4096)
                assert piece, f"the port was closed after {heard!r}"
                heard += piece
    bench.driver.run_in_guest(machine, ("/bin/sh", "-c", "echo to nobody > /dev/ttyS0"))
    wait_until(lambda: b"to nobody" in bench.driver.console_log(machine), GUEST_S)
    assert b"said-42" in bench.driver.console_log(machine)
    # Open to QEMU's group, as the screen's socket is, so that a web process without other rights can use it.
    assert stat.S_IMODE(path.stat().st_mode) & 0o060 == 0o060
    assert path.stat().st_gid == Path(bench.driver.console(machine).socket_path).stat().st_gid
    bench.driver.force_off(machine)
    assert b"said-42" in bench.driver.console_log(machine)
    bench.driver.undefine(machine)
    bench.driver.delete_storage(machine)
    assert bench.driver.console_log(machine) == b""
    assert not path.exists()


# --- a libvirt that goes away --------------------------------------------------------------------------------------


def test_events_come_within_a_second(bench: Bench) -> None:
    spec = bench.started()
    with following(bench.driver) as log:
        log.wait_for(lambda event: event.kind is EventKind.RESYNC)
        conn = bench_conn()
        conn.lookupByUUIDString(str(spec.uuid)).suspend()
        done = time.time()
        event = log.wait_for(lambda event: is_paused(event, spec.uuid))
        assert event.at.timestamp() - done < 1
        bench.driver.start(spec.uuid)
        assert bench.driver.power_state(spec.uuid) is PowerState.RUNNING


@pytest.mark.restarts_libvirtd
def test_guests_calls_and_events_survive_three_restarts_of_libvirtd(bench: Bench, libvirtd: Libvirtd) -> None:
    """F42: it reconnects, and events go on coming after each reconnect."""
    if not libvirtd.ours:
        pytest.skip("the libvirtd of this machine is not the tests' to restart")
    spec = bench.started()
    driver = bench.driver
    endpoint = driver.console(spec.uuid)
    with following(driver) as log:
        log.wait_for(lambda event: event.kind is EventKind.RESYNC)
        for restart in (1, 2, 3):
            libvirtd.restart()
            log.wait_for(lambda event: event.kind is EventKind.RESYNC, times=restart + 1)
            assert driver.power_state(spec.uuid) is PowerState.RUNNING
            assert driver.console(spec.uuid) == endpoint
            assert rfb.password_is_taken(endpoint, spec.console_secret)
        # It answers only once libvirtd has the guest back. Cut off before that, a guest ends without an event: libvirtd
        # takes it for one that it could not reconnect to. Comparing finds it then, and whoever cut it off knows.
        assert driver.screenshot(spec.uuid)
        driver.force_off(spec.uuid)
        log.wait_for(lambda event: is_off(event, spec.uuid))


@pytest.mark.restarts_libvirtd
def test_a_call_while_libvirtd_is_away_fails_at_once_and_may_be_tried_again(bench: Bench, libvirtd: Libvirtd) -> None:
    if not libvirtd.ours:
        pytest.skip("the libvirtd of this machine is not the tests' to stop")
    spec = bench.defined()
    libvirtd.stop()
    try:
        with pytest.raises(HostUnreachableError) as caught:
            bench.driver.power_state(spec.uuid)
        assert caught.value.retryable
    finally:
        libvirtd.start()
    assert bench.driver.power_state(spec.uuid) is PowerState.SHUT_OFF


@pytest.mark.restarts_libvirtd
def test_a_libvirtd_that_hangs_costs_a_caller_its_limit_and_no_more(bench: Bench, libvirtd: Libvirtd) -> None:
    if not libvirtd.ours:
        pytest.skip("the libvirtd of this machine is not the tests' to stop")
    spec = bench.defined()
    config = HostConfig(libvirtd.uri, pool_of(bench), network=bench.network)
    driver = KvmDriver(config, connection=Connection(libvirtd.uri, call_limit_s=1))

    def answers() -> bool:
        """A second is little on a busy machine, for a libvirtd that does not hang as well."""
        with contextlib.suppress(HostUnreachableError):
            return driver.power_state(spec.uuid) is PowerState.SHUT_OFF
        return False

    wait_until(answers, GUEST_S)
    os.kill(libvirtd.pid(), signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(HostUnreachableError):
            driver.power_state(spec.uuid)
        assert time.monotonic() - began < 5
    finally:
        os.kill(libvirtd.pid(), signal.SIGCONT)
    wait_until(answers, GUEST_S)
    driver.close()


def test_the_network_is_made_again_when_it_was_taken_down(bench: Bench) -> None:
    conn = bench_conn()
    conn.networkLookupByName(run_name()).destroy()
    bench.driver.prepare_host()
    network = conn.networkLookupByName(run_name())
    assert network.isActive()
    assert network.autostart()


def test_folders_that_were_removed_are_told_in_words_and_made_again(bench: Bench) -> None:
    pool = pool_of(bench)
    away = pool.with_name(f"{pool.name}-away")
    pool.rename(away)
    try:
        with pytest.raises(HypervisorError):
            bench.driver.host_info()
        assert bench.driver.prepare_host().storage_total_bytes > 0
    finally:
        shutil.rmtree(pool, ignore_errors=True)
        away.rename(pool)


def test_a_filter_that_outlived_its_guest_keeps_no_other_from_starting(bench: Bench) -> None:
    # None of libvirt's own names: it may have come so far with its numbers.
    owner, tap = uuid4(), f"cm{os.getpid()}"
    binding = f"""<filterbinding><owner><name>gone</name><uuid>{owner}</uuid></owner><portdev name='{tap}'/>
        <mac address='52:54:00:00:00:77'/><filterref filter='clean-traffic'/></filterbinding>"""
    subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap"], check=True)
    try:
        bench_conn().nwfilterBindingCreateXML(binding, 0)
        bench.driver.prepare_host()
        left = [found.portDev() for found in bench_conn().listAllNWFilterBindings()]
    finally:
        subprocess.run(["ip", "link", "delete", tap], check=True)
    assert tap not in left
