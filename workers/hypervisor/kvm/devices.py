"""Disks and network cards of a domain that exists: plugged in and out, grown, limited.

What is true is read from the domain's XML before and after each call, never concluded from a call that came back:
libvirt answers a live detach when the guest was asked, and the guest may let the device go later or never.
"""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import libvirt

from workers.hypervisor.errors import InvalidOperationError, VolumeNotFoundError
from workers.hypervisor.kvm.connection import VirConnect, VirDomain
from workers.hypervisor.kvm.domain_xml import (
    HostTraits,
    check_nic,
    free_device,
    nic_xml,
    to_text,
    tune_of,
    volume_xml,
)
from workers.hypervisor.kvm.isos import discs_in
from workers.hypervisor.kvm.volumes import grow_file
from workers.hypervisor.types import DiskSpec, IoLimits, MachineDevices, NicSpec

# libvirt waits some seconds for the guest's answer to a detach before it returns.
PLUG_LIMIT_S = 60.0
_LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
_CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG

Find = Callable[[ET.Element], ET.Element | None]


def plugged(domain: VirDomain, volumes: Path, isos: Path) -> MachineDevices:
    root = _now(domain)
    sources = _sources(root)
    macs = [str(mac.get("address")).lower() for mac in root.iterfind("devices/interface/mac")]
    in_rescue = any(source.name == "rescue.qcow2" for source in sources)
    return MachineDevices(frozenset(_uuids(sources, volumes)), frozenset(macs), discs_in(root, isos), in_rescue)


def plugged_volumes(domain: VirDomain, volumes: Path) -> frozenset[UUID]:
    return frozenset(_uuids(_sources(_now(domain)), volumes))


def _sources(root: ET.Element) -> list[Path]:
    return [Path(source.get("file", "")) for source in root.iterfind("devices/disk/source")]


def _uuids(sources: list[Path], volumes: Path) -> Iterator[UUID]:
    for source in sources:
        with contextlib.suppress(ValueError):
            if source.parent == volumes:
                yield UUID(source.stem)


def attach_disk(domain: VirDomain, disk: DiskSpec, path: Path) -> None:
    if not path.is_file():
        raise VolumeNotFoundError("The volume is not on the host.")
    device = free_device([*_targets(_definition(domain)), *_targets(_now(domain))])
    if device is None:
        raise InvalidOperationError("The machine has as many disks as there are places for.")
    # Turns to boot are read at a start only, and libvirt refuses them beside an order of kinds.
    _plug_in(domain, volume_xml(replace(disk, boot=0), path, device), _by_file(path))


def detach_disk(domain: VirDomain, path: Path) -> bool:
    return _plug_out(domain, _by_file(path))


def attach_nic(domain: VirDomain, nic: NicSpec, host: HostTraits) -> None:
    check_nic(nic)
    _plug_in(domain, nic_xml(nic, host), _by_mac(nic.mac))


def detach_nic(domain: VirDomain, mac: str) -> bool:
    return _plug_out(domain, _by_mac(mac))


def grow_disk(domain: VirDomain, path: Path, size_bytes: int) -> None:
    """By QEMU where it has the file open, which tells the guest; else by qemu-img."""
    found = _by_file(path)(_now(domain)) if domain.isActive() else None
    if found is None:
        grow_file(path, size_bytes)
        return
    target = _target(found)
    capacity, _allocation, _physical = domain.blockInfo(target)
    if capacity < size_bytes:
        domain.blockResize(target, size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)


def set_io_limits(domain: VirDomain, path: Path, limits: IoLimits) -> None:
    """In what runs and in the definition, each of which may call the disk otherwise."""
    for root, flag in _places(domain):
        found = _by_file(path)(root)
        if found is not None:
            domain.setBlockIoTune(_target(found), tune_of(limits), flag)


def refuse_running_user(conn: VirConnect, path: Path) -> None:
    """`InvalidOperationError` while a running domain, ours or not, has the file."""
    if running_user(conn, path) is not None:
        raise InvalidOperationError("The volume is in use by a machine that runs.")


