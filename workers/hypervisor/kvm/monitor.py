"""What libvirt has no call for: QEMU's own monitor, asked through libvirt. Used for snapshots inside qcow2 files, and
for the state of forks' devices.

libvirt 9 refuses snapshots of the disks alone inside them while the guest runs; QEMU takes them of all disks in one
transaction. It marks a domain that was asked so as "tainted: custom-monitor", which only its log shows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt_qemu

from workers.hypervisor.errors import HypervisorError, StorageFullError, VolumeNotFoundError
from workers.hypervisor.kvm.connection import VirDomain


@dataclass(frozen=True, slots=True)
class Node:
    """A qcow2 file that QEMU has open: its name there, and the names of the snapshots inside."""

    name: str
    snapshots: frozenset[str]


def create_snapshots(domain: VirDomain, paths: Collection[Path], name: str) -> None:
    """Of all these files in one moment, or of none. `VolumeNotFoundError` if QEMU has not all of them open."""
    nodes = open_nodes(domain)
    if not nodes.keys() >= set(paths):
        raise VolumeNotFoundError("The machine runs without one of its disks.")
    actions = [_action(nodes[path].name, name) for path in paths]
    ask(domain, "transaction", {"actions": actions}, doing="take the snapshot")


def _action(node: str, name: str) -> dict[str, object]:
    return {"type": "blockdev-snapshot-internal-sync", "data": {"device": node, "name": name}}


def delete_snapshot(domain: VirDomain, path: Path, name: str) -> None:
    """Nothing is done if QEMU has not the file open, or no snapshot of this name is inside."""
    node = open_nodes(domain).get(path)
    if node is not None and name in node.snapshots:
        arguments = {"device": node.name, "name": name}
        ask(domain, "blockdev-snapshot-delete-internal-sync", arguments, doing="remove the snapshot")


def open_nodes(domain: VirDomain) -> dict[Path, Node]:
    """Every qcow2 file that QEMU may write to."""
    found = ask(domain, "query-named-block-nodes", {"flat": True}, doing="tell its disks")
    return {
        _path_of(node): Node(node["node-name"], _names(node))
        for node in found
        if node.get("drv") == "qcow2" and not node.get("ro")
    }


def _path_of(node: Mapping[str, Any]) -> Path:
    """QEMU spells a file out as JSON where its header names another base than the one that it was given."""
    name = str(node["file"])
    if name.startswith("json:"):
        name = json.loads(name.removeprefix("json:")).get("file", {}).get("filename", "")
    return Path(name)


def _names(node: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(str(snapshot["name"]) for snapshot in node.get("image", {}).get("snapshots", []))


def hand_over(domain: VirDomain, descriptor: int, name: str) -> None:
    """Give QEMU an open file, under a name that later commands call it by: it may open none itself."""
    request = json.dumps({"execute": "getfd", "arguments": {"fdname": name}})
    reply, _files = libvirt_qemu.qemuMonitorCommandWithFiles(domain, request, [descriptor], 0)
    _checked(json.loads(reply), doing="take the state")


def ask(domain: VirDomain, command: str, arguments: Mapping[str, object], *, doing: str) -> Any:
    """QEMU's answer. Its own words may hold paths: they stay in the cause."""
    request = json.dumps({"execute": command, "arguments": arguments})
    return _checked(json.loads(libvirt_qemu.qemuMonitorCommand(domain, request, 0)), doing=doing)


def _checked(reply: Mapping[str, Any], *, doing: str) -> Any:
    if "error" not in reply:
        return reply.get("return")
    said = MonitorError(str(reply["error"].get("desc", "")))
    if "No space left" in str(said):
        raise StorageFullError(f"The host's storage is full: it could not {doing}.") from said
    raise HypervisorError(f"The host could not {doing}.", code="monitor-failed") from said


class MonitorError(Exception):
    """What QEMU said, for the log."""
