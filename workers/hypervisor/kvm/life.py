"""Pausing, hibernating and resizing one domain, and its guest's passwords and keys. The contract is `../driver.py`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from uuid import UUID

import libvirt

from workers.hypervisor.errors import GuestAgentError, InvalidOperationError
from workers.hypervisor.kvm import agent, fork
from workers.hypervisor.kvm.connection import VirConnect, VirDomain

logger = logging.getLogger(__name__)

# Writing out the memory of a large machine, at a hundred MB a second.
SAVE_LIMIT_S = 900.0
HOTPLUG_LIMIT_S = 60.0
AGENT_LIMIT_S = 20
_KIB = 1024


def suspend(domain: VirDomain) -> None:
    _refuse_if_off(domain)
    if _state(domain) != libvirt.VIR_DOMAIN_PAUSED:
        domain.suspend()


def resume(domain: VirDomain) -> None:
    _refuse_if_off(domain)
    if _state(domain) == libvirt.VIR_DOMAIN_PAUSED:
        domain.resume()


def save(domain: VirDomain) -> None:
    """libvirt removes the file itself when it does not become whole. What was paused goes on as well when it wakes."""
    if domain.isActive():
        try:
            domain.managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)
        except libvirt.libvirtError:
            # Another worker may have been quicker; what counts is that it is saved.
            if domain.isActive() or not domain.hasManagedSaveImage(0):
                raise
    elif not domain.hasManagedSaveImage(0):
        raise InvalidOperationError("The machine is off; there is no memory to save.")
    fork.free_saved(domain)


def discard_saved(domain: VirDomain) -> None:
    if not domain.hasManagedSaveImage(0):
        return
    try:
        domain.managedSaveRemove(0)
    except libvirt.libvirtError:
        # Gone meanwhile, or just being started from.
        if domain.hasManagedSaveImage(0):
            raise


def saved(conn: VirConnect) -> frozenset[UUID]:
    """All whose memory is saved, by one call: the bulk statistics do not tell it."""
    domains = conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
    return frozenset(UUID(bytes=domain.UUID()) for domain in domains if not domain.isActive())


def set_vcpus(domain: VirDomain, vcpus: int) -> None:
    _refuse_if_off(domain)
    now = domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE)
    most = domain.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
    if not now <= vcpus <= most:
        raise InvalidOperationError("The machine cannot be given so many processors while it runs.")
    if vcpus > now:
        domain.setVcpusFlags(vcpus, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    _use_all_processors(domain)


def _use_all_processors(domain: VirDomain) -> None:
    """Most systems use a new processor only when told to. One that has no agent is told by its own rules, or never."""
    with contextlib.suppress(GuestAgentError):
        known = agent.ask(domain, "guest-get-vcpus", limit_s=AGENT_LIMIT_S)
        idle = [
            {"logical-id": cpu["logical-id"], "online": True}
            for cpu in known
            if isinstance(cpu, dict) and not cpu.get("online")
        ]
        if idle:
            agent.ask(domain, "guest-set-vcpus", {"vcpus": idle}, limit_s=AGENT_LIMIT_S)


def set_memory(domain: VirDomain, memory_mib: int) -> None:
    _refuse_if_off(domain)
    if memory_mib * _KIB > domain.maxMemory():
        raise InvalidOperationError("The machine cannot be given so much memory while it runs.")
    if fork.maps(domain) is not None:
        if memory_mib * _KIB == domain.maxMemory():
            return
        # QEMU would take what the guest gives back out of the parent's file.
        raise InvalidOperationError("A fork keeps the memory of its parent's size until its next start.")
    domain.setMemoryFlags(memory_mib * _KIB, libvirt.VIR_DOMAIN_AFFECT_LIVE)


def set_password(domain: VirDomain, user: str, password: str) -> None:
    _by_agent(lambda: domain.setUserPassword(user, password, 0))


def add_ssh_key(domain: VirDomain, user: str, key: str) -> None:
    """The agent itself leaves out keys that are there."""
    _by_agent(lambda: domain.authorizedSSHKeysSet(user, [key], libvirt.VIR_DOMAIN_AUTHORIZED_SSH_KEYS_SET_APPEND))


def _by_agent(ask: Callable[[], object]) -> None:
    try:
        ask()
    except libvirt.libvirtError as error:
        raise agent.as_agent_error(error) from error


def _refuse_if_off(domain: VirDomain) -> None:
    if not domain.isActive():
        raise InvalidOperationError("The machine is off.")


def is_paused(domain: VirDomain) -> bool:
    return _state(domain) == int(libvirt.VIR_DOMAIN_PAUSED)


def _state(domain: VirDomain) -> int:
    state, _reason = domain.state()
    return int(state)
