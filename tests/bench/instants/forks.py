"""Forks on the host: ours beside the same by hand, libvirt's restore and a cold boot; what an idle one costs."""

from __future__ import annotations

import asyncio
import os
import re
import struct
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from unittest.mock import patch
from uuid import UUID, uuid4

import libvirt
import libvirt_qemu

from portal.console.rfb import RfbError, open_display
from tests.bench.rows import Row
from tests.support.libvirtd import run_name, running_libvirtd, temporary_pool, wait_until
from tests.support.settled import wait_for_desktop
from workers.hypervisor import cloud_init, guest_identity
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.guest_identity import TEMPLATE_USER, GuestIdentity
from workers.hypervisor.kvm.driver import KvmDriver
from workers.hypervisor.types import Firmware, HostConfig, MachineSpec, NetworkMode, NicSpec, ParentSpec, SeedSpec

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
MANY = int(os.environ.get("BENCH_IDLE", "30"))
MEMORY_MIB = 1024
VCPUS = 2
GIB = 1 << 30
OVERHEAD_S = 0.15
MEMORY_MB = 110
IDLE = 0.02
SETTLE_S = 30.0
WATCH_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")


def run(image: Path) -> list[Row]:
    with running_libvirtd() as libvirtd, temporary_pool() as pool:
        stage = Stage(KvmDriver(HostConfig(uri=libvirtd.uri, pool_dir=pool, network=run_name())), pool, libvirtd.uri)
        stage.driver.prepare_host()
        try:
            stage.make_parent(image)
            return [*_times(stage), *_idle(stage)]
        finally:
            stage.clean()


@dataclass
class Stage:
    """A host with one parent."""

    driver: KvmDriver
    pool: Path
    uri: str
    parent: UUID = field(default_factory=uuid4)
    image: UUID = field(default_factory=uuid4)
    machines: list[MachineSpec] = field(default_factory=list)

    def make_parent(self, image: Path) -> None:
        driver = self.driver
        driver.put_image(self.image, image, progress=lambda _percent: None)
        driver.start_parent(
            ParentSpec(
                uuid=self.parent,
                name=run_name(f"-parent-{self.parent}"),
                image=self.image,
                vcpus=VCPUS,
                memory_mib=MEMORY_MIB,
                disk_bytes=10 * GIB,
                desktop=True,
                seed=_seed(self.parent, TEMPLATE_USER, "52:54:00:00:00:00"),
            )
        )
        wait_for_desktop(driver, self.parent)
        driver.capture_parent(self.parent, trial_agent=True)

    def spec(self) -> MachineSpec:
        uuid = uuid4()
        mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))
        spec = MachineSpec(
            uuid=uuid,
            name=run_name(f"-{uuid}"),
            title="bench",
            vcpus=VCPUS,
            memory_mib=MEMORY_MIB,
            firmware=Firmware.BIOS,
            genid=uuid4(),
            console_secret=uuid4().hex[:8],
            nics=(NicSpec(mac, NetworkMode.NAT, run_name()),),
        )
        self.machines.append(spec)
        self.driver.write_seed(uuid, _seed(uuid, "alice", mac))
        return spec

    def remove(self, spec: MachineSpec) -> None:
        self.driver.undefine(spec.uuid)
        self.driver.delete_storage(spec.uuid)
        self.machines.remove(spec)

    def clean(self) -> None:
        for spec in list(self.machines):
            self.remove(spec)
        self.driver.delete_parent(self.parent)

    def first_frame(self, machine: UUID) -> None:
        end = self.driver.console(machine)
        asyncio.run(_first_frame(end.socket_path, end.secret))

    def give_identity(self, spec: MachineSpec) -> None:
        wait_until(lambda: self.driver.agent_ready(spec.uuid), 120)
        identity = GuestIdentity(f"desk-{spec.uuid.hex[:6]}", "alice", None, (), os.urandom(64), spec.uuid)
        argv, stdin = guest_identity.program(identity)
        said = self.driver.run_in_guest(spec.uuid, argv, stdin=stdin, timeout_s=120)
        assert said.exit_code == 0, said
        self.driver.attach_nic(spec.uuid, spec.nics[0])


