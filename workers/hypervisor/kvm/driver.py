"""HypervisorDriver on libvirt and QEMU. What success and failure leave behind is in the contract, `../driver.py`."""

from __future__ import annotations

import logging
import os
import pwd
import socket
import threading
import time
import xml.etree.ElementTree as ET
from builtins import list as list_of
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import libvirt

from workers.hypervisor.errors import (
    DomainNotFoundError,
    HypervisorError,
    InvalidOperationError,
)
from workers.hypervisor.kvm import agent, copies, devices, events, fork, identity, isos, life, network, serial
from workers.hypervisor.kvm.accel import KVM_DEVICE, find_accelerator
from workers.hypervisor.kvm.connection import Connection, VirConnect, VirDomain
from workers.hypervisor.kvm.domain_xml import MARK, NAMESPACE, PREFIX, DomainFiles, HostTraits, domain_xml
from workers.hypervisor.kvm.identity import Sandbox
from workers.hypervisor.kvm.parents import KvmParents
from workers.hypervisor.kvm.screen import to_png
from workers.hypervisor.kvm.snapshots import KvmSnapshots
from workers.hypervisor.kvm.stats import STATS_LIMIT_S, host_stats
from workers.hypervisor.kvm.storage import Storage
from workers.hypervisor.kvm.volumes import VolumeFolder, grow_file
from workers.hypervisor.stats import HostStats
from workers.hypervisor.types import (
    Accelerator,
    CommandResult,
    ConsoleEndpoint,
    DiskSpec,
    HostConfig,
    HostInfo,
    HostUsage,
    IoLimits,
    MachineDevices,
    MachineEvent,
    MachineInfo,
    MachineSpec,
    NetworkMode,
    NicSpec,
    PowerState,
    SeedSpec,
    VolumeInfo,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Starting waits for QEMU; a loaded host that emulates takes its time.
START_LIMIT_S = 90.0
# libvirt sends SIGTERM, and SIGKILL 10 s later to a QEMU that hangs.
FORCE_OFF_LIMIT_S = 40.0
AGENT_LIMIT_S = 15.0
SCREENSHOT_MOST_BYTES = 128 * 1024 * 1024
SLOW_NAME_S = 1.0

_POWER_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    # The guest has shut down, QEMU has not ended yet.
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.SHUT_OFF,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.SHUT_OFF,
}
_UNDEFINE_WITH_EVERYTHING = (
    libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_TPM
    | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)
# NOWAIT: a domain that is busy must not hold up the list of all the others.
_LIST_FLAGS = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
_LIST_STATS = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_VCPU | libvirt.VIR_DOMAIN_STATS_BALLOON


