"""The figures of the last ten minutes, in Redis: counters as they were read last, and the points that came of them.

A hash for each host, with a field for each of its machines and one for itself. A field is whole by itself, so that a
worker that is killed between two of them leaves nothing that is wrong. Redis' clock says when, since workers may run on
machines whose clocks differ; how long it was between two readings, a clock that nobody sets.
"""

from __future__ import annotations

import heapq
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Any, Final, NamedTuple
from uuid import UUID
from zlib import crc32

import redis
from redis.exceptions import LockError

from portal.figures.points import POINT_BYTES, SHAPES, Level, Point, Ring, appended, pack, unpack
from portal.figures.rates import LONGEST_S, Reading, of_host, point_between
from portal.lib.store import store

STEP_S: Final = SHAPES[Level.LIVE].step_s
SIZE: Final = SHAPES[Level.LIVE].size
# Longer than a driver may take and the round after it; whoever was killed is replaced then.
TURN_S: Final = 30
# A host that did not answer is left in peace for as long: it would hold a worker's place most of the time.
REST_S: Final = 30
KEEP_S: Final = 3600
BUSIEST_KEPT: Final = 5
AT_ONCE: Final = 250

_BUSIEST: Final = "casement:figures:busiest"
_PUT_BY: Final = b"put-by"
# Run, slot of the newest point, processors, clock, its reading, Redis' time, and the five counters.
_HEAD: Final = struct.Struct("<qqiI7d")


