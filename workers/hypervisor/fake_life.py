"""Pausing, hibernating, resizing, passwords and keys on the hypervisor in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from workers.hypervisor.errors import GuestAgentError, InvalidOperationError
from workers.hypervisor.types import MachineSpec, PowerState

if TYPE_CHECKING:
    # For annotations only: the fake imports this module.
    from workers.hypervisor.fake import FakeDomain, FakeHost


class FakeLife:
    """The part of FakeDriver that changes what runs."""

    host: FakeHost

    def suspend(self, machine: UUID) -> None:
        with self.host.operation("suspend"):
            if self.host.running(machine, "pause the machine").power_state is PowerState.RUNNING:
                self.host.set_power(machine, PowerState.PAUSED)

    def resume(self, machine: UUID) -> None:
        with self.host.operation("resume"):
            if self.host.running(machine, "let the machine go on").power_state is PowerState.PAUSED:
                self.host.set_power(machine, PowerState.RUNNING)

    def save(self, machine: UUID) -> None:
        with self.host.operation("save"):
            domain = self.host.owned(machine)
            if domain.saved is not None:
                return
            if not domain.runs:
                raise InvalidOperationError("The machine is off; there is no memory to save.")
            assert domain.live is not None  # noqa: S101 - for the type checker; what runs was started with a spec.
            domain.saved = domain.live
            self.host.set_power(machine, PowerState.SHUT_OFF)

    def discard_saved(self, machine: UUID) -> None:
        with self.host.operation("discard_saved"):
            self.host.owned(machine).saved = None

    def set_vcpus(self, machine: UUID, vcpus: int) -> None:
        with self.host.operation("set_vcpus"):
            domain = self.host.running(machine, "give the machine processors")
            live = _live(domain)
            if not live.vcpus <= vcpus <= max(live.most_vcpus, live.vcpus):
                raise InvalidOperationError("The machine cannot be given so many processors while it runs.")
            domain.live = replace(live, vcpus=vcpus)

    def set_memory(self, machine: UUID, memory_mib: int) -> None:
        with self.host.operation("set_memory"):
            domain = self.host.running(machine, "give the machine memory")
            live = _live(domain)
            most = live.most_memory_mib or live.memory_mib
            if memory_mib > most:
                raise InvalidOperationError("The machine cannot be given so much memory while it runs.")
            if domain.maps is not None and memory_mib != live.memory_mib:
                raise InvalidOperationError("A fork keeps the memory of its parent's size until its next start.")
            domain.live = replace(live, memory_mib=memory_mib, most_memory_mib=most)

    def set_password(self, machine: UUID, user: str, password: str) -> None:
        with self.host.operation("set_password"):
            domain = self._answering(machine)
            domain.guest.passwords[user] = password

    def add_ssh_key(self, machine: UUID, user: str, key: str) -> None:
        with self.host.operation("add_ssh_key"):
            keys = self._answering(machine).guest.ssh_keys.setdefault(user, [])
            if key not in keys:
                keys.append(key)

    def _answering(self, machine: UUID) -> FakeDomain:
        domain = self.host.owned(machine)
        if domain.power_state is not PowerState.RUNNING or not domain.guest.has_agent:
            raise GuestAgentError("The guest agent does not answer.")
        return domain


def _live(domain: FakeDomain) -> MachineSpec:
    assert domain.live is not None  # noqa: S101 - for the type checker; what runs was started with a spec.
    return domain.live