class KvmDriver(KvmSnapshots, KvmParents):
    """One host. Nothing is opened before the first call, so that a worker may fork after making it."""

    def __init__(self, config: HostConfig, *, connection: Connection | None = None) -> None:
        self._config = config
        self._connection = connection or Connection(config.uri)
        self._lock = threading.Lock()
        self._storage_of_host: Storage | None = None
        self._volumes = VolumeFolder(config.pool_dir / "volumes")
        self._owned: set[UUID] = set()

    def close(self) -> None:
        self._connection.close()

    # --- the host ---------------------------------------------------------------------------------------------

    def prepare_host(self) -> HostInfo:
        self._storage().prepare()
        if self._network_mode() is NetworkMode.NAT:
            name = self._config.network
            self._call("make its network", lambda conn: network.ensure_network(conn, name), limit_s=START_LIMIT_S)
            self._call("look at its filters", network.remove_stale_filters)
        return self.host_info()

    def host_info(self) -> HostInfo:
        hostname, cpus, memory, qemu, libvirt_version = self._call("describe itself", _describe)
        storage = self._storage()
        return HostInfo(
            hostname=hostname,
            cpus=cpus,
            memory_mib=memory,
            storage_total_bytes=storage.total_bytes(),
            storage_free_bytes=storage.free_bytes(),
            hypervisor=f"QEMU {_version(qemu)}",
            libvirt=_version(libvirt_version),
            accelerator=self._accelerator(qemu),
            network_mode=self._network_mode(),
            warnings=host_warnings(self._config.pool_dir, self._qemu_ids()),
        )

    def host_usage(self) -> HostUsage:
        memory = self._call("tell its memory", _memory_kib)
        storage = self._storage()
        storage.trim_serial_logs()
        available = memory.get("free", 0) + memory.get("buffers", 0) + memory.get("cached", 0)
        used_kib = max(0, memory["total"] - available)
        return HostUsage(os.getloadavg()[0], used_kib // 1024, storage.free_bytes())

    def stats(self) -> HostStats:
        return self._call("tell its figures", host_stats, limit_s=STATS_LIMIT_S)

    def _accelerator(self, qemu: int) -> Accelerator:
        """One probe at a time: two at once would slow each other past the limit."""
        ids = self._qemu_ids()
        if ids is not None and not may_open_kvm(*ids):
            return Accelerator("tcg", "This host's KVM may not be opened by QEMU's user, so machines run in software.")
        with self._lock:
            pool, kernel = self._config.pool_dir, self._config.probe_kernel
            return find_accelerator(pool, qemu_version=_version(qemu), kernel=kernel)

    def _network_mode(self) -> NetworkMode:
        """An ordinary user's libvirt may not make bridges."""
        return NetworkMode.NAT if self._is_privileged() else NetworkMode.USER

    def _is_privileged(self) -> bool:
        return self._config.uri.split("?")[0].endswith("/system")

    def _qemu_ids(self) -> tuple[int, int] | None:
        if not self._is_privileged():
            return None
        return self._call("describe itself", _qemu_user_and_group)

    # --- storage ----------------------------------------------------------------------------------------------

    def _storage(self) -> Storage:
        if self._storage_of_host is None:
            ids = self._qemu_ids()
            self._storage_of_host = Storage(self._config.pool_dir, qemu_gid=ids[1] if ids else None)
        return self._storage_of_host

    def put_image(self, version: UUID, source: Path, *, progress: Callable[[int], None]) -> VolumeInfo:
        return self._storage().put_image(version, source, progress)

    def has_image(self, version: UUID) -> bool:
        return self._storage().has_image(version)

    def delete_image(self, version: UUID) -> None:
        self._storage().delete_image(version)

    def create_disk(self, machine: UUID, *, image: UUID, size_bytes: int) -> VolumeInfo:
        return self._storage().create_disk(machine, image, size_bytes)

    def renew_disk(self, machine: UUID, *, image: UUID, size_bytes: int) -> VolumeInfo:
        self._refuse_running(machine, "The machine runs; its disk cannot be replaced.")
        for snapshot in self.snapshots(machine):
            self.delete_snapshot(machine, snapshot)
        return self._storage().renew_disk(machine, image, size_bytes)

    def copy_disk(
        self, machine: UUID, *, source: UUID, snapshot: UUID | None, base: UUID | None, progress: Callable[[int], None]
    ) -> VolumeInfo:
        self._refuse_changing(source, snapshot)
        return copies.copy_disk(
            self._storage(), machine, source=source, snapshot=snapshot, base=base, progress=progress
        )

    def make_base(
        self, base: UUID, *, source: UUID, snapshot: UUID | None, flat: bool, progress: Callable[[int], None]
    ) -> VolumeInfo:
        self._refuse_changing(source, snapshot)
        return copies.make_base(self._storage(), base, source=source, snapshot=snapshot, flat=flat, progress=progress)

    def remove_identity(self, disk: UUID, *, personal: bool) -> None:
        self._refuse_running(disk, "The machine runs; its disk cannot be changed.")
        accelerator = self._accelerator(self._call("describe itself", lambda conn: int(conn.getVersion())))
        sandbox = Sandbox(self._config.pool_dir, self._qemu_ids(), software=accelerator.kind != "kvm")
        identity.remove_identity(self._storage(), disk, sandbox, personal=personal)

    def get_image(self, version: UUID, destination: Path, *, progress: Callable[[int], None]) -> None:
        copies.get_image(self._storage(), version, destination, progress)

    def _refuse_changing(self, source: UUID, snapshot: UUID | None) -> None:
        """Of a disk that is written to there is no copy as of one moment."""
        if snapshot is None:
            self._refuse_running(source, "The machine runs; its disk cannot be copied without a snapshot.")

    def _refuse_running(self, machine: UUID, words: str) -> None:
        if self._call("look for the machine", lambda conn: _any_runs(conn, machine)):
            raise InvalidOperationError(words)

    def write_seed(self, machine: UUID, seed: SeedSpec) -> None:
        self._storage().write_seed(machine, seed)

    def delete_storage(self, machine: UUID) -> None:
        self._refuse_running(machine, "The machine runs; its disk cannot be removed.")
        self.leave_volumes(machine)
        self._storage().delete_machine(machine)

    def list_volumes(self) -> list_of[VolumeInfo]:
        return [*self._storage().list_volumes(), *self._volumes.list(), *self._isos().list()]

    def create_volume(self, volume: UUID, *, size_bytes: int) -> VolumeInfo:
        storage = self._storage()
        storage.prepare()
        return self._volumes.create(volume, size_bytes, free_bytes=storage.free_bytes())

    def delete_volume(self, volume: UUID) -> None:
        self._refuse_used(self._volumes.path(volume))
        self._volumes.delete(volume)

    def grow_volume(self, volume: UUID, *, size_bytes: int) -> VolumeInfo:
        self._refuse_used(self._volumes.path(volume))
        grow_file(self._volumes.path(volume), size_bytes)
        return self._volumes.info(volume)

    def _refuse_used(self, path: Path) -> None:
        self._call("look who uses the volume", lambda conn: devices.refuse_running_user(conn, path))

    # --- discs and rescue -------------------------------------------------------------------------------------

    def _isos(self) -> isos.IsoFolder:
        return isos.IsoFolder(self._config.pool_dir / "isos", qemu_gid=self._storage().qemu_gid)

    def create_empty_disk(self, machine: UUID, *, size_bytes: int) -> VolumeInfo:
        return self._storage().create_empty_disk(machine, size_bytes)

    def put_iso(self, iso: UUID, source: Path, *, progress: Callable[[int], None]) -> VolumeInfo:
        storage = self._storage()
        storage.prepare()
        return self._isos().put(iso, source, progress, free_bytes=storage.free_bytes())

    def has_iso(self, iso: UUID) -> bool:
        return self._isos().has(iso)

    def delete_iso(self, iso: UUID) -> None:
        path = self._isos().path(iso)
        if path.exists():
            self._call("look who has the disc", lambda conn: isos.refuse_in_drive(conn, path))
            self._isos().delete(iso)

    def insert_disc(self, machine: UUID, slot: int, iso: UUID | None, *, force: bool = False) -> bool:
        disc, traits = self._isos().path(iso) if iso else None, self._traits()

        def work(domain: VirDomain) -> bool:
            return isos.insert_disc(domain, slot, disc, traits, force=force)

        return self._with(machine, "change the disc", work, limit_s=isos.DISC_LIMIT_S)

    def prepare_rescue(self, machine: UUID, *, image: UUID, seed: SeedSpec) -> None:
        self._storage().prepare_rescue(machine, image, seed)

    def end_rescue(self, machine: UUID) -> None:
        self._storage().end_rescue(machine)

    # --- disks and cards of a machine -------------------------------------------------------------------------

    def devices(self, machine: UUID) -> MachineDevices:
        folder, isos_folder = self._volumes.folder, self._isos().folder

        def work(domain: VirDomain) -> MachineDevices:
            return devices.plugged(domain, folder, isos_folder)

        return self._with(machine, "tell the machine's devices", work)

    def attach_disk(self, machine: UUID, disk: DiskSpec) -> None:
        path = self._disk_path(machine, disk.volume)
        self._plug(machine, "attach the disk", lambda domain: devices.attach_disk(domain, disk, path))

    def detach_disk(self, machine: UUID, volume: UUID) -> bool:
        path = self._disk_path(machine, volume)
        return self._plug(machine, "detach the disk", lambda domain: devices.detach_disk(domain, path))

    def grow_disk(self, machine: UUID, volume: UUID | None, *, size_bytes: int) -> None:
        path = self._disk_path(machine, volume)
        self._plug(machine, "grow the disk", lambda domain: devices.grow_disk(domain, path, size_bytes))

    def set_io_limits(self, machine: UUID, volume: UUID | None, limits: IoLimits) -> None:
        path = self._disk_path(machine, volume)
        self._with(machine, "limit the disk", lambda domain: devices.set_io_limits(domain, path, limits))

    def attach_nic(self, machine: UUID, nic: NicSpec) -> None:
        traits = self._traits()
        self._plug(machine, "add the network card", lambda domain: devices.attach_nic(domain, nic, traits))

    def detach_nic(self, machine: UUID, mac: str) -> bool:
        return self._plug(machine, "remove the network card", lambda domain: devices.detach_nic(domain, mac))

    def _disk_path(self, machine: UUID, volume: UUID | None) -> Path:
        return self._storage().disk(machine) if volume is None else self._volumes.path(volume)

    def _plug(self, machine: UUID, doing: str, work: Callable[[VirDomain], T]) -> T:
        return self._with(machine, doing, work, limit_s=devices.PLUG_LIMIT_S)

    # --- the domain -------------------------------------------------------------------------------------------

    def define(self, spec: MachineSpec) -> None:
        self._define(spec, self._storage().files(spec.uuid, spec), self._traits())

    def _define(self, spec: MachineSpec, files: DomainFiles, traits: HostTraits) -> None:
        def work(conn: VirConnect) -> None:
            _refuse_foreign(conn, spec.uuid)
            conn.defineXMLFlags(domain_xml(spec, files, traits), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

        self._call("define the machine", work)

    def _traits(self) -> HostTraits:
        accelerator = self._accelerator(self._call("describe itself", lambda conn: int(conn.getVersion())))
        privileged, name = self._is_privileged(), self._config.network
        dhcp = self._call("tell its network", lambda conn: network.gateway(conn, name)) if privileged else None
        return HostTraits(accelerator.kind, dhcp, privileged=privileged)

    def start(self, machine: UUID) -> None:
        self._with(machine, "start the machine", _start, limit_s=START_LIMIT_S)

    def shut_down(self, machine: UUID) -> None:
        both = libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT | libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN

        def work(domain: VirDomain) -> None:
            try:
                _if_active(domain, domain.shutdownFlags, both)
            except libvirt.libvirtError:
                # It was asked before, and its guest has just ended: libvirt takes no second wish then.
                if domain.state()[0] != libvirt.VIR_DOMAIN_SHUTDOWN:
                    raise

        self._with(machine, "ask the machine to shut down", work)

    def reboot(self, machine: UUID) -> None:
        both = libvirt.VIR_DOMAIN_REBOOT_GUEST_AGENT | libvirt.VIR_DOMAIN_REBOOT_ACPI_POWER_BTN
        self._with(machine, "ask the machine to reboot", lambda domain: domain.reboot(both))

    def reset(self, machine: UUID) -> None:
        self._with(machine, "reset the machine", lambda domain: domain.reset(0))

    def force_off(self, machine: UUID) -> None:
        self._with(machine, "switch the machine off", _destroy, limit_s=FORCE_OFF_LIMIT_S)

    def suspend(self, machine: UUID) -> None:
        self._with(machine, "pause the machine", life.suspend)

    def resume(self, machine: UUID) -> None:
        self._with(machine, "let the machine go on", life.resume)

    def save(self, machine: UUID) -> None:
        self._with(machine, "save the machine's memory", life.save, limit_s=life.SAVE_LIMIT_S)

    def discard_saved(self, machine: UUID) -> None:
        self._with(machine, "remove the machine's saved memory", life.discard_saved)

    def set_vcpus(self, machine: UUID, vcpus: int) -> None:
        def work(domain: VirDomain) -> None:
            life.set_vcpus(domain, vcpus)

        self._with(machine, "give the machine processors", work, limit_s=life.HOTPLUG_LIMIT_S)

    def set_memory(self, machine: UUID, memory_mib: int) -> None:
        self._with(machine, "give the machine memory", lambda domain: life.set_memory(domain, memory_mib))

    def undefine(self, machine: UUID) -> None:
        try:
            self._with(machine, "remove the machine", _remove, limit_s=FORCE_OFF_LIMIT_S)
        except DomainNotFoundError:
            # The goal is reached, unless a stranger has this UUID.
            self._call("look for the machine", lambda conn: _refuse_foreign(conn, machine))

    def adopt(self, machine: UUID) -> None:
        self._call("take the machine over", lambda conn: _mark(conn.lookupByUUIDString(str(machine))))

    def disown(self, machine: UUID) -> None:
        def work(conn: VirConnect) -> None:
            domain = _find(conn, machine)
            if domain is not None and is_owned(domain):
                _set_mark(domain, None)

        self._call("give the machine back", work)
        self._owned.discard(machine)

    def get(self, machine: UUID) -> MachineInfo:
        info = self._with(machine, "describe the machine", _describe_domain)
        return replace(info, parent=machine in self._parent_domains())

    def list(self) -> list_of[MachineInfo]:
        parents = self._parent_domains()
        return [replace(info, parent=info.uuid in parents) for info in self._call("list its machines", self._list)]

    def _list(self, conn: VirConnect) -> list_of[MachineInfo]:
        """One bulk call. libvirt has none for marks: they are read one by one until one is found, and remembered."""
        stats_of_all = conn.getAllDomainStats(_LIST_STATS, _LIST_FLAGS)
        found = [(UUID(bytes=domain.UUID()), domain, stats) for domain, stats in stats_of_all]
        saved = life.saved(conn)
        known = self._owned
        owned = {uuid for uuid, domain, _ in found if uuid in known or is_owned(domain)}
        self._owned = owned
        infos = [_info_from_stats(uuid, domain.name(), stats, owned=uuid in owned) for uuid, domain, stats in found]
        return [replace(info, saved=info.uuid in saved) for info in infos]

    def power_state(self, machine: UUID) -> PowerState:
        return self._with(machine, "tell the machine's state", _power_state)

    def console(self, machine: UUID) -> ConsoleEndpoint:
        return self._with(machine, "open the console", _console)

    def console_log(self, machine: UUID) -> bytes:
        return serial.read_log(self._storage().machine_folder(machine))

    def screenshot(self, machine: UUID) -> bytes:
        return to_png(self._with(machine, "take a screenshot", _screen_dump))

    # --- the guest --------------------------------------------------------------------------------------------

    def agent_ready(self, machine: UUID) -> bool:
        return self._with(machine, "ask the guest agent", agent.answers)

    def addresses(self, machine: UUID) -> tuple[str, ...]:
        return self._with(machine, "find the machine's addresses", agent.addresses)

    def card_addresses(self, machine: UUID) -> dict[str, tuple[str, ...]]:
        return self._with(machine, "find the machine's addresses", agent.card_addresses)

    def run_in_guest(
        self, machine: UUID, argv: tuple[str, ...], *, stdin: bytes = b"", timeout_s: float = 30
    ) -> CommandResult:
        def work(domain: VirDomain) -> CommandResult:
            return agent.run(domain, argv, stdin, timeout_s)

        return self._with(machine, "run a command in the guest", work, limit_s=timeout_s + AGENT_LIMIT_S)

    def set_password(self, machine: UUID, user: str, password: str) -> None:
        self._with(machine, "set the password", lambda domain: life.set_password(domain, user, password))

    def add_ssh_key(self, machine: UUID, user: str, key: str) -> None:
        self._with(machine, "add the key", lambda domain: life.add_ssh_key(domain, user, key))

    # --- events -----------------------------------------------------------------------------------------------

    def events(self, stop: Callable[[], bool]) -> Iterator[MachineEvent]:
        return events.follow(self._config.uri, stop)

    # --- helpers ----------------------------------------------------------------------------------------------

    def _call(self, doing: str, work: Callable[[VirConnect], T], *, limit_s: float | None = None) -> T:
        return self._connection.call(doing, work, limit_s=limit_s)

    def _with(self, machine: UUID, doing: str, work: Callable[[VirDomain], T], *, limit_s: float | None = None) -> T:
        """`work` on a domain of ours."""
        return self._call(doing, lambda conn: work(_owned_domain(conn, machine)), limit_s=limit_s)


# --- one domain ---------------------------------------------------------------------------------------------------


def _owned_domain(conn: VirConnect, machine: UUID) -> VirDomain:
    domain = conn.lookupByUUIDString(str(machine))
    if not is_owned(domain):
        raise DomainNotFoundError("The machine on the host is not Casement's; it is left alone.")
    return domain


def is_owned(domain: VirDomain) -> bool:
    """True if Casement's mark is in the domain's metadata."""
    try:
        mark = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, NAMESPACE, 0)
    except libvirt.libvirtError as error:
        # A domain may go between being listed and being asked.
        if error.get_error_code() in {libvirt.VIR_ERR_NO_DOMAIN_METADATA, libvirt.VIR_ERR_NO_DOMAIN}:
            return False
        raise
    return f"<{MARK}" in mark or f":{MARK}" in mark


def _mark(domain: VirDomain) -> None:
    if not domain.isPersistent():
        raise InvalidOperationError("The machine exists only while it runs; define it persistently first.")
    if not is_owned(domain):
        _set_mark(domain, f"<{MARK}/>")


def _set_mark(domain: VirDomain, element: str | None) -> None:
    """In the definition and, if it runs, in what runs; None takes it off."""
    where = libvirt.VIR_DOMAIN_AFFECT_CONFIG | (libvirt.VIR_DOMAIN_AFFECT_LIVE if domain.isActive() else 0)
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, PREFIX, NAMESPACE, where)


