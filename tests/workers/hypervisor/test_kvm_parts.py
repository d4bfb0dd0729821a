"""The smaller parts of the KVM driver: limits, errors, network, screen, accelerator, daemon, registry."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from io import BytesIO
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import libvirt
import pytest
from lxml import etree
from PIL import Image

from workers.hypervisor.errors import (
    DomainNotFoundError,
    GuestAgentError,
    HostUnreachableError,
    HypervisorError,
    InvalidOperationError,
    StorageFullError,
)
from workers.hypervisor.fake import FakeDriver, fake_host
from workers.hypervisor.kvm import accel, agent, daemon, events, network
from workers.hypervisor.kvm.connection import Connection, translate
from workers.hypervisor.kvm.driver import KvmDriver, host_warnings, may_open_kvm
from workers.hypervisor.kvm.limits import CallLimiter
from workers.hypervisor.kvm.screen import to_png
from workers.hypervisor.registry import driver_for
from workers.hypervisor.types import Accelerator, EventKind, HostConfig

# --- limits -------------------------------------------------------------------------------------------------------


def test_a_call_gives_its_value_or_its_error() -> None:
    limiter = CallLimiter()
    assert limiter.run(lambda: 7, 1) == 7
    with pytest.raises(ZeroDivisionError):
        limiter.run(lambda: 1 // 0, 1)


def test_a_call_that_hangs_is_left_at_its_limit() -> None:
    limiter, release = CallLimiter(), threading.Event()
    began = time.monotonic()
    with pytest.raises(HostUnreachableError):
        limiter.run(release.wait, 0.1)
    assert time.monotonic() - began < 5
    release.set()


def test_a_silent_host_holds_only_so_many_threads() -> None:
    limiter, release = CallLimiter(most_at_once=2), threading.Event()
    others = set(threading.enumerate())  # Of earlier tests: they may not have ended yet.
    for _ in range(3):
        with pytest.raises(HostUnreachableError):
            limiter.run(release.wait, 0.05)
    assert sum(thread.name == "hypervisor-call" for thread in set(threading.enumerate()) - others) <= 2
    release.set()
    assert limiter.run(lambda: "free again", 60) == "free again"


# --- errors -------------------------------------------------------------------------------------------------------


def libvirt_error(code: int, *, source: int = 10, text: str = "secret /path", errno: int = 0) -> libvirt.libvirtError:
    error = libvirt.libvirtError(text)
    error.err = (code, source, text, 2, text, None, None, errno, 0)
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (libvirt_error(libvirt.VIR_ERR_NO_DOMAIN), DomainNotFoundError),
        (libvirt_error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE), GuestAgentError),
        (libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID), InvalidOperationError),
        (libvirt_error(libvirt.VIR_ERR_SYSTEM_ERROR, errno=28), StorageFullError),
        (libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, text="qemu: No space left on device"), StorageFullError),
        (libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, source=libvirt.VIR_FROM_RPC), HostUnreachableError),
        (libvirt_error(libvirt.VIR_ERR_NO_CONNECT), HostUnreachableError),
        (libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, text="End of file from qemu monitor"), InvalidOperationError),
        (libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR), HypervisorError),
    ],
)
def test_errors_are_translated_and_show_nothing(error: libvirt.libvirtError, kind: type[HypervisorError]) -> None:
    translated = translate(error, "start the machine")
    assert type(translated) is kind
    assert "secret" not in str(translated)
    assert "/path" not in str(translated)


def test_a_host_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    driver = KvmDriver(HostConfig(f"qemu:///system?socket={tmp_path / 'nothing'}", tmp_path))
    with pytest.raises(HostUnreachableError) as caught:
        driver.list()
    assert caught.value.retryable
    assert str(tmp_path) not in str(caught.value)
    driver.close()


def test_a_driver_that_was_never_used_opens_nothing(tmp_path: Path) -> None:
    connection = Connection("qemu:///nowhere")
    KvmDriver(HostConfig("qemu:///nowhere", tmp_path), connection=connection).close()


def test_libvirt_that_was_opened_before_a_fork_is_refused_after_it() -> None:
    """A child that used its parent's event loop would wait for ever."""
    program = """
import os
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.kvm.connection import open_connection
try:
    open_connection("test:///default?socket=/nonexistent").close()
except HypervisorError:
    pass
child = os.fork()
if child == 0:
    try:
        open_connection("test:///default")
    except HypervisorError as error:
        os._exit(3 if "forked" in str(error) else 4)
    os._exit(5)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=False, timeout=60)
    assert done.returncode == 3


# --- events -------------------------------------------------------------------------------------------------------


def test_a_reader_that_is_too_slow_is_told_to_compare_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE_SIZE", 1)
    subscription, stop = events._Subscription(_SilentConnection()), threading.Event()
    stream = subscription.events(stop.is_set)
    assert next(stream).kind is EventKind.RESYNC
    for _ in range(3):
        subscription._on_lifecycle(None, _Domain(), libvirt.VIR_DOMAIN_EVENT_STARTED, 0, None)
    assert next(stream).kind is EventKind.CHANGED
    assert next(stream).kind is EventKind.RESYNC
    subscription._on_lifecycle(None, _Domain(), libvirt.VIR_DOMAIN_EVENT_UNDEFINED, 0, None)
    assert next(stream).kind is EventKind.GONE
    stop.set()
    assert list(stream) == []


def test_events_about_no_power_are_left_out() -> None:
    subscription = events._Subscription(_SilentConnection())
    for event in (libvirt.VIR_DOMAIN_EVENT_DEFINED, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN):
        subscription._on_lifecycle(None, _Domain(), event, 0, None)
    assert subscription._queue.empty()


def test_events_end_when_told_so_while_the_host_is_away(tmp_path: Path) -> None:
    asked = iter([False, False, True, True])
    assert list(events.follow(f"qemu:///system?socket={tmp_path / 'nothing'}", lambda: next(asked, True))) == []


class _SilentConnection:
    def registerCloseCallback(self, *_arguments: object) -> None: ...
    def domainEventRegisterAny(self, *_arguments: object) -> int:
        return 1

    def isAlive(self) -> bool:
        return True


class _Domain:
    def UUID(self) -> bytes:
        return bytes(16)


# --- the agent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "::", "fe80::1", "169.254.1.1", "<script>", "10.0.0.1\n", ""])
def test_what_a_guest_calls_an_address_is_checked(text: str) -> None:
    assert agent._usable({"eth0": {"addrs": [{"addr": text}]}}) == ()


def test_addresses_are_each_told_once() -> None:
    interfaces: dict[str, Any] = {
        "lo": {"addrs": [{"addr": "127.0.0.1"}]},
        "eth0": {"addrs": [{"addr": "10.0.0.5"}, {"addr": "2001:DB8::5"}]},
        "br0": {"addrs": [{"addr": "10.0.0.5"}]},
        "down": {"addrs": None},
    }
    assert agent._usable(interfaces) == ("10.0.0.5", "2001:db8::5")
    assert agent._usable(None) == ()


@pytest.mark.parametrize("status", [{"exitcode": 0, "out-data": "!!!"}, {"exitcode": 0, "out-data": 5}])
def test_a_guests_rubbish_is_an_agent_error(status: dict[str, Any]) -> None:
    with pytest.raises(GuestAgentError):
        agent._result(status)


def test_a_command_that_a_signal_ended_has_an_exit_code() -> None:
    assert agent._result({"signal": 9}).exit_code == 137


# --- the network --------------------------------------------------------------------------------------------------


def test_a_subnet_that_is_routed_already_is_not_taken() -> None:
    assert network.free_subnet([]) == IPv4Network("10.213.0.0/24")
    assert network.free_subnet([IPv4Network("10.213.0.128/25")]) == IPv4Network("10.213.1.0/24")
    assert network.free_subnet([IPv4Network("10.213.0.0/16")]) == IPv4Network("10.214.0.0/24")
    with pytest.raises(HypervisorError):
        network.free_subnet([IPv4Network("10.0.0.0/8")])


@pytest.mark.parametrize("name", ["casement", "a-very-long-network-name", "a-very-long-network-nama"])
def test_a_bridge_has_a_name_that_linux_takes(name: str) -> None:
    assert len(network.bridge_name(name)) <= 15
    assert network.bridge_name("a-very-long-network-name") != network.bridge_name("a-very-long-network-nama")


def test_the_networks_xml_has_nat_and_dhcp() -> None:
    root = etree.fromstring(network.network_xml("casement", IPv4Network("10.213.0.0/24")))
    assert root.find("forward[@mode='nat']") is not None
    leases = root.find("ip[@address='10.213.0.1']/dhcp/range")
    assert leases is not None
    assert (leases.get("start"), leases.get("end")) == ("10.213.0.2", "10.213.0.254")


# --- the screen ---------------------------------------------------------------------------------------------------


def test_a_screen_dump_becomes_a_png() -> None:
    # The first pixel looks like white space: the header must not swallow it.
    pixels = b"\n\n\n" + bytes(range(3, 18))
    with Image.open(BytesIO(to_png(b"P6\n3 2\n255\n" + pixels))) as image:
        assert image.size == (3, 2)
        assert image.convert("RGB").tobytes() == pixels


def test_a_png_passes() -> None:
    png = b"\x89PNG\r\n\x1a\n rest"
    assert to_png(png) is png


@pytest.mark.parametrize("dump", [b"", b"P6\n3 2\n255\n", b"P5\n1 1\n255\n\0", b"P6\n-1 2\n255\n", b"\0" * 100])
def test_a_damaged_dump_is_refused(dump: bytes) -> None:
    with pytest.raises(HypervisorError):
        to_png(dump)


# --- the accelerator ----------------------------------------------------------------------------------------------


def test_without_a_kernel_or_a_device_it_is_software_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accel, "KVM_DEVICE", tmp_path / "no-kvm")
    assert accel.probe(None).kind == "tcg"
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(accel, "KVM_DEVICE", tmp_path / "kvm")
    assert "no Linux kernel" in accel.probe(None).reason


def test_a_kernel_that_does_not_boot_is_no_proof(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"not a kernel")
    assert accel.test_boot(kernel, accelerator="tcg", limit_s=20) is not None


def test_the_answer_is_remembered_for_this_boot_kernel_and_qemu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[object]()

    def probe(kernel: Path | None) -> Accelerator:
        asked.append(kernel)
        return Accelerator("kvm", "Tried.")

    monkeypatch.setattr(accel, "probe", probe)
    first = accel.find_accelerator(tmp_path, qemu_version="7.2.0")
    assert accel.find_accelerator(tmp_path, qemu_version="7.2.0") == first
    assert len(asked) == 1
    accel.find_accelerator(tmp_path, qemu_version="8.0.0")
    (tmp_path / "accelerator.json").write_text("[rubbish")
    accel.find_accelerator(tmp_path, qemu_version="8.0.0")
    assert len(asked) == 3


def test_the_image_builders_kernel_comes_first(tmp_path: Path) -> None:
    kernel = tmp_path / "probe" / "vmlinuz"
    kernel.parent.mkdir()
    kernel.touch()
    assert accel.find_kernel(tmp_path) == kernel


def test_the_probes_program_is_a_tiny_linux_program(tmp_path: Path) -> None:
    """Run here, it prints its word; the power-off is refused to an ordinary process, so it waits until it is killed."""
    init = tmp_path / "init"
    init.write_bytes(accel.probe_init().replace(struct.pack("<I", 0x4321FEDC), struct.pack("<I", 0)))
    init.chmod(0o755)
    process = subprocess.Popen([str(init)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.read(18) == b"\ncasement-probe-ok"
    process.kill()
    process.wait()
    process.stdout.close()
    assert len(accel.probe_init()) < 300


# --- the daemon ---------------------------------------------------------------------------------------------------


def test_the_daemons_socket_is_for_root_or_libvirts_group(tmp_path: Path) -> None:
    assert 'unix_sock_rw_perms = "0700"' in daemon.libvirtd_conf(tmp_path, group=None)
    assert 'unix_sock_group = "libvirt"' in daemon.libvirtd_conf(tmp_path, group="libvirt")
    assert "listen" not in daemon.libvirtd_conf(tmp_path, group=None)


def test_confinement_is_switched_off_only_where_there_is_none(tmp_path: Path) -> None:
    modules = tmp_path / "lsm"
    modules.write_text("lockdown,capability,apparmor\n")
    assert daemon.has_mandatory_access_control(modules)
    modules.write_text("lockdown,capability\n")
    assert not daemon.has_mandatory_access_control(modules)
    assert "security_driver" not in daemon.qemu_conf(mandatory_access_control=True, user=None)
    assert 'user = "casement"' in daemon.qemu_conf(mandatory_access_control=False, user="casement")


def test_a_root_that_is_shared_is_told_from_one_that_is_not() -> None:
    assert daemon.root_is_shared("27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n")
    assert not daemon.root_is_shared("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n")


def test_no_daemon_is_seen_behind_a_socket_that_nobody_serves(tmp_path: Path) -> None:
    assert not daemon.is_running(tmp_path / "nothing")


# --- warnings and registry ----------------------------------------------------------------------------------------


def test_a_pool_that_qemu_cannot_reach_is_told(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "pool").mkdir(parents=True)
    closed.chmod(0o700)
    warnings = host_warnings(closed / "pool", (64055, 64055))
    assert any("“" in warning for warning in warnings)
    assert not any("pool" in warning for warning in host_warnings(closed / "pool", None))
    assert not any("pool" in warning for warning in host_warnings(closed / "pool", (os.getuid(), os.getgid())))


def test_a_kvm_device_that_qemus_user_may_not_open_is_seen(tmp_path: Path) -> None:
    device = tmp_path / "kvm"
    assert may_open_kvm(1, 1, device)
    device.touch(mode=0o600)
    device.chmod(0o600)
    assert may_open_kvm(0, 0, device)
    assert not may_open_kvm(1, 1, device)
    device.chmod(0o666)
    assert may_open_kvm(1, 1, device)


def test_one_driver_per_configuration(tmp_path: Path) -> None:
    real = HostConfig("qemu:///system", tmp_path)
    assert isinstance(driver_for(real), KvmDriver)
    assert driver_for(real) is driver_for(HostConfig("qemu:///system", tmp_path))
    fake = driver_for(HostConfig("fake://rack-7", tmp_path))
    assert isinstance(fake, FakeDriver)
    assert fake.host is fake_host("rack-7")
    with pytest.raises(HypervisorError):
        driver_for(HostConfig("vbox://host", tmp_path))


def test_fake_hosts_need_no_libvirt() -> None:
    program = """
