"""What goes through the guest agent. The guest may be hostile: its answers are read as data of limited size."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import libvirt
import libvirt_qemu

from workers.hypervisor.errors import GuestAgentError
from workers.hypervisor.kvm.connection import VirDomain
from workers.hypervisor.types import CommandResult

PING_LIMIT_S = 2
OUTPUT_LIMIT = 1024 * 1024
STDIN_LIMIT = 2 * 1024 * 1024
_SILENCE = frozenset(
    {
        libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
        libvirt.VIR_ERR_AGENT_UNSYNCED,
        libvirt.VIR_ERR_OPERATION_INVALID,
        libvirt.VIR_ERR_OPERATION_TIMEOUT,
        # The machine was defined without an agent's channel.
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    }
)
_FIRST_POLL_S = 0.02
_SLOWEST_POLL_S = 0.5


def answers(domain: VirDomain) -> bool:
    """A machine that is off, or has no agent, does not answer; that is no error."""
    try:
        ask(domain, "guest-ping", limit_s=PING_LIMIT_S)
    except GuestAgentError:
        return False
    return True


def ask(domain: VirDomain, command: str, arguments: dict[str, Any] | None = None, *, limit_s: float) -> Any:
    """One agent command's "return" value. Every failure is a GuestAgentError: the machine itself goes on."""
    request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
    try:
        reply = libvirt_qemu.qemuAgentCommand(domain, request, max(1, round(limit_s)), 0)
        return json.loads(reply)["return"]
    except libvirt.libvirtError as error:
        raise as_agent_error(error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise GuestAgentError("The guest agent gave an answer that cannot be read.") from error


def as_agent_error(error: libvirt.libvirtError) -> Exception:
    """What a failed question to the agent is raised as; a connection that was lost stays what it is."""
    if error.get_error_domain() in {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}:
        return error  # type: ignore[no-any-return]  # libvirt has no annotations
    if error.get_error_code() in _SILENCE:
        return GuestAgentError("The guest agent does not answer.")
    return GuestAgentError("The guest agent refused the command.", retryable=False)


def run(domain: VirDomain, argv: tuple[str, ...], stdin: bytes, timeout_s: float) -> CommandResult:
    """Start the command, then ask until it ended. A command that takes too long may go on in the guest."""
    if not argv or len(stdin) > STDIN_LIMIT:
        raise GuestAgentError("The command for the guest is empty, or its input too long.", retryable=False)
    deadline = time.monotonic() + timeout_s
    arguments: dict[str, Any] = {"path": argv[0], "arg": list(argv[1:]), "capture-output": True}
    if stdin:
        arguments["input-data"] = base64.b64encode(stdin).decode()
    pid = _field(ask(domain, "guest-exec", arguments, limit_s=timeout_s), "pid")
    pause = _FIRST_POLL_S
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise GuestAgentError(f"The command in the guest did not end within {timeout_s:g} seconds.")
        status = ask(domain, "guest-exec-status", {"pid": pid}, limit_s=left)
        if _field(status, "exited"):
            return _result(status)
        time.sleep(min(pause, left))
        pause = min(pause * 2, _SLOWEST_POLL_S)


def _field(reply: Any, name: str) -> Any:
    if not isinstance(reply, dict) or name not in reply:
        raise GuestAgentError("The guest agent gave an answer that cannot be read.")
    return reply[name]


def _result(status: dict[str, Any]) -> CommandResult:
    """A command that a signal ended has no exit code; shells call that 128 + the signal's number."""
    code = status.get("exitcode")
    if not isinstance(code, int):
        code = 128 + int(status.get("signal", 0))
    return CommandResult(code, _output(status, "out-data"), _output(status, "err-data"))


def _output(status: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(status.get(name, ""), validate=True)[:OUTPUT_LIMIT]
    except (binascii.Error, TypeError, ValueError) as error:
        raise GuestAgentError("The guest agent gave an answer that cannot be read.") from error


def addresses(domain: VirDomain) -> tuple[str, ...]:
    """From the agent, or else from the network's DHCP leases."""
    return next((found for interfaces in _interfaces(domain) if (found := _usable(interfaces))), ())


def card_addresses(domain: VirDomain) -> dict[str, tuple[str, ...]]:
    """By MAC. Several interfaces may have the same (a bridge over a card): then their addresses are the card's."""
    for interfaces in _interfaces(domain):
        by_mac: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for name, interface in interfaces.items():
            by_mac[str(interface.get("hwaddr") or "").lower()][name] = interface
        if found := {mac: usable for mac, those in by_mac.items() if mac and (usable := _usable(those))}:
            return found
    return {}


def _interfaces(domain: VirDomain) -> Iterator[dict[str, dict[str, Any]]]:
    """As the agent tells them, then as the DHCP server does. A source that does not answer is left out."""
    for source in (
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
        libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    ):
        try:
            found = domain.interfaceAddresses(source, 0)
        except libvirt.libvirtError as error:
            if error.get_error_domain() in {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}:
                raise
            continue
        yield found or {}


def _usable(interfaces: dict[str, dict[str, Any]] | None) -> tuple[str, ...]:
    texts = [entry["addr"] for interface in (interfaces or {}).values() for entry in interface.get("addrs") or []]
    return tuple(str(address) for address in dict.fromkeys(map(_parse, texts)) if address is not None)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """The agent's words are the guest's: only real addresses pass."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if address.is_loopback or address.is_link_local or address.is_unspecified else address