def _find(conn: VirConnect, machine: UUID) -> VirDomain | None:
    try:
        return conn.lookupByUUIDString(str(machine))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _refuse_foreign(conn: VirConnect, machine: UUID) -> None:
    domain = _find(conn, machine)
    if domain is not None and not is_owned(domain):
        raise DomainNotFoundError("The machine on the host is not Casement's; it is left alone.")


def _any_runs(conn: VirConnect, machine: UUID) -> bool:
    domain = _find(conn, machine)
    return domain is not None and bool(domain.isActive())


def _start(domain: VirDomain) -> None:
    state = _power_state(domain)
    if state is PowerState.PAUSED:
        domain.resume()
    elif not domain.isActive():
        try:
            fork.free_saved(domain)
            domain.create()
        except libvirt.libvirtError:
            # Another worker may have been quicker; what counts is that it runs.
            if not domain.isActive():
                raise


def _if_active(domain: VirDomain, action: Callable[[int], object], flags: int) -> None:
    """Nothing to do for a machine that is off, also when it goes off just now."""
    if not domain.isActive():
        return
    try:
        action(flags)
    except libvirt.libvirtError:
        if domain.isActive():
            raise


def _destroy(domain: VirDomain) -> None:
    """SIGTERM lets QEMU write out what the guest has flushed to it; one that hangs gets SIGKILL after 10 s."""
    _if_active(domain, domain.destroyFlags, libvirt.VIR_DOMAIN_DESTROY_DEFAULT)