def _seed(uuid: UUID, user: str, mac: str) -> SeedSpec:
    return cloud_init.seed(
        instance_id=uuid, hostname="desk", user=user, password_hash=None, ssh_keys=(), mac=mac, desktop=True
    )


# --- how long ---------------------------------------------------------------------------------------------------------


def _times(stage: Stage) -> Iterator[Row]:
    ours: list[float] = []
    bare: list[float] = []
    restored: list[float] = []
    with _by_hand(stage) as by_hand:
        for _ in range(ROUNDS):
            ours.append(_ours(stage))
            bare.append(by_hand())
            restored.append(_restored(stage))
    cold = _cold(stage)
    ours_s, bare_s = median(ours), median(bare)
    yield Row(
        "instant.fork",
        ours_s,
        "s",
        peer="by hand",
        peer_value=bare_s,
        ratio=ours_s / bare_s,
        spread=(max(ours) - min(ours)) / ours_s,
    )
    yield Row("instant.overhead", ours_s - bare_s, "s", target=f"<= {OVERHEAD_S:g} s", ok=ours_s - bare_s <= OVERHEAD_S)
    restored_s = median(restored)
    yield Row("instant.restore", ours_s, "s", peer="libvirt restore", peer_value=restored_s, ratio=ours_s / restored_s)
    yield Row("instant.boot", ours_s, "s", peer="cold boot", peer_value=cold, ratio=ours_s / cold)


def _ours(stage: Stage) -> float:
    """From nothing to the desktop's first frame."""
    spec = stage.spec()
    began = time.monotonic()
    forked = stage.driver.fork(spec, stage.parent)
    stage.first_frame(spec.uuid)
    took = time.monotonic() - began
    assert forked.how == "fork", forked
    stage.remove(spec)
    return took


@contextmanager
def _by_hand(stage: Stage) -> Iterator[Callable[[], float]]:
    """The same by qemu-img and libvirt's own calls, with a copy of the portal's XML under another name."""
    model = stage.spec()
    stage.driver.fork(model, stage.parent)
    conn = libvirt.open(stage.uri)
    xml = conn.lookupByUUIDString(str(model.uuid)).XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    folder = stage.pool / "parents" / str(stage.parent)

    def once() -> float:
        uuid = uuid4()
        root = ET.fromstring(xml.replace(str(model.uuid), str(uuid)))  # noqa: S314 - libvirt's own.
        for gone in ("metadata", "seclabel"):
            for element in root.findall(gone):
                root.remove(element)
        root.attrib.pop("id", None)
        for element in (*root.iterfind("devices/graphics"), *root.iterfind("devices/graphics/listen")):
            element.attrib.pop("socket", None)  # The model's own.
        home = stage.pool / "machines" / str(uuid)
        home.mkdir(mode=0o755)
        (home / "seed.iso").write_bytes((stage.pool / "machines" / str(model.uuid) / "seed.iso").read_bytes())
        text = ET.tostring(root, encoding="unicode")
        disk = home / "disk.qcow2"
        base = str(folder / "disk.qcow2")
        domain = None
        began = time.monotonic()
        try:
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", str(disk)]
            subprocess.run(argv, check=True)
            disk.chmod(0o666)
            domain = conn.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED)
            _load(domain, folder / "state")
            domain.resume()
            live = ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))  # noqa: S314 - libvirt's own.
            graphics = live.find("./devices/graphics")
            listen = live.find("./devices/graphics/listen")
            assert graphics is not None and listen is not None
            path = listen.get("socket") or graphics.get("socket") or ""
            asyncio.run(_first_frame(path, str(graphics.get("passwd"))))
            return time.monotonic() - began
        finally:
            if domain is not None:
                domain.destroy()
            for file in home.iterdir():
                file.unlink()
            home.rmdir()

    try:
        yield once
    finally:
        conn.close()
        stage.remove(model)


