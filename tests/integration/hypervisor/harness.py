"""What the contract suite needs beside a driver: an image, machines, and ways to do what no driver does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import libvirt

from tests.support.libvirtd import foreign_domain_xml, run_name, unique_suffix, wait_until
from workers.hypervisor import cloud_init
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.fake import FakeHost
from workers.hypervisor.types import (
    Firmware,
    Forked,
    MachineEvent,
    MachineSpec,
    NetworkMode,
    NicSpec,
    ParentSpec,
    SeedSpec,
)

GIB = 1 << 30
# What an emulated guest may take on a busy machine: to be up, and to do anything else.
BOOT_S, GUEST_S = 300, 120


class Backstage(Protocol):
    """What happens on a host without a driver."""

    def add_foreign(self) -> UUID: ...
    def remove_foreign(self, machine: UUID) -> None: ...
    def ignore_shutdown(self, machine: UUID) -> None: ...
    def keep_devices(self, machine: UUID) -> None: ...
    def halt(self, machine: UUID) -> None: ...


class FakeBackstage:
    def __init__(self, host: FakeHost) -> None:
        self._host = self.host = host

    def add_foreign(self) -> UUID:
        spec = make_spec(network="other")
        self._host.add_foreign_domain(spec)
        return spec.uuid

    def remove_foreign(self, machine: UUID) -> None:
        self._host.vanish(machine)

    def ignore_shutdown(self, machine: UUID) -> None:
        self._host.guest(machine).ignores_shutdown = True

    def keep_devices(self, machine: UUID) -> None:
        self._host.guest(machine).keeps_devices = True

    def halt(self, machine: UUID) -> None:
        self._host.pause(machine)


class RealBackstage:
    def __init__(self, uri: str) -> None:
        self._conn = libvirt.open(uri)

    def add_foreign(self) -> UUID:
        uuid = uuid4()
        self._conn.defineXML(foreign_domain_xml(run_name(f"-foreign{unique_suffix()}"), str(uuid)))
        return uuid

    def remove_foreign(self, machine: UUID) -> None:
        self._conn.lookupByUUIDString(str(machine)).undefine()

    def ignore_shutdown(self, machine: UUID) -> None:
        """Nothing to do: the firmware, where these guests still are, ignores the power button."""

    def keep_devices(self, machine: UUID) -> None:
        """Nothing to do: a guest that is halted lets nothing go."""

    def halt(self, machine: UUID) -> None:
        self._conn.lookupByUUIDString(str(machine)).suspend()


@dataclass
class Bench:
    """A driver with its host. Machines made here are removed at the end of the test."""

    kind: str
    driver: HypervisorDriver
    image: UUID
    image_file: Path
    network: str
    backstage: Backstage
    machines: list[UUID] = field(default_factory=list)
    parents: list[UUID] = field(default_factory=list)

    @property
    def is_real(self) -> bool:
        return self.kind == "real"

    def spec(self, **changes: object) -> MachineSpec:
        spec = make_spec(self.network, **changes)
        self.machines.append(spec.uuid)
        return spec

    def add_files(self, spec: MachineSpec) -> None:
        self.driver.create_disk(spec.uuid, image=self.image, size_bytes=GIB)
        self.driver.write_seed(spec.uuid, make_seed(spec))

    def defined(self, **changes: object) -> MachineSpec:
        spec = self.spec(**changes)
        self.add_files(spec)
        self.driver.define(spec)
        return spec

    def started(self, **changes: object) -> MachineSpec:
        spec = self.defined(**changes)
        self.driver.start(spec.uuid)
        return spec

    def booted(self, **changes: object) -> MachineSpec:
        """Its agent answers, so the guest's programs run."""
        spec = self.started(**changes)
        wait_until(lambda: self.driver.agent_ready(spec.uuid), BOOT_S)
        return spec

    def parent_spec(self, **changes: object) -> ParentSpec:
        spec = make_parent_spec(self.image, **changes)
        self.parents.append(spec.uuid)
        return spec

    def template(self, *, ready: bool = True, **changes: object) -> ParentSpec:
        """With `ready` its agent answers; else a real one is in its firmware yet, which takes no time."""
        spec = self.parent_spec(**changes)
        self.driver.start_parent(spec)
        if ready:
            wait_until(lambda: self.driver.agent_ready(spec.uuid), BOOT_S)
        return spec

    def captured(self, *, ready: bool = True, **changes: object) -> ParentSpec:
        spec = self.template(ready=ready, **changes)
        self.driver.capture_parent(spec.uuid, trial_agent=ready)
        return spec

    def fork_spec(self, parent: ParentSpec, **changes: object) -> MachineSpec:
        """Its seed is there already."""
        spec = self.spec(vcpus=parent.vcpus, memory_mib=parent.memory_mib, desktop=parent.desktop, **changes)
        self.driver.write_seed(spec.uuid, make_seed(spec))
        return spec

    def forked(self, parent: ParentSpec, *, ready: bool = True, **changes: object) -> MachineSpec:
        spec = self.fork_spec(parent, **changes)
        assert self.driver.fork(spec, parent.uuid) == Forked("fork")
        if ready:
            wait_until(lambda: self.driver.agent_ready(spec.uuid), BOOT_S)
        return spec

    def clean(self) -> None:
        for machine in self.machines:
            self.driver.undefine(machine)
            self.driver.delete_storage(machine)
        self.machines.clear()
        for parent in self.parents:
            self.driver.delete_parent(parent)
        self.parents.clear()