def _remove(domain: VirDomain) -> None:
    _destroy(domain)
    domain.undefineFlags(_UNDEFINE_WITH_EVERYTHING)


def _power_state(domain: VirDomain) -> PowerState:
    state, _reason = domain.state()
    return _POWER_STATES.get(state, PowerState.UNKNOWN)


def _describe_domain(domain: VirDomain) -> MachineInfo:
    state, most_memory_kib, _memory, vcpus, _time = domain.info()
    power = _POWER_STATES.get(state, PowerState.UNKNOWN)
    saved = power is PowerState.SHUT_OFF and bool(domain.hasManagedSaveImage(0))
    memory_mib = most_memory_kib // 1024
    return MachineInfo(UUID(bytes=domain.UUID()), domain.name(), power, vcpus, memory_mib, owned=True, saved=saved)


def _info_from_stats(uuid: UUID, name: str, stats: dict[str, int], *, owned: bool) -> MachineInfo:
    return MachineInfo(
        uuid=uuid,
        name=name,
        power_state=_POWER_STATES.get(stats.get("state.state", -1), PowerState.UNKNOWN),
        vcpus=stats.get("vcpu.current", stats.get("vcpu.maximum", 0)),
        memory_mib=stats.get("balloon.maximum", 0) // 1024,
        owned=owned,
    )