def running_user(conn: VirConnect, path: Path) -> VirDomain | None:
    """The running domain, ours or not, that has the file."""
    for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
        with _gone_meanwhile():
            if _by_file(path)(_now(domain)) is not None:
                return domain
    return None


# --- plugging -------------------------------------------------------------------------------------------------------


def _plug_in(domain: VirDomain, device: ET.Element, find: Find) -> None:
    """The definition first: what runs and is not defined would be gone after the next start."""
    text = to_text(device)
    if find(_definition(domain)) is None:
        domain.attachDeviceFlags(text, _CONFIG)
    if not domain.isActive() or find(_now(domain)) is not None:
        return
    try:
        domain.attachDeviceFlags(text, _LIVE)
    except libvirt.libvirtError as error:
        if not domain.isActive():
            return  # It went off just now: its definition is all that there is.
        _take_from_definition(domain, find)
        if "available PCI" in (error.get_error_message() or ""):
            raise InvalidOperationError(
                "All places for disks and cards are taken until the machine is started anew."
            ) from error
        raise


def _plug_out(domain: VirDomain, find: Find) -> bool:
    """The definition last: a device that the guest keeps must be there after its next start as well."""
    if domain.isActive() and not _asked_to_let_go(domain, find):
        return False
    _take_from_definition(domain, find)
    return True


def _asked_to_let_go(domain: VirDomain, find: Find) -> bool:
    """True if what runs has it no more. A guest that was asked before may be asked again."""
    device = find(_now(domain))
    if device is None:
        return True
    try:
        domain.detachDeviceFlags(to_text(device), _LIVE)
    except libvirt.libvirtError as error:
        if domain.isActive() and find(_now(domain)) is not None and not _is_asked_already(error):
            raise
    return not domain.isActive() or find(_now(domain)) is None


def _is_asked_already(error: libvirt.libvirtError) -> bool:
    return "in the process of unplug" in (error.get_error_message() or "")


def _take_from_definition(domain: VirDomain, find: Find) -> None:
    device = find(_definition(domain))
    if device is not None:
        domain.detachDeviceFlags(to_text(device), _CONFIG)


# --- reading --------------------------------------------------------------------------------------------------------


def _now(domain: VirDomain) -> ET.Element:
    """What runs, or the definition of what does not."""
    return ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - libvirt made it.


def _definition(domain: VirDomain) -> ET.Element:
    return ET.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))  # noqa: S314 - libvirt made it.


def _places(domain: VirDomain) -> Iterator[tuple[ET.Element, int]]:
    if domain.isActive():
        yield _now(domain), _LIVE
    yield _definition(domain), _CONFIG


def _by_file(path: Path) -> Find:
    def find(root: ET.Element) -> ET.Element | None:
        disks = root.iterfind("devices/disk")
        return next((disk for disk in disks if _source(disk) == str(path)), None)

    return find


def _source(disk: ET.Element) -> str | None:
    source = disk.find("source")
    return None if source is None else source.get("file")


def _by_mac(mac: str) -> Find:
    def find(root: ET.Element) -> ET.Element | None:
        cards = root.iterfind("devices/interface")
        return next((card for card in cards if _address(card) == mac), None)

    return find


def _address(card: ET.Element) -> str | None:
    mac = card.find("mac")
    return None if mac is None else str(mac.get("address")).lower()


def targets(domain: VirDomain) -> list[str]:
    """The names of all its disks, the seed's too, as it has them now."""
    return _targets(_now(domain))


def _targets(root: ET.Element) -> list[str]:
    return [str(target.get("dev")) for target in root.iterfind("devices/disk/target")]


def _target(disk: ET.Element) -> str:
    target = disk.find("target")
    return "" if target is None else str(target.get("dev"))


@contextlib.contextmanager
def _gone_meanwhile() -> Iterator[None]:
    """A domain may end between being listed and being asked."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
