"""Signs of life that need no table: who beat last, and how late hosts' events came. They are kept in Redis.

Redis' own clock is used throughout, because workers and web processes may run on machines whose clocks differ.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final
from uuid import UUID

import redis
from django.conf import settings

from portal.lib import live

logger = logging.getLogger(__name__)

BEAT_EVERY_S: Final = 10
# Three beats may be missed: a worker that is busy with a fork or a slow Redis is no dead one.
SILENT_AFTER_S: Final = 35
WATCHER: Final = "watcher"
LAG_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_BEATS: Final = "casement:pulse"
_LAGS: Final = "casement:event-lag:"
_FORGET_AFTER_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Lag:
    """Of one host's events since Redis counts: `counts` for each bucket alone; the last one is all the rest."""

    counts: tuple[int, ...]
    total_s: float
    last_s: float

    @property
    def cumulative(self) -> list[int]:
        return list(accumulate(self.counts))


@contextmanager
def _client() -> Iterator[redis.Redis]:
    """Who asks for signs of life must not hang on the one that is dead."""
    with redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2) as client:
        yield client


def worker_beat(node: str, queues: Iterable[str]) -> str:
    """The name of a worker's beat; what it works on is part of it."""
    return f"worker|{node}|{','.join(sorted(queues))}"


def beat(name: str) -> None:
    """Say that `name` lives. A Redis that is away is no reason to stop working."""
    try:
        with _client() as client:
            now = _now(client)
            client.zadd(_BEATS, {name: now})
            client.zremrangebyscore(_BEATS, "-inf", now - _FORGET_AFTER_S)
    except redis.RedisError as error:
        logger.debug("no beat of %s: %s", name, error)


def end(name: str) -> None:
    """Say goodbye: nobody needs to wait for the silence."""
    try:
        with _client() as client:
            client.zrem(_BEATS, name)
    except redis.RedisError as error:
        logger.debug("no end of %s: %s", name, error)


@dataclass(frozen=True, slots=True)
class Living:
    """Who has beaten lately. `queues` are those that some worker takes work from."""

    workers: tuple[str, ...]
    queues: frozenset[str]
    watcher: bool


def living() -> Living:
    """Raises redis.RedisError when nothing can be known."""
    with _client() as client:
        found: Any = client.zrangebyscore(_BEATS, _now(client) - SILENT_AFTER_S, "+inf")  # Typed as for all answers.
    names = [name.decode() for name in found]
    workers = [name.split("|") for name in names if name.startswith("worker|")]
    queues = frozenset(queue for _worker, _node, listed in workers for queue in listed.split(","))
    return Living(tuple(node for _worker, node, _listed in workers), queues, WATCHER in names)


def record_event(host_id: UUID, at: dt.datetime) -> None:
    """An event of the host, which happened at `at`, is in the database now."""
    lag_s = max((dt.datetime.now(dt.UTC) - at).total_seconds(), 0.0)
    bucket = sum(1 for edge in LAG_BUCKETS_S if lag_s > edge)
    try:
        with _client() as client, client.pipeline(transaction=False) as pipe:
            key = f"{_LAGS}{host_id}"
            pipe.hincrby(key, str(bucket), 1)
            pipe.hincrbyfloat(key, "sum", lag_s)
            pipe.hset(key, "last", str(lag_s))
            pipe.execute()
    except redis.RedisError as error:
        logger.debug("the lag of an event is not counted: %s", error)


def event_lags(host_ids: Iterable[UUID]) -> dict[UUID, Lag]:
    """Of the hosts that had events, in one round. Raises redis.RedisError."""
    ids = list(host_ids)
    with _client() as client, client.pipeline(transaction=False) as pipe:
        for host_id in ids:
            pipe.hgetall(f"{_LAGS}{host_id}")
        found = pipe.execute()
    return {host_id: _lag(values) for host_id, values in zip(ids, found, strict=True) if values}


def open_tabs() -> int:
    """Live channels of browser tabs; those of a web process that was killed count for up to a day.

    Every tab is in the channel layer's group of everyone. Raises redis.RedisError.
    """
    with _client() as client:
        return int(client.zcard(f"casement:group:{live.EVERYONE}"))


def _lag(values: dict[bytes, bytes]) -> Lag:
    counts = tuple(int(values.get(str(place).encode(), 0)) for place in range(len(LAG_BUCKETS_S) + 1))
    return Lag(counts, float(values.get(b"sum", 0)), float(values.get(b"last", 0)))


def _now(client: redis.Redis) -> float:
    answer: Any = client.time()  # redis-py types the answers of its two clients as one.
    seconds, microseconds = answer
    return float(seconds) + float(microseconds) / 1e6