def _console(domain: VirDomain) -> ConsoleEndpoint:
    """From the running domain's own XML: a redefinition does not change where it listens now."""
    if not domain.isActive():
        raise InvalidOperationError("The machine is off; it has no console.")
    text = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    definition = ET.fromstring(text)  # noqa: S314 - libvirt made it.
    graphics = definition.find("devices/graphics[@type='vnc']")
    listen = None if graphics is None else graphics.find("listen[@type='socket']")
    path = None if listen is None else listen.get("socket")
    secret = None if graphics is None else graphics.get("passwd")
    if not path or not secret:
        raise InvalidOperationError("The machine's console is not one that Casement made.")
    return ConsoleEndpoint(path, secret, serial.socket_of(definition))


def _screen_dump(domain: VirDomain) -> bytes:
    if not domain.isActive():
        raise InvalidOperationError("The machine is off; it has no screen.")
    stream = domain.connect().newStream(0)
    domain.screenshot(stream, 0, 0)
    pieces, size = [], 0
    while piece := stream.recv(256 * 1024):
        pieces.append(piece)
        size += len(piece)
        if size > SCREENSHOT_MOST_BYTES:
            stream.abort()
            raise HypervisorError("The screen is too large for a screenshot.")
    stream.finish()
    return b"".join(pieces)