def _load(domain: libvirt.virDomain, state: Path) -> None:
    def ask(command: str) -> str:
        return str(libvirt_qemu.qemuMonitorCommand(domain, command, 0))

    def ignore_shared(on: str) -> None:
        ask(
            '{"execute":"migrate-set-capabilities","arguments":'
            f'{{"capabilities":[{{"capability":"x-ignore-shared","state":{on}}}]}}}}'
        )

    ignore_shared("true")
    with state.open("rb") as file:
        hand_over = '{"execute":"getfd","arguments":{"fdname":"state"}}'
        libvirt_qemu.qemuMonitorCommandWithFiles(domain, hand_over, [file.fileno()], 0)
    ask('{"execute":"migrate-incoming","arguments":{"uri":"fd:state"}}')
    while "inmigrate" in ask('{"execute":"query-status"}'):
        time.sleep(0.002)
    ignore_shared("false")


def _restored(stage: Stage) -> float:
    """What the driver falls back to where mapping does not work: libvirt restores an image of the whole machine."""
    spec = stage.spec()
    refused = HypervisorError("Forks are refused for this benchmark.")
    with patch("workers.hypervisor.kvm.fork.started_from_state", side_effect=refused):
        began = time.monotonic()
        forked = stage.driver.fork(spec, stage.parent)
    stage.first_frame(spec.uuid)
    took = time.monotonic() - began
    assert forked.how == "restore", forked
    stage.remove(spec)
    return took


def _cold(stage: Stage) -> float:
    """Once: from nothing to a desktop that is painted, as its guest says."""
    spec = stage.spec()
    driver = stage.driver
    began = time.monotonic()
    driver.create_disk(spec.uuid, image=stage.image, size_bytes=10 * GIB)
    driver.define(spec)
    driver.start(spec.uuid)
    wait_for_desktop(driver, spec.uuid, quiet=False)
    took = time.monotonic() - began
    stage.remove(spec)
    return took


async def _first_frame(path: str, secret: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            display = await open_display(path, secret)
            break
        except (OSError, RfbError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.005)
    display.writer.write(struct.pack(">BBHHHH", 3, 0, 0, 0, display.init.width, display.init.height))
    await display.writer.drain()
    await display.reader.readexactly(4)
    await display.close()


# --- what an idle one costs -------------------------------------------------------------------------------------------


def _idle(stage: Stage) -> Iterator[Row]:
    specs = [stage.spec() for _ in range(MANY)]
    for spec in specs:
        stage.driver.fork(spec, stage.parent)
    with ThreadPoolExecutor(max_workers=2) as two:
        list(two.map(stage.give_identity, specs))
    time.sleep(SETTLE_S)
    pids = [_pid_of(spec.name) for spec in specs]
    private = [_private_mb(pid) for pid in pids]
    before = [cpu_s(pid) for pid in pids]
    began = time.monotonic()
    time.sleep(WATCH_S)
    watched = time.monotonic() - began
    shares = [(cpu_s(pid) - then) / watched for pid, then in zip(pids, before, strict=True)]
    later = [_private_mb(pid) for pid in pids]
    yield Row(
        "instant.memory",
        mean(private),
        "MB",
        target=f"<= {MEMORY_MB} MB",
        ok=mean(private) <= MEMORY_MB,
        spread=(max(private) - min(private)) / mean(private),
    )
    yield Row("instant.memory.a-minute-later", mean(later), "MB")
    yield Row("instant.idle", mean(shares), "cores", target=f"<= {IDLE:g}", ok=mean(shares) <= IDLE)


def _pid_of(name: str) -> int:
    for pid, words in running_qemus():
        if any(word.startswith(f"guest={name},".encode()) for word in words):
            return pid
    raise AssertionError(f"QEMU of {name} does not run")


def running_qemus() -> Iterator[tuple[int, list[bytes]]]:
    """Of this machine, each with the words of its command line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in words[0]:
            yield int(process.name), words


def _private_mb(pid: int) -> float:
    """What goes with this process alone, QEMU's own included, in 10^6 bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = sum(int(found[1]) for found in re.finditer(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.M))
    return kib * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """What it has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