import sys
sys.modules["libvirt"] = None
from pathlib import Path
from workers.hypervisor.registry import driver_for
from workers.hypervisor.types import HostConfig
print(driver_for(HostConfig("fake://a", Path("/nonexistent"))).list())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[3], check=True, capture_output=True, timeout=60
    )
    assert done.stdout == b"[]\n"


# --- filters ------------------------------------------------------------------------------------------------------


class Binding:
    """A filter binding on a host, of the guest `owner`; one that is `gone` has ended since it was listed."""

    def __init__(self, owner: str, *, gone: bool = False) -> None:
        self.owner, self.gone, self.deleted = owner, gone, False

    def XMLDesc(self, _flags: int) -> str:
        if self.gone:
            raise libvirt_error(libvirt.VIR_ERR_NO_NWFILTER_BINDING)
        return f"<filterbinding><owner><uuid>{self.owner}</uuid></owner></filterbinding>"

    def delete(self) -> None:
        self.deleted = True


class Bound:
    """A host on which `starting` starts between two questions."""

    def __init__(self, bindings: list[Binding], running: list[str], starting: str) -> None:
        self.bindings, self.running, self.starting, self.asked = bindings, running, starting, 0

    def _ask(self) -> None:
        self.asked += 1
        if self.asked == 2:
            self.running.append(self.starting)
            self.bindings.append(Binding(self.starting))

    def listAllNWFilterBindings(self) -> list[Binding]:
        self._ask()
        return list(self.bindings)

    def listAllDomains(self, _flags: int) -> list[Any]:
        self._ask()
        return [type("Domain", (), {"UUIDString": staticmethod(lambda uuid=uuid: uuid)}) for uuid in self.running]


def test_of_filters_only_those_without_a_guest_are_removed_whatever_starts_or_ends_meanwhile() -> None:
    bindings = [Binding("dead"), Binding("alive"), Binding("just-ended", gone=True)]
    host: Any = Bound(bindings, ["alive"], "just-started")
    network.remove_stale_filters(host)
    assert {one.owner for one in host.bindings if one.deleted} == {"dead"}