class Moment(NamedTuple):
    """When a host was read. `at_s` is by the clock named `clock`, `now_s` by Redis'."""

    clock: int
    at_s: float
    now_s: float

    @property
    def slot(self) -> int:
        return int(self.now_s // STEP_S)


@dataclass(frozen=True, slots=True)
class Round:
    """One reading of a host and of all machines that run on it."""

    clock: str
    at_s: float
    host: Reading
    machines: Mapping[UUID, Reading]


class Kept(NamedTuple):
    """One machine or host as it was read last, and its newest points."""

    reading: Reading
    moment: Moment
    end: int
    data: bytes

    @property
    def ring(self) -> Ring:
        return Ring(Level.LIVE, self.end, self.data)


def _packed(kept: Kept) -> bytes:
    """None becomes NaN. The sizes are points already and not needed again."""
    reading, moment = kept.reading, kept.moment
    counters = [float("nan") if value is None else value for value in reading[2:7]]
    head = _HEAD.pack(reading.run, kept.end, reading.processors, moment.clock, moment.at_s, moment.now_s, *counters)
    return head + kept.data


def _unpacked(value: bytes) -> Kept:
    run, end, processors, clock, at_s, now_s, *counters = _HEAD.unpack_from(value)
    known = [None if counter != counter else counter for counter in counters]  # noqa: PLR0124 - so is a NaN told
    return Kept(Reading(run, processors, *known), Moment(clock, at_s, now_s), end, value[_HEAD.size :])


def follow_up(
    kept: Kept | None, reading: Reading, moment: Moment, machines: Sequence[Point] | None = None
) -> tuple[Kept, Point]:
    """What is kept after this reading, and its point. A host's point takes in those of its `machines`.

    A reading that comes within the slot of the last one is left out: the next one tells of both. One that comes late
    is a mean over all the slots since, so it stands in each of them.
    """
    if kept is not None and kept.end == moment.slot and kept.reading.run == reading.run:
        return kept, unpack(kept.data[-POINT_BYTES:])
    seconds = None if kept is None else _between(kept.moment, moment)
    point = point_between(kept.reading if kept else None, reading, seconds)
    if machines is not None:
        point = of_host(point, machines)
    packed, end, data = pack(point), kept.end if kept else -1, kept.data if kept else b""
    for slot in range(moment.slot - _missed(kept, moment, seconds, point), moment.slot + 1):
        data, end = appended(data, end, slot, packed, SIZE), slot
    return Kept(reading, moment, end, data), point


def _between(before: Moment, now: Moment) -> float:
    """Two workers on two machines have no such clock in common; Redis' is next best."""
    return now.at_s - before.at_s if now.clock == before.clock else now.now_s - before.now_s


def _missed(kept: Kept | None, moment: Moment, seconds: float | None, point: Point) -> int:
    """How many slots before this one the point tells of, too. None, if the clock was set in between."""
    if kept is None or seconds is None or point.cpu is None:
        return 0
    passed = moment.now_s - kept.moment.now_s
    return max(moment.slot - kept.end - 1, 0) if abs(passed - seconds) < STEP_S else 0


# --- writing ------------------------------------------------------------------------------------------------------


class Turn:
    """The right to read a host: one process has it at a time. False in a `with` if somebody else does.

    It ends by itself, should its holder be killed.
    """

    def __init__(self, host_id: UUID) -> None:
        self._lock = store().lock(f"{_key(host_id)}:turn", timeout=TURN_S, blocking=False)
        self._rests = False

    def __enter__(self) -> Turn | None:
        return self if self._lock.acquire() else None

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._lock.local.token is None or self._rests:
            return
        try:
            self._lock.release()
        except LockError:
            # It took so long that the turn was over, and is another's by now.
            return

    def rest(self) -> None:
        """Leave the host in peace for a while."""
        self._rests = True
        self._lock.extend(REST_S, replace_ttl=True)


@dataclass(slots=True)
class _Sum:
    """What is found on the way through the machines."""

    points: list[Point] = field(default_factory=list)
    busiest: list[tuple[float, str, float]] = field(default_factory=list)

    def add(self, machine: UUID, reading: Reading, point: Point) -> None:
        self.points.append(point)
        if point.cpu:
            entry = (point.cpu * reading.processors, str(machine), point.cpu)
            if len(self.busiest) < BUSIEST_KEPT:
                heapq.heappush(self.busiest, entry)
            else:
                heapq.heappushpop(self.busiest, entry)


def record(host_id: UUID, told: Round) -> float:
    """Keep what a host told; Redis' time of it. Raises redis.RedisError."""
    client = store()
    moment = Moment(crc32(told.clock.encode()), told.at_s, now_s(client))
    key, found = _key(host_id), _Sum()
    for some in _batches(told.machines.items()):
        _record_some(client, key, some, moment, found)
    _record_host(client, host_id, told.host, moment, found)
    return moment.now_s


def _record_some(
    client: redis.Redis, key: str, some: Sequence[tuple[UUID, Reading]], moment: Moment, found: _Sum
) -> None:
    fields = [machine.bytes for machine, _reading in some]
    values: dict[Any, Any] = {}
    for (machine, reading), kept in zip(some, _kept(client, key, fields), strict=True):
        after, point = follow_up(kept, reading, moment)
        values[machine.bytes] = _packed(after)
        found.add(machine, reading, point)
    client.hset(key, mapping=values)


def _record_host(client: redis.Redis, host_id: UUID, reading: Reading, moment: Moment, found: _Sum) -> None:
    key = _key(host_id)
    (kept,) = _kept(client, key, [host_id.bytes])
    after, _point = follow_up(kept, reading, moment, found.points)
    with client.pipeline() as pipe:
        pipe.hset(key, host_id.bytes, _packed(after))
        pipe.expire(key, KEEP_S)
        pipe.hset(_BUSIEST, str(host_id), json.dumps([moment.now_s, sorted(found.busiest, reverse=True)]))
        pipe.execute()


def _kept(client: redis.Redis, key: str, fields: list[bytes]) -> list[Kept | None]:
    found: Any = client.hmget(key, fields)
    return [None if value is None else _unpacked(value) for value in found]


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = iter(items)
    while batch := list(islice(remaining, AT_ONCE)):
        yield batch


# --- reading ------------------------------------------------------------------------------------------------------


def now_s(client: redis.Redis) -> float:
    answer: Any = client.time()  # redis-py types the answers of its two clients as one.
    seconds, microseconds = answer
    return float(seconds) + float(microseconds) / 1e6


def rings_of(subjects: Sequence[tuple[UUID, UUID]]) -> tuple[float, list[Ring]]:
    """Redis' time, and the live ring of each (host, machine or host): empty where nothing is known."""
    client = store()
    at_s = now_s(client)
    with client.pipeline(transaction=False) as pipe:
        for host_id, subject in subjects:
            pipe.hget(_key(host_id), subject.bytes)
        values: Any = pipe.execute()
    return at_s, [Ring(Level.LIVE) if value is None else _unpacked(value).ring for value in values]


def subjects_on(host_id: UUID) -> list[UUID]:
    """The host, and all machines of it that are or were lately known here."""
    fields: Any = store().hkeys(_key(host_id))
    return [UUID(bytes=name) for name in fields if len(name) == 16]


def batches_on(host_id: UUID) -> Iterator[list[tuple[UUID, Ring]]]:
    """Their live rings, some at a time."""
    client, key = store(), _key(host_id)
    for some in _batches(subjects_on(host_id)):
        kept = _kept(client, key, [subject.bytes for subject in some])
        yield [(subject, one.ring) for subject, one in zip(some, kept, strict=True) if one is not None]


def forget(host_id: UUID, subjects: Iterable[UUID]) -> None:
    if fields := [subject.bytes for subject in subjects]:
        store().hdel(_key(host_id), *fields)


def put_by_at(host_id: UUID) -> float:
    """When the figures of this host were put by last; 0 if that is not known."""
    value: Any = store().hget(_key(host_id), _PUT_BY)
    return float(value or 0)


def set_put_by(host_id: UUID, at_s: float) -> None:
    store().hset(_key(host_id), _PUT_BY, str(at_s))


class Busy(NamedTuple):
    """`cores` is how many whole processors the machine keeps busy; `share` which part of its own."""

    machine_id: UUID
    cores: float
    share: float


def busiest(limit: int, *, longest_ago_s: float = LONGEST_S) -> list[Busy]:
    """The machines that compute most, on all hosts that told lately. Raises redis.RedisError."""
    client = store()
    found: Any = client.hvals(_BUSIEST)
    oldest = now_s(client) - longest_ago_s
    rounds = [json.loads(value) for value in found]
    entries = (entry for at_s, some in rounds if at_s > oldest for entry in some)
    return [Busy(UUID(pk), cores, share) for cores, pk, share in heapq.nlargest(limit, entries)]


def forget_hosts(known: Iterable[UUID]) -> None:
    """Of hosts that are not registered any more."""
    client = store()
    fields: Any = client.hkeys(_BUSIEST)
    if gone := {name.decode() for name in fields} - {str(pk) for pk in known}:
        client.hdel(_BUSIEST, *gone)


def _key(host_id: UUID) -> str:
    return f"casement:figures:{host_id}"
