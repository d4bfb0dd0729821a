"""Small pictures of screens: one for each machine, shared by everybody who looks, taken only while somebody does.

Who asks gets the picture that there is, at once; if it is old, another is on its way. Redis holds the pictures and says
who may take the next one, so that however many people look and however many web processes they ask, at most one
picture of a machine is taken at a time, and one in CONSOLE_THUMBNAIL_EVERY_S.

Pictures are taken in the web process, in an event loop of its own in a thread: the screens' sockets are here, as are
the relay's code and limits, and a queue of jobs would make pictures wait for machines that are being built, and those
for displays that do not answer. The work is mostly waiting, and Pillow works without the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import heapq
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, cast
from uuid import UUID

from django.conf import settings
from django.utils.crypto import salted_hmac
from redis.exceptions import RedisError

from portal.console.capture import Picture, take_picture
from portal.console.limits import Place
from portal.console.rfb import Display, DisplayError, RfbError, open_display
from portal.lib.secrets import unseal
from portal.lib.store import store
from portal.machines.models import Machine

logger = logging.getLogger(__name__)

# A guest's screen is its project's secret: it is not kept for longer than somebody looks.
KEEP_S: Final = 60
# A display that failed is left in peace for as long.
AFTER_FAILURE_S: Final = 60
OPEN_S: Final = 2.0
WAIT_S: Final = 5.0
PICTURE_S: Final = 3.0
# Longer than opening, waiting and taking together: who died in the middle is replaced after it.
LOCK_S: Final = 15
# Taken at the same moment in one web process; more would only be slower, each of them.
AT_ONCE: Final = 4
# Opened or waiting in one web process: more than a page shows. Whoever comes then asks again.
MOST: Final = 64
SWEEP_S: Final = 5.0

# The picture, if it is of this run of the machine; whether somebody has the screen open; whether to take the next.
_LOOK: Final = """
local time = redis.call('TIME')
local found = redis.call('HMGET', KEYS[1], 'run', 'etag', 'at', 'data')
if found[1] ~= ARGV[1] then found = {false, false, false, false} end
local claimed = 0
if ARGV[2] == '1' and redis.call('SET', KEYS[2], ARGV[1], 'NX', 'EX', ARGV[3]) then claimed = 1 end
local used = redis.call('ZCOUNT', KEYS[3], time[1], '+inf')
return {found[2], found[3], found[4], claimed, used}
"""


_Field = bytes | bytearray | memoryview | str | int | float


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A WebP. `etag` changes when the picture does; `taken_at` is by Redis' clock."""

    data: bytes = field(repr=False)
    etag: str
    taken_at: dt.datetime


@dataclass(frozen=True, slots=True)
class Wish:
    """A picture to be taken. `since` is the old one's time, 0 if there is none: who waits longest is served first.

    `run` tells one start of the machine from the next. `in_use` says that somebody has the screen open.
    """

    machine_id: UUID
    run: str
    socket_path: str
    secret: str = field(repr=False)
    since: float
    in_use: bool
    asked_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Look:
    """What there is now, and whether a newer picture is on its way."""

    thumbnail: Thumbnail | None
    is_coming: bool


NOTHING: Final = Look(None, is_coming=False)


def look_at(machine: Machine, captures: Captures | None = None) -> Look:
    """The machine's picture, at once. Takes the next one meanwhile, when it is time to. Permission is the caller's."""
    if not machine.has_screen:
        return NOTHING
    every_s: int = settings.CONSOLE_THUMBNAIL_EVERY_S
    run = _run_of(machine)
    try:
        arguments = [*_keys(machine.pk), Place("", 0, machine.pk).keys[1], run, str(int(every_s > 0)), str(LOCK_S)]
        answer = cast("list[bytes | int | None]", store().eval(_LOOK, 3, *arguments))
        etag, at, data, claimed, used = answer
        since = float(cast(bytes, at)) if at else 0.0
        if claimed:
            secret = unseal(machine.console_secret)
            wish = Wish(machine.pk, run, machine.console_socket, secret, since, in_use=bool(used))
            (captures or _CAPTURES).ask(wish)
    except RedisError:
        logger.warning("thumbnail: Redis does not answer")
        return NOTHING
    if not data:
        return Look(None, is_coming=every_s > 0)
    taken_at = dt.datetime.fromtimestamp(since, dt.UTC)
    return Look(Thumbnail(cast(bytes, data), cast(bytes, etag).decode(), taken_at), is_coming=bool(claimed))


def _run_of(machine: Machine) -> str:
    """Another start of the machine is another screen: nobody sees what was on the one before."""
    identity = f"{machine.pk}:{machine.console_socket}:{machine.console_secret}"
    return salted_hmac("portal.console.thumbnails", identity).hexdigest()[:16]


def _keys(machine_id: UUID) -> tuple[str, str]:
    """Of the picture, and of the right to take the next one."""
    return f"casement:thumbnail:{machine_id}", f"casement:thumbnail:{machine_id}:next"


