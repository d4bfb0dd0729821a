"""Lifecycle events of one host, through every reconnect.

The stream has a connection of its own: it waits for ever, and a call that hangs elsewhere must not keep events away.
libvirt calls back in its event thread, which must never block; it puts events into a bounded queue, and when that
overflows (the reader is too slow) the reader is told to compare everything.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import libvirt

from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.kvm.connection import OPEN_LIMIT_S, VirConnect, VirDomain, open_connection
from workers.hypervisor.kvm.limits import BackgroundCall
from workers.hypervisor.types import EventKind, MachineEvent, PowerState

logger = logging.getLogger(__name__)

QUEUE_SIZE = 10_000
_ASK_STOP_EVERY_S = 0.5
_RETRY_AFTER_S = 1.0

# Events that say nothing about power are left out: "defined" comes before the first start, and "shutdown" (the guest
# has finished) is followed by "stopped".
_POWER_AFTER = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_EVENT_RESUMED: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED: PowerState.SHUT_OFF,
    libvirt.VIR_DOMAIN_EVENT_CRASHED: PowerState.SHUT_OFF,
}


def follow(uri: str, stop: Callable[[], bool]) -> Iterator[MachineEvent]:
    """Events until `stop()`, which is asked at least every second, also while the host cannot be reached."""
    while not stop():
        conn = _open(uri, stop)
        if conn is None:
            _pause(_RETRY_AFTER_S, stop)
            continue
        subscription = _Subscription(conn)
        try:
            yield from subscription.events(stop)
        finally:
            BackgroundCall(subscription.close).wait(_RETRY_AFTER_S)


def _open(uri: str, stop: Callable[[], bool]) -> VirConnect | None:
    opening = BackgroundCall(lambda: open_connection(uri))
    waited = 0.0
    while not opening.wait(_ASK_STOP_EVERY_S):
        waited += _ASK_STOP_EVERY_S
        if stop() or waited >= OPEN_LIMIT_S:
            return None
    try:
        return opening.result()
    except HypervisorError as error:
        logger.info("events: %s", error)
        return None


def _pause(seconds: float, stop: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(max(1, round(seconds / _ASK_STOP_EVERY_S))):
        if stop():
            return
        waiting.wait(_ASK_STOP_EVERY_S)


class _Subscription:
    """The callbacks on one connection, and the queue that they fill."""

    def __init__(self, conn: VirConnect) -> None:
        self._conn = conn
        self._queue: queue.Queue[MachineEvent] = queue.Queue(QUEUE_SIZE)
        self._overflowed = threading.Event()
        self._closed = threading.Event()
        self._callbacks: list[int] = []

    def events(self, stop: Callable[[], bool]) -> Iterator[MachineEvent]:
        """Subscribe first, then say RESYNC: what happens in between is in the queue."""
        subscribing = BackgroundCall(self._subscribe)
        if not subscribing.wait(OPEN_LIMIT_S):
            return
        try:
            subscribing.result()
        except libvirt.libvirtError as error:
            logger.info("events: %s", error)
            return
        yield _event(EventKind.RESYNC)
        while not stop() and not self._closed.is_set():
            try:
                yield self._queue.get(timeout=_ASK_STOP_EVERY_S)
            except queue.Empty:
                if not self._conn.isAlive():
                    return
            if self._overflowed.is_set():
                self._drain()
                yield _event(EventKind.RESYNC)

    def close(self) -> None:
        try:
            for callback in self._callbacks:
                self._conn.domainEventDeregisterAny(callback)
            self._conn.close()
        except libvirt.libvirtError as error:
            logger.debug("events: %s", error)

    def _subscribe(self) -> None:
        self._conn.registerCloseCallback(self._on_close, None)
        kinds = [
            (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, self._on_agent),
            (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._on_device_removed),
        ]
        for kind, callback in kinds:
            self._callbacks.append(self._conn.domainEventRegisterAny(None, kind, callback, None))

    def _on_close(self, _conn: VirConnect, _reason: int, _context: None) -> None:
        self._closed.set()

    def _on_lifecycle(self, _conn: VirConnect, domain: VirDomain, event: int, _detail: int, _context: None) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            self._put(_event(EventKind.GONE, domain))
        elif event in _POWER_AFTER:
            self._put(_event(EventKind.CHANGED, domain, _POWER_AFTER[event]))

    def _on_agent(self, _conn: VirConnect, domain: VirDomain, state: int, _reason: int, _context: None) -> None:
        if state == libvirt.VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED:
            self._put(_event(EventKind.AGENT, domain))

    def _on_device_removed(self, _conn: VirConnect, domain: VirDomain, _alias: str, _context: None) -> None:
        self._put(_event(EventKind.DEVICE, domain))

    def _put(self, event: MachineEvent) -> None:
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._overflowed.set()

    def _drain(self) -> None:
        """What is queued is older than the comparison that follows. The flag goes first, or a loss could be missed."""
        self._overflowed.clear()
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return


def _event(kind: EventKind, domain: VirDomain | None = None, power: PowerState | None = None) -> MachineEvent:
    uuid: Any = None if domain is None else UUID(bytes=domain.UUID())
    return MachineEvent(kind=kind, at=datetime.now(UTC), uuid=uuid, power_state=power)
