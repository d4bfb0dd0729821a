"""Domains made from a parent's memory: by mapping it, or by restoring a whole image of it.

The domain is a transient one first. Its definition comes afterwards and is that of any machine: one that kept
`-incoming` or the parent's memory in it would hang at its next start.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import libvirt

from workers.hypervisor.errors import ForkFailedError
from workers.hypervisor.kvm import monitor
from workers.hypervisor.kvm.connection import VirConnect, VirDomain
from workers.hypervisor.kvm.domain_xml import mapped_file, to_text, with_own_memory

logger = logging.getLogger(__name__)

# Starting QEMU, and reading a whole image.
FORK_LIMIT_S = 90.0
RESTORE_LIMIT_S = 300.0
LOAD_LIMIT_S = 30.0
_POLL_S = 0.002
_FD_NAME = "casement-state"
# What is shared stays where it is when the rest of a machine is saved or loaded.
_IGNORE_SHARED = "x-ignore-shared"


def save_state(domain: VirDomain, target: Path) -> None:
    """All but the memory, which stays in its file; the domain is gone. One that was paused for it before may be."""
    if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
        domain.suspend()
    _ignore_shared(domain, on=True)
    try:
        domain.saveFlags(str(target), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
    except libvirt.libvirtError:
        with contextlib.suppress(libvirt.libvirtError):
            _ignore_shared(domain, on=False)
            domain.resume()
        raise


@contextlib.contextmanager
def started_from_state(conn: VirConnect, xml: str, state: Path) -> Iterator[VirDomain]:
    """A paused domain whose memory is mapped and whose devices are as `state` says. It is gone if anything fails."""
    domain = conn.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        _load(domain, state)
        yield domain
    except BaseException:
        destroy(domain)
        raise


def _load(domain: VirDomain, state: Path) -> None:
    _ignore_shared(domain, on=True)
    descriptor = os.open(state, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        monitor.hand_over(domain, descriptor, _FD_NAME)
    finally:
        os.close(descriptor)
    monitor.ask(domain, "migrate-incoming", {"uri": f"fd:{_FD_NAME}"}, doing="load the state")
    deadline = time.monotonic() + LOAD_LIMIT_S
    while monitor.ask(domain, "query-status", {}, doing="tell its state")["status"] == "inmigrate":
        if time.monotonic() > deadline:
            raise ForkFailedError("The state of the parent's devices was not loaded in time.")
        time.sleep(_POLL_S)
    # With it on, what is saved of this machine later would lack its memory.
    _ignore_shared(domain, on=False)


def _ignore_shared(domain: VirDomain, *, on: bool) -> None:
    capability = {"capability": _IGNORE_SHARED, "state": on}
    monitor.ask(domain, "migrate-set-capabilities", {"capabilities": [capability]}, doing="set how it is saved")


def destroy(domain: VirDomain) -> None:
    """A transient domain is gone with that."""
    with contextlib.suppress(libvirt.libvirtError):
        domain.destroy()


def restore(conn: VirConnect, saved: Path) -> None:
    """The domain that the save file names runs."""
    conn.restoreFlags(str(saved), None, libvirt.VIR_DOMAIN_SAVE_RUNNING)


# --- what was forked and is saved -----------------------------------------------------------------------------------


def maps(domain: VirDomain) -> Path | None:
    """The file of a parent's memory that the running domain has mapped."""
    return mapped_file(_live(domain)) if domain.isActive() else None


def free_saved(domain: VirDomain) -> None:
    """What was saved of a fork has all of its memory: it goes on without the parent's file."""
    if not domain.hasManagedSaveImage(0):
        return
    root = _parsed(domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE))
    if mapped_file(root) is not None:
        domain.managedSaveDefineXML(to_text(with_own_memory(root)), libvirt.VIR_DOMAIN_SAVE_RUNNING)


def _live(domain: VirDomain) -> ET.Element:
    return _parsed(domain.XMLDesc(0))


def _parsed(text: str) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 - libvirt made it.