def _keep(wish: Wish, picture: Picture) -> None:
    """Store the picture; the next may be taken CONSOLE_THUMBNAIL_EVERY_S after this one was asked for."""
    client = store()
    seconds, microseconds = client.time()
    key, following = _keys(wish.machine_id)
    values: dict[_Field, _Field] = {
        "run": wish.run,
        "etag": hashlib.sha256(picture.data).hexdigest()[:20],
        "at": f"{seconds}.{microseconds:06}",
        "width": picture.width,
        "height": picture.height,
        "data": picture.data,
    }
    rest_s = settings.CONSOLE_THUMBNAIL_EVERY_S - (time.monotonic() - wish.asked_at)
    with client.pipeline() as pipe:
        pipe.delete(key)
        pipe.hset(key, mapping=values)
        pipe.expire(key, KEEP_S)
        pipe.pexpire(following, max(round(rest_s * 1000), 1))
        pipe.execute()


def _leave_in_peace(wish: Wish, seconds: float) -> None:
    store().pexpire(_keys(wish.machine_id)[1], round(seconds * 1000))


def _give_up(wish: Wish, error: Exception) -> None:
    """What a display says is its guest's; only our own word for what is wrong with it is written down."""
    if isinstance(error, OSError | RfbError | RedisError):
        reason = error.reason if isinstance(error, RfbError) else type(error).__name__
        logger.info("thumbnail of machine %s: %s", wish.machine_id, reason)
    else:
        logger.error("thumbnail of machine %s", wish.machine_id, exc_info=error)
    with suppress(RedisError):
        _leave_in_peace(wish, AFTER_FAILURE_S)


def _is_in_use(machine_id: UUID) -> bool:
    """Whether somebody has the screen open, through whichever process."""
    return bool(store().zcount(Place("", 0, machine_id).keys[1], time.time(), "+inf"))


class Captures:
    """Takes pictures in a thread of its own, which begins with the first wish.

    Displays are opened side by side, so one that does not answer holds up nobody; of those that have, the picture that
    is oldest is renewed first. QEMU lets go of all keys when any of its viewers leaves, so nobody must leave while a
    person is at the screen: then the connection is kept until the person has gone, and the next picture is taken on it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self._turns = _Turns(AT_ONCE)
        self._pending = 0
        self._kept: dict[tuple[UUID, str], Display] = {}

    def ask(self, wish: Wish) -> Future[None] | None:
        """Take the picture soon. None when too many are waiting; who looks will ask again."""
        with self._lock:
            if self._pending >= MOST:
                _leave_in_peace(wish, 1)
                return None
            if self._thread is None:
                self._begin()
            self._pending += 1
            future = asyncio.run_coroutine_threadsafe(self._take(wish), self._loop)
        future.add_done_callback(self._done)
        return future

    def close(self) -> None:
        """Ends the thread, with what it was about to do."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._loop.call_soon_threadsafe(self._end.set)
            thread.join()

    def _done(self, _future: Future[None]) -> None:
        with self._lock:
            self._pending -= 1

    def _begin(self) -> None:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)), name="thumbnails", daemon=True)
        self._thread.start()
        started.wait()

    async def _main(self, started: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        while not self._end.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._end.wait(), SWEEP_S)
            await self._let_go()
        for display in self._kept.values():
            await display.close()

    async def _take(self, wish: Wish) -> None:
        # Redis is asked from the event loop itself: it answers at once, or nothing here makes sense.
        try:
            _keep(wish, await self._picture_of(wish))
        except Exception as error:  # noqa: BLE001 - a hostile display may find what we did not think of
            _give_up(wish, error)

    async def _picture_of(self, wish: Wish) -> Picture:
        """On the connection that was kept, if it lives, or on a new one."""
        kept = self._kept.pop((wish.machine_id, wish.run), None)
        if kept is not None:
            try:
                return await self._picture_on(kept, wish)
            except DisplayError as error:
                if error.reason != "closed-early":
                    raise
        if wish.in_use and len(self._kept) >= MOST:
            raise DisplayError("too-many-kept")
        return await self._picture_on(await open_display(wish.socket_path, wish.secret, deadline=OPEN_S), wish)

    async def _picture_on(self, display: Display, wish: Wish) -> Picture:
        try:
            async with self._turns.turn(wish.since):
                picture = await take_picture(display, deadline=PICTURE_S)
        except BaseException:
            await display.close()
            raise
        if wish.in_use:
            self._kept[wish.machine_id, wish.run] = display
        else:
            await display.close()
        return picture

    async def _let_go(self) -> None:
        """Of connections that were kept for a person who has gone."""
        for key in list(self._kept):
            try:
                gone = not _is_in_use(key[0])
            except RedisError:
                return
            # Asking takes a moment of Redis, not of this loop: nobody else can have taken it meanwhile.
            if gone:
                await self._kept.pop(key).close()


class _Turns:
    """Lets so many in at a time. Of those who wait, the one with the lowest `rank` is next."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    @asynccontextmanager
    async def turn(self, rank: float) -> AsyncIterator[None]:
        """DisplayError when it does not come within WAIT_S."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(rank)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, rank: float) -> None:
        mine = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._order), mine))
        try:
            async with asyncio.timeout(WAIT_S):
                await mine
        except TimeoutError as error:
            raise DisplayError("no-turn") from error

    def _pass_on(self) -> None:
        while self._waiting:
            _rank, _order, waiting = heapq.heappop(self._waiting)
            if not waiting.done():
                waiting.set_result(None)
                return
        self._free += 1


_CAPTURES: Final = Captures()