# --- the host -----------------------------------------------------------------------------------------------------


def _describe(conn: VirConnect) -> tuple[str, int, int, int, int]:
    """The memory comes from its statistics: libvirt's idea of the host's size leaves out memory that was plugged in."""
    memory_mib = _memory_kib(conn)["total"] // 1024
    return conn.getHostname(), conn.getInfo()[2], memory_mib, conn.getVersion(), conn.getLibVersion()


def _memory_kib(conn: VirConnect) -> dict[str, int]:
    stats: dict[str, int] = conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    return stats


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _qemu_user_and_group(conn: VirConnect) -> tuple[int, int] | None:
    """The user and group of QEMU's processes, e.g. "+64055:+108"; None if libvirt does not change them."""
    root = ET.fromstring(conn.getCapabilities())  # noqa: S314 - libvirt made it.
    for model in root.findall("host/secmodel"):
        label = model.findtext("baselabel[@type='kvm']") or model.findtext("baselabel")
        if model.findtext("model") == "dac" and label:
            user, group = label.replace("+", "").split(":")
            return int(user), int(group)
    return None


def host_warnings(pool_dir: Path, qemu_ids: tuple[int, int] | None) -> tuple[str, ...]:
    """What an administrator should mend, in sentences."""
    found = [_slow_name_warning(), _unreachable_pool_warning(pool_dir, qemu_ids), _closed_kvm_warning(qemu_ids)]
    return tuple(warning for warning in found if warning)


