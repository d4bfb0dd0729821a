"""How many screens may be open at once: for each person, each machine, and each web process.

A place is a lease in Redis that its session renews, so a web process that dies gives its places back by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast
from uuid import UUID

from django.conf import settings

from portal.lib.store import store

LEASE_S: Final = 30
RENEW_S: Final = 10

# All or nothing, in one step for all web processes. Gives 0, or the number of the key that is full.
_TAKE: Final = """
local now = tonumber(redis.call('TIME')[1])
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  redis.call('ZREM', key, ARGV[1])
  if redis.call('ZCARD', key) >= tonumber(ARGV[2 + i]) then return i end
end
for _, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + tonumber(ARGV[2]), ARGV[1])
  redis.call('EXPIRE', key, ARGV[2])
end
return 0
"""
_FULL: Final = {1: "user", 2: "machine"}
_open_here = 0


@dataclass(frozen=True, slots=True)
class Place:
    """A session's place among those of its person and its machine. `number` is the session's own."""

    number: str
    user_id: int
    machine_id: UUID

    @property
    def keys(self) -> list[str]:
        return [f"casement:console:user:{self.user_id}", f"casement:console:machine:{self.machine_id}"]


def take(place: Place) -> str | None:
    """Take the place; the word for what is full ("user", "machine") when there is none."""
    full = cast(int, store().eval(_TAKE, 2, *_arguments(place)))
    return _FULL.get(int(full))


def renew(places: Iterable[Place]) -> None:
    """Hold on to all of them, in one exchange with Redis."""
    with store().pipeline(transaction=False) as pipe:
        for place in places:
            pipe.eval(_TAKE, 2, *_arguments(place))
        pipe.execute()


def give_back(place: Place) -> None:
    with store().pipeline() as pipe:
        for key in place.keys:
            pipe.zrem(key, place.number)
        pipe.execute()


def is_held(place: Place) -> bool:
    """Whether the session that took the place has renewed it lately, i.e. lives."""
    score = store().zscore(place.keys[1], place.number)
    return score is not None and score > time.time()


def _arguments(place: Place) -> list[str]:
    limits = [settings.CONSOLE_MAX_SESSIONS_PER_USER, settings.CONSOLE_MAX_SESSIONS_PER_MACHINE]
    return [*place.keys, place.number, str(LEASE_S), *map(str, limits)]


@contextmanager
def process_place() -> Iterator[bool]:
    """Counts a session of this process while it lasts; gives False when there are too many already."""
    global _open_here  # noqa: PLW0603 - one event loop for each process, and no await between reading and writing
    free = _open_here < settings.CONSOLE_MAX_SESSIONS_PER_PROCESS
    _open_here += 1
    try:
        yield free
    finally:
        _open_here -= 1
