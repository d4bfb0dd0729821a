"""The connection to one libvirt, and the only place where libvirt's errors become ours.

Three things libvirt does not do by itself are done here: its event loop runs in a thread (without it neither events nor
keep-alive work), every call has a deadline, and a broken connection is replaced by the next call.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from workers.hypervisor.errors import (
    DomainNotFoundError,
    GuestAgentError,
    HostUnreachableError,
    HypervisorError,
    InvalidOperationError,
    StorageFullError,
    VolumeNotFoundError,
)
from workers.hypervisor.kvm.limits import CallLimiter

logger = logging.getLogger(__name__)

T = TypeVar("T")

# libvirt-python has no annotations; these names say at least which object is meant.
VirConnect = Any
VirDomain = Any

CALL_LIMIT_S = 30.0
OPEN_LIMIT_S = 15.0
# A silent host is given up after interval x (count + 1) = 20 s.
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3

_BY_CODE: dict[int, tuple[type[HypervisorError], str]] = {
    libvirt.VIR_ERR_NO_DOMAIN: (DomainNotFoundError, "There is no such machine on the host."),
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE: (GuestAgentError, "The guest agent does not answer."),
    libvirt.VIR_ERR_AGENT_UNSYNCED: (GuestAgentError, "The guest agent does not answer."),
    libvirt.VIR_ERR_OPERATION_INVALID: (
        InvalidOperationError,
        "The host could not {doing}: the machine's state does not allow it.",
    ),
}
_CONNECTION_CODES = frozenset({libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_ERR_AUTH_FAILED})
_CONNECTION_DOMAINS = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE})


def translate(error: libvirt.libvirtError, doing: str) -> HypervisorError:
    """Our error for libvirt's; `doing` completes the sentence "The host could not …".

    libvirt's own text may hold paths and secrets, so it is never shown; it stays with the cause, for the log.
    """
    code = error.get_error_code()
    if code in _CONNECTION_CODES or error.get_error_domain() in _CONNECTION_DOMAINS:
        return HostUnreachableError(f"The connection to the host was lost: it could not {doing}.")
    if _says_no_space(error):
        return StorageFullError(f"The host's storage is full: it could not {doing}.")
    if _says_no_file(error):
        return VolumeNotFoundError(f"The host could not {doing}: a file is missing.")
    if _says_ended(error):
        code = libvirt.VIR_ERR_OPERATION_INVALID
    if code in _BY_CODE:
        kind, message = _BY_CODE[code]
        return kind(message.format(doing=doing))
    busy = code in {libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_RESOURCE_BUSY}
    return HypervisorError(f"The host could not {doing}.", code="host-busy" if busy else None, retryable=busy)


def _says_ended(error: libvirt.libvirtError) -> bool:
    """The machine went off while it was asked something. libvirt has no code for that before 9.3."""
    return "End of file from qemu monitor" in str(error)


def _says_no_file(error: libvirt.libvirtError) -> bool:
    is_system = error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR
    no_volume = error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL
    return no_volume or bool(is_system and error.get_int1() == errno.ENOENT)


def _says_no_space(error: libvirt.libvirtError) -> bool:
    """QEMU passes ENOSPC on as text only."""
    is_system = error.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR
    return (is_system and error.get_int1() == errno.ENOSPC) or "No space left" in (error.get_error_message() or "")


class _EventLoop:
    """libvirt's event loop: registered once per process, before the first connection, and run for ever in a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid: int | None = None

    def ensure_running(self) -> None:
        with self._lock:
            if self._pid is None:
                libvirt.registerErrorHandler(_ignore_error_print, None)
                libvirt.virEventRegisterDefaultImpl()
                threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()
                self._pid = os.getpid()
            elif self._pid != os.getpid():
                # The thread does not survive fork(), and libvirt cannot register twice: calls would hang for ever.
                raise HypervisorError("libvirt was opened before this worker was forked: a mistake in Casement.")


def _run_event_loop() -> None:
    while True:
        if libvirt.virEventRunDefaultImpl() < 0:
            logger.warning("libvirt's event loop reported an error")


def _ignore_error_print(_context: None, _error: object) -> None:
    """libvirt prints every error on stderr unless a handler is there; ours are exceptions."""


_event_loop = _EventLoop()


def open_connection(uri: str) -> VirConnect:
    """A new connection with keep-alive. Waits as long as libvirt does: give it a deadline."""
    _event_loop.ensure_running()
    try:
        conn = libvirt.open(uri)
        conn.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
    except libvirt.libvirtError as error:
        raise HostUnreachableError("The host's libvirt cannot be reached.") from error
    return conn


class Connection:
    """One shared connection to a host, opened by the first call (after Celery forked) and again when it broke."""

    def __init__(self, uri: str, *, call_limit_s: float = CALL_LIMIT_S) -> None:
        self._uri = uri
        self._call_limit_s = call_limit_s
        self._limiter = CallLimiter()
        self._lock = threading.Lock()
        self._conn: VirConnect | None = None

    def call(self, doing: str, work: Callable[[VirConnect], T], *, limit_s: float | None = None) -> T:
        """`work(connection)` within the limit; whatever goes wrong leaves as a HypervisorError."""
        conn = self._live_connection()
        try:
            return self._limiter.run(lambda: _translated(doing, work, conn), limit_s or self._call_limit_s)
        except HostUnreachableError:
            self._forget(conn)
            raise

    def close(self) -> None:
        with self._lock:
            conn, self._conn = self._conn, None
        if conn is not None:
            self._limiter.run(lambda: _close_quietly(conn), OPEN_LIMIT_S)

    def _live_connection(self) -> VirConnect:
        with self._lock:
            if self._conn is not None and self._conn.isAlive():
                return self._conn
            self._conn = self._limiter.run(lambda: open_connection(self._uri), OPEN_LIMIT_S)
            return self._conn

    def _forget(self, conn: VirConnect) -> None:
        """Let the next call open another one. Not closed: closing a hung connection hangs as well."""
        with self._lock:
            if self._conn is conn:
                self._conn = None


def _translated(doing: str, work: Callable[[VirConnect], T], conn: VirConnect) -> T:
    try:
        return work(conn)
    except libvirt.libvirtError as error:
        raise translate(error, doing) from error


def _close_quietly(conn: VirConnect) -> None:
    try:
        conn.close()
    except libvirt.libvirtError as error:
        logger.debug("closing the connection: %s", error)