def _slow_name_warning() -> str | None:
    """libvirt asks for the host's own name at every start: without an answer that costs 10 s, a migration 50 s."""
    name, began = socket.gethostname(), time.monotonic()
    try:
        socket.getaddrinfo(name, None)
        resolved = True
    except OSError:
        resolved = False
    if resolved and time.monotonic() - began < SLOW_NAME_S:
        return None
    return f"The host's own name ({name}) is not found, or slowly: starts take 10 s longer. Add it to /etc/hosts."


def _unreachable_pool_warning(pool_dir: Path, qemu_ids: tuple[int, int] | None) -> str | None:
    """QEMU runs as another user, who must be able to pass every folder above the pool."""
    if qemu_ids is None or qemu_ids[0] == 0:
        return None
    for folder in (pool_dir, *pool_dir.parents):
        if folder.exists() and not _may_pass(folder, *qemu_ids):
            return f"QEMU's user cannot get to the pool through its folder “{folder.name}”; no machine will start."
    return None


def _closed_kvm_warning(qemu_ids: tuple[int, int] | None) -> str | None:
    """libvirt then repeats its test runs of QEMU, which take seconds, at almost every call."""
    if qemu_ids is None or not KVM_DEVICE.exists() or may_open_kvm(*qemu_ids):
        return None
    return "/dev/kvm may not be opened by QEMU's user, which slows every call: give it to the group kvm (mode 0660)."


def may_open_kvm(uid: int, gid: int, device: Path = KVM_DEVICE) -> bool:
    """True also if there is no such device: then there is nothing that could be denied."""
    try:
        status = device.stat()
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except (FileNotFoundError, KeyError):
        return True
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return uid == 0 or status.st_mode >> shift & 0o6 == 0o6


def _may_pass(folder: Path, uid: int, gid: int) -> bool:
    status = folder.stat()
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    return bool(status.st_mode >> shift & 1)
