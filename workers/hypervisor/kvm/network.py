"""Casement's NAT network on a host: a bridge of its own, a free /24, DHCP."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network

import libvirt

from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.kvm.connection import VirConnect
from workers.hypervisor.kvm.domain_xml import to_text

logger = logging.getLogger(__name__)

# Private ranges that few home and office networks use; the first free /24 is taken.
_CANDIDATES = [IPv4Network(f"10.{second}.{third}.0/24") for second in (213, 214, 215) for third in range(16)]
_LONGEST_INTERFACE_NAME = 15


def ensure_network(conn: VirConnect, name: str) -> None:
    """Defined, active and autostarted. Safe to call from several workers at once."""
    network = _find(conn, name) or _define(conn, name)
    if not network.isActive():
        _start(network)
    if not network.autostart():
        network.setAutostart(1)


def remove_stale_filters(conn: VirConnect) -> None:
    """Remove filter bindings whose domain does not run: one that outlived its guest keeps the next from starting.

    libvirt numbers interfaces from the first free one on, and refuses to start a guest on one that is bound already.
    """
    # Asked in this order: a guest that starts meanwhile counts as running, and keeps its filter.
    bindings = conn.listAllNWFilterBindings()
    running = {domain.UUIDString() for domain in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)}
    for binding in bindings:
        try:
            owner = ET.fromstring(binding.XMLDesc(0)).findtext("./owner/uuid")  # noqa: S314 - libvirt made it.
            if owner is not None and owner not in running:
                logger.warning("removing the filter of %s, which does not run", owner)
                binding.delete()
        except libvirt.libvirtError as error:
            # Its guest has ended just now, and took it along.
            if error.get_error_code() != libvirt.VIR_ERR_NO_NWFILTER_BINDING:
                raise


def gateway(conn: VirConnect, name: str) -> str | None:
    """The address of the network's own DHCP server."""
    network = _find(conn, name)
    if network is None:
        return None
    address = ET.fromstring(network.XMLDesc(0)).find("ip")  # noqa: S314 - libvirt made it, not a stranger.
    return None if address is None else address.get("address")


def _find(conn: VirConnect, name: str) -> libvirt.virNetwork | None:
    try:
        return conn.networkLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_NETWORK:
            return None
        raise


def _define(conn: VirConnect, name: str) -> libvirt.virNetwork:
    subnet = free_subnet([*_routed(), *_of_libvirt(conn)])
    try:
        return conn.networkDefineXML(network_xml(name, subnet))
    except libvirt.libvirtError:
        # Another worker may have been quicker.
        network = _find(conn, name)
        if network is None:
            raise
        return network


def _start(network: libvirt.virNetwork) -> None:
    try:
        network.create()
    except libvirt.libvirtError:
        if not network.isActive():
            raise


def network_xml(name: str, subnet: IPv4Network) -> str:
    gateway_address, first, last = subnet[1], subnet[2], subnet[-2]
    root = ET.Element("network")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "forward", {"mode": "nat"})
    ET.SubElement(root, "bridge", {"name": bridge_name(name), "stp": "off", "delay": "0"})
    address = ET.SubElement(root, "ip", {"address": str(gateway_address), "netmask": str(subnet.netmask)})
    ET.SubElement(ET.SubElement(address, "dhcp"), "range", {"start": str(first), "end": str(last)})
    return to_text(root)


def bridge_name(network: str) -> str:
    """Linux allows 15 characters; a longer name is told apart by a digest."""
    plain = f"br-{network}"
    if len(plain) <= _LONGEST_INTERFACE_NAME:
        return plain
    digest = hashlib.sha256(network.encode()).hexdigest()[:5]
    return f"{plain[: _LONGEST_INTERFACE_NAME - 6]}-{digest}"


def free_subnet(taken: Iterable[IPv4Network]) -> IPv4Network:
    used = list(taken)
    for candidate in _CANDIDATES:
        if not any(candidate.overlaps(network) for network in used):
            return candidate
    raise HypervisorError("The host has no private network left for the machines: all candidates are routed already.")


def _routed() -> Iterator[IPv4Network]:
    """What the host reaches by any route but the default one."""
    command = ["ip", "-4", "-json", "route", "show", "table", "all"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, timeout=10)
        routes = json.loads(done.stdout or b"[]")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise HypervisorError("The host's routes cannot be read (is iproute2 installed?).") from error
    for route in routes:
        if route.get("dst", "default") != "default":
            yield IPv4Network(route["dst"], strict=False)


def _of_libvirt(conn: VirConnect) -> Iterator[IPv4Network]:
    """Other networks of libvirt's, which may be down just now and so have no route."""
    for network in conn.listAllNetworks():
        for address in ET.fromstring(network.XMLDesc(0)).findall("ip"):  # noqa: S314 - libvirt made it.
            host, mask = address.get("address", ""), address.get("netmask") or address.get("prefix") or "32"
            if address.get("family", "ipv4") == "ipv4":
                yield ipaddress.IPv4Network(f"{host}/{mask}", strict=False)
