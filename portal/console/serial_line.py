"""A machine's serial line, shared by everybody who looks at it, through whichever process of either door.

QEMU's serial port takes one visitor. So of all sessions at one machine one holds the port (a lease in Redis says which)
and passes what the guest prints to a stream in Redis; every session, the holder too, reads it there, and what may be
typed goes through a list back to the holder. When the holder goes, another session takes the port within a moment, or
within LEASE_MS if its process was killed; the guest's words in between are in its log only.

Nobody holds up the guest: the port is read whatever viewers do, the stream keeps the last of it, and a viewer who is
too slow misses a piece and is told so. To the relay a session's line is one end of a socket pair, the other end is
served by threads here; so back-pressure and bounds are the relay's, as with screens.

What a session's line says: 4 bytes (big-endian) with the length of what was printed before the session began, that
text, then the live line. A terminal must not answer what stands in the first part: it was asked long ago. A line that
is silent says a NUL now and then, which no terminal shows: a browser cannot see the pings of a WebSocket, and who hears
nothing for far longer knows that the line is dead.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.exceptions import RedisError

from portal.console.relay import Step
from portal.console.selectors import Target
from portal.lib.store import store

logger = logging.getLogger(__name__)

LEASE_MS: Final = 3000
# Whoever has left sees to it for so long that what was typed last comes to the guest.
SEE_IT_TYPED_S: Final = 20.0
RENEW_S: Final = 1.0
WAIT_S: Final = 1  # Redis is asked to wait for no longer; its connection gives up after 2 s.
PIECE: Final = 4096
# The stream's entries; together 2 MiB at most.
KEPT_PIECES: Final = 512
HISTORY_BYTES: Final = 64 * 1024
# Pieces that may wait to be typed. Whoever pastes more waits, in the relay.
WAITING_PIECES: Final = 16
KEEP_S: Final = 60
# Among what is typed it types nothing: who waits there looks up.
_WAKE: Final = b""
ALIVE_S: Final = 15.0
ALIVE: Final = b"\0"
AFTER_END_S: Final = 10
CONNECT_S: Final = 3.0
# A guest that prints a lot prints byte by byte: gathered for as long, it costs a few hundred turns a second at most.
GATHER_S: Final = 0.005
SKIPPED: Final = b"\r\n[...]\r\n"

_RENEW: Final = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('PEXPIRE', KEYS[1], ARGV[2]) or 0"
_RELEASE: Final = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
_TYPE: Final = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class LineError(Exception):
    """The line cannot be opened; `step` and `reason` as in `Ended`."""

    def __init__(self, step: Step, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step, self.reason = step, reason


@dataclass(slots=True)
class SerialInput:
    """The relay's filter for a serial line: everything may be typed, or nothing. There is no key that stays down."""

    view_only: bool
    inputs: int = 0
    let_go: Callable[[bytes], object] | None = None

    def feed(self, data: bytes) -> bytes:
        if self.view_only:
            return b""
        self.inputs += 1
        return data

    def set_view_only(self, view_only: bool) -> None:
        self.view_only = view_only

    def release(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class _Names:
    """Redis' keys of one run of one machine: what was printed before it was switched off is nobody's any more."""

    out: str
    typed: str
    # What the holder has taken from there, until all of it is with the guest: one piece at most.
    taken: str
    holder: str


def _names(target: Target) -> _Names:
    run = hashlib.sha256(target.socket_path.encode()).hexdigest()[:16]
    stem = f"casement:serial:{target.machine.pk}:{run}"
    return _Names(f"{stem}:out", f"{stem}:typed", f"{stem}:taken", f"{stem}:holder")


def open_line(target: Target) -> socket.socket:
    """A session's end of the machine's line, blocking. It ends when the machine does; closing it ends the session."""
    try:
        return _Line(_names(target), target.serial_path).begin()
    except RedisError as error:
        logger.exception("serial: Redis does not answer")
        raise LineError(Step.HOST, "unavailable") from error
    except OSError as error:
        logger.warning("serial port of machine %s: %s", target.machine.pk, error)
        raise LineError(Step.HOST, "unreachable") from error


class _Line:
    """One session's part: two threads, one for each direction, and the port if this session holds it."""

    def __init__(self, names: _Names, path: str) -> None:
        self._names, self._path = names, path
        self._port: _Port | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._last: bytes | str = "0"
        self._number = 0
        self._ours: socket.socket

    def begin(self) -> socket.socket:
        """The session's end. It is not kept here: who drops it ends the session."""
        try:
            self._hold_port()
            history = self._history()
        except BaseException:
            self._let_go()
            raise
        theirs, self._ours = socket.socketpair()
        _in_threads(self._ours, lambda: self._guarded(lambda: self._show(history)), self._type_and_let_go)
        return theirs

    def _type_and_let_go(self) -> None:
        """The port is let go of after the last that was typed: whoever types and leaves at once has typed."""
        try:
            self._guarded(self._type)
            with contextlib.suppress(RedisError, OSError):
                self._see_it_typed()
        finally:
            self._let_go()

    def _see_it_typed(self) -> None:
        """Whoever holds the port may go in the same moment, or lose its lease; then nobody else might be there."""
        until = time.monotonic() + SEE_IT_TYPED_S
        while store().exists(self._names.typed, self._names.taken) and time.monotonic() < until:
            with contextlib.suppress(OSError):  # It takes one visitor at a time, and may be taken for a moment still.
                self._hold_port(leaving=True)
            time.sleep(0.02)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except RedisError:
            logger.warning("serial: Redis does not answer")
        except OSError:
            logger.debug("serial: a session has gone", exc_info=True)
        finally:
            self._end()

    def _end(self) -> None:
        """Called by whoever notices it first, and once more by the other."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        with self._lock:
            port, self._port = self._port, None
        if port is not None:
            port.close()

    # --- what the guest prints ---

    def _history(self) -> bytes:
        """The end of what is there, which has been seen by this; what comes after it follows."""
        found = cast("list[tuple[bytes, dict[bytes, bytes]]]", store().xrevrange(self._names.out, count=KEPT_PIECES))
        if found:
            self._last, self._number = found[0][0], int(found[0][1].get(b"n", 0))
        text = b"".join(fields.get(b"d", b"") for _number, fields in reversed(found))[-HISTORY_BYTES:]
        return len(text).to_bytes(4) + text

    def _show(self, history: bytes) -> None:
        self._ours.sendall(history)
        said_at = time.monotonic()
        while not self._over.is_set():
            answer = cast(Any, store().xread({self._names.out: self._last}, count=32, block=WAIT_S * 1000))
            for self._last, fields in answer[0][1] if answer else ():
                if b"end" in fields:
                    return
                self._ours.sendall(self._piece(fields))
            if answer:
                said_at = time.monotonic()
            elif time.monotonic() - said_at > ALIVE_S:
                said_at = time.monotonic()
                self._ours.sendall(ALIVE)
            self._hold_port()

    def _piece(self, fields: dict[bytes, bytes]) -> bytes:
        """A holder begins to count at 1; its last word, that it goes, has neither number nor text."""
        number, before = int(fields.get(b"n", 0)), self._number
        self._number = number or before
        return (SKIPPED if number > before + 1 else b"") + fields.get(b"d", b"")

    def _hold_port(self, *, leaving: bool = False) -> None:
        """Take the port if nobody holds it. OSError when it is not there."""
        with self._lock:
            if self._over.is_set() != leaving or (self._port is not None and self._port.is_open):
                return
            token = secrets.token_hex(8)
            if store().set(self._names.holder, token, nx=True, px=LEASE_MS):
                try:
                    self._port = _Port(self._names, token, self._path)
                except OSError:
                    store().eval(_RELEASE, 1, self._names.holder, token)
                    raise

    # --- what the person types ---

    def _type(self) -> None:
        while data := self._ours.recv(PIECE):
            while not store().eval(_TYPE, 1, self._names.typed, data, str(WAITING_PIECES), str(KEEP_S)):
                if self._over.wait(0.02):
                    return


def _in_threads(end: socket.socket, *works: Callable[[], None]) -> None:
    """Do each in a thread of its own; whoever ends last closes the socket that they share."""
    left = list(works)

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            left.remove(work)
            if not left:
                end.close()

    for work in works:
        threading.Thread(target=run, args=(work,), name="serial", daemon=True).start()


class _Port:
    """The machine's serial port while this process holds it: two threads, one for each direction."""

    def __init__(self, names: _Names, token: str, path: str) -> None:
        self._names, self._token = names, token
        self._over, self._spoken = threading.Event(), threading.Event()
        self._guest_ended = False
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(CONNECT_S)
            self._socket.connect(path)
            self._socket.settimeout(None)
        except BaseException:
            self._socket.close()
            raise
        _in_threads(self._socket, lambda: self._guarded(self._hear), lambda: self._guarded(self._speak))

    @property
    def is_open(self) -> bool:
        return not self._over.is_set()

    def close(self) -> None:
        """Let somebody else take it, as soon as no piece is half typed. Returns at once."""
        if self._stop():
            with contextlib.suppress(RedisError):
                self._wake()

    def _wake(self) -> None:
        with store().pipeline(transaction=False) as pipe:
            pipe.rpush(self._names.typed, _WAKE)
            pipe.expire(self._names.typed, KEEP_S)
            pipe.execute()
        if self._spoken.is_set():
            store().lrem(self._names.typed, 0, cast(str, _WAKE))

    def _stop(self) -> bool:
        was_open = not self._over.is_set()
        self._over.set()
        return was_open

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (RedisError, OSError) as error:
            logger.warning("serial: the port is let go of: %s", error)
        finally:
            self.close()

    def _hear(self) -> None:
        while data := self._socket.recv(PIECE):
            self._number += 1
            self._publish({"n": str(self._number), "d": data})
            self._over.wait(GATHER_S)
        # Not because we let go of it: QEMU has ended.
        if not self._over.is_set():
            self._guest_ended = True
            self._stop()
            self._publish({"end": b"1"}, keep_s=AFTER_END_S)
            self._wake()

    def _publish(self, fields: dict[Any, Any], *, keep_s: int = KEEP_S) -> None:
        with store().pipeline(transaction=False) as pipe:
            pipe.xadd(self._names.out, fields, maxlen=KEPT_PIECES, approximate=False)
            pipe.expire(self._names.out, keep_s)
            pipe.execute()

    def _speak(self) -> None:
        """What is typed, as far as the guest takes it; and the lease, which must not depend on that.

        The port is given away only when this has ended: two who take from one list would type in another order.
        """
        waiting, renew_at = b"", 0.0
        try:
            # What the holder before had taken when it went.
            waiting = b"".join(cast("list[bytes]", store().lrange(self._names.taken, 0, -1)))
            while True:
                if time.monotonic() >= renew_at:
                    renew_at = time.monotonic() + RENEW_S
                    if not store().eval(_RENEW, 1, self._names.holder, self._token, str(LEASE_MS)):
                        return
                    store().expire(self._names.out, KEEP_S)
                last = self._over.is_set()
                if waiting:
                    _none, ready, _none = select.select((), (self._socket,), (), RENEW_S)
                    if last and not ready:
                        return
                    waiting = waiting[self._socket.send(waiting, socket.MSG_DONTWAIT) :] if ready else waiting
                    if not waiting:
                        store().delete(self._names.taken)
                elif last:
                    return
                else:
                    waiting = self._take()
        finally:
            self._stop()  # Before the socket ends: else that would count as the guest's end.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._spoken.set()
            store().lrem(self._names.typed, 0, cast(str, _WAKE))
            if self._guest_ended:
                store().delete(self._names.typed, self._names.taken)
            # Without the lease another holder has found the piece where it lay, and may have the next one there by now.
            elif waiting and store().eval(_RENEW, 1, self._names.holder, self._token, str(LEASE_MS)):
                self._leave(waiting)
            if store().eval(_RELEASE, 1, self._names.holder, self._token):
                self._publish({"left": b"1"})

    def _take(self) -> bytes:
        """The next piece. It is in one of two lists all the time: Redis' answer may not arrive."""
        piece = cast("bytes | None", store().blmove(self._names.typed, self._names.taken, WAIT_S))
        if piece == _WAKE:
            store().delete(self._names.taken)
        elif piece:
            store().expire(self._names.taken, KEEP_S)
        return piece or b""

    def _leave(self, rest: bytes) -> None:
        """What the guest has not taken, for the next holder."""
        with store().pipeline() as pipe:
            pipe.delete(self._names.taken)
            pipe.rpush(self._names.taken, rest)
            pipe.expire(self._names.taken, KEEP_S)
            pipe.execute()