def make_spec(network: str, **changes: object) -> MachineSpec:
    uuid = uuid4()
    mac = "52:54:00:" + ":".join(f"{byte:02x}" for byte in os.urandom(3))
    values: dict[str, object] = {
        "uuid": uuid,
        "name": run_name(unique_suffix()),
        "title": "Alice's <b>machine</b> & co",
        "vcpus": 1,
        "memory_mib": 256,
        "firmware": Firmware.BIOS,
        "genid": uuid4(),
        "console_secret": uuid4().hex[:8],
        "nics": (NicSpec(mac, NetworkMode.NAT, network),),
        **changes,
    }
    return MachineSpec(**values)  # type: ignore[arg-type]  # The tests' changes are checked by the dataclass's users.


def make_parent_spec(image: UUID, /, **changes: object) -> ParentSpec:
    values: dict[str, object] = {
        "uuid": uuid4(),
        "name": run_name(f"-parent{unique_suffix()}"),
        "image": image,
        "vcpus": 1,
        "memory_mib": 256,
        "disk_bytes": GIB,
        "desktop": False,
        "seed": SeedSpec("local-hostname: template\n", "#cloud-config\n", "version: 2\n"),
        **changes,
    }
    return ParentSpec(**values)  # type: ignore[arg-type]  # The tests' changes are checked by the dataclass's users.


def make_seed(spec: MachineSpec, hostname: str = "alice-1") -> SeedSpec:
    return cloud_init.seed(
        instance_id=spec.uuid,
        hostname=hostname,
        user="alice",
        password_hash=None,
        ssh_keys=(),
        mac=spec.nics[0].mac,
        desktop=False,
    )


class EventLog:
    """The events of a driver, read in a thread as the watcher does."""

    def __init__(self, driver: HypervisorDriver) -> None:
        self.events: list[MachineEvent] = []
        self._stop = threading.Event()
        self._driver = driver
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for event in self._driver.events(self._stop.is_set):
            self.events.append(event)

    def wait_for(
        self, wanted: Callable[[MachineEvent], bool], seconds: float = GUEST_S, *, times: int = 1
    ) -> MachineEvent:
        wait_until(lambda: sum(map(wanted, list(self.events))) >= times, seconds)
        return next(event for event in self.events if wanted(event))

    def close(self) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "events() did not end when it was told to"


@contextmanager
def following(driver: HypervisorDriver) -> Iterator[EventLog]:
    log = EventLog(driver)
    try:
        yield log
    finally:
        log.close()
