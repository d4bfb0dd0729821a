"""Read the figures of a host: one bulk call, every ten seconds, by one process at a time."""

from __future__ import annotations

import logging
from uuid import UUID

import redis

from portal.figures import services
from portal.figures.live import Round, Turn
from portal.figures.memory import Memory, record_memory
from portal.figures.rates import Reading
from portal.hosts.models import Host
from workers.hosts import driver_of
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.stats import HostStats, MachineStats

logger = logging.getLogger(__name__)


def sample_host(host_id: UUID) -> None:
    """Ask the host and keep what it tells. That it does not answer is for reconciliation to say."""
    host = Host.objects.filter(pk=host_id).first()
    if host is None:
        return
    try:
        with Turn(host.pk) as turn:
            if turn is not None:
                _sample(host, turn)
    except redis.RedisError as error:
        logger.warning("figures of host %s: %s", host.name, type(error).__name__)


def _sample(host: Host, turn: Turn) -> None:
    try:
        stats = driver_of(host).stats()
    except HypervisorError as error:
        logger.info("figures of host %s: %s", host.name, error)
        turn.rest()
        return
    services.record_round(host, round_of(stats))
    record_memory(host.pk, memory_told(stats))


def memory_told(stats: HostStats) -> dict[UUID, Memory]:
    return {
        machine.uuid: Memory(machine.memory_own_bytes, machine.memory_shared_bytes)
        for machine in stats.machines
        if machine.memory_own_bytes is not None and machine.memory_shared_bytes is not None
    }


def round_of(stats: HostStats) -> Round:
    own = Reading(
        run=0,  # Its counters tell by themselves when it was started anew: they begin again.
        processors=stats.cpus,
        cpu_ns=stats.cpu_ns,
        memory_used=stats.memory_used_bytes,
    )
    return Round(stats.clock, stats.at_s, own, {machine.uuid: _reading(machine) for machine in stats.machines})


def _reading(machine: MachineStats) -> Reading:
    return Reading(
        machine.run,
        machine.vcpus,
        machine.cpu_ns,
        machine.disk_read_bytes,
        machine.disk_written_bytes,
        machine.net_received_bytes,
        machine.net_sent_bytes,
        machine.memory_used_bytes,
        machine.memory_taken_bytes,
    )
