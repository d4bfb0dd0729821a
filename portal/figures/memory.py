"""How much of the host's memory is a machine's own and what others have, too: as read last, in Redis, for a minute.

Forks of one parent map the same memory until each writes to it. A hash for each host is written whole with every
reading, so whoever does not run any more is not in it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from uuid import UUID

from portal.lib.store import store

KEEP_S: Final = 60
_PAIR: Final = struct.Struct("<qq")


class Memory(NamedTuple):
    """In bytes. `own` no other process has; `shared` is mapped from files that others may have mapped, too."""

    own: int
    shared: int


def record_memory(host_id: UUID, told: Mapping[UUID, Memory]) -> None:
    """Raises redis.RedisError."""
    with store().pipeline() as pipe:
        pipe.delete(_key(host_id))
        if told:
            pipe.hset(_key(host_id), mapping={machine.bytes: _PAIR.pack(*memory) for machine, memory in told.items()})
            pipe.expire(_key(host_id), KEEP_S)
        pipe.execute()


def memory_of(machines: Iterable[tuple[UUID, UUID]]) -> dict[UUID, Memory]:
    """Of each (host, machine), if it was told lately. Raises redis.RedisError."""
    by_host: dict[UUID, list[UUID]] = {}
    for host_id, machine in machines:
        by_host.setdefault(host_id, []).append(machine)
    found: dict[UUID, Memory] = {}
    for host_id, some in by_host.items():
        values: Any = store().hmget(_key(host_id), [machine.bytes for machine in some])
        found |= {
            machine: Memory(*_PAIR.unpack(value))
            for machine, value in zip(some, values, strict=True)
            if value is not None
        }
    return found


def _key(host_id: UUID) -> str:
    return f"casement:memory:{host_id}"
