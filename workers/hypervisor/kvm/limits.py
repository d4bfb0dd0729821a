"""Time limits for calls that have none of their own.

libvirt waits for its host for ever. Each call therefore runs in a helper thread, and the caller stops waiting at its
deadline. Such a thread is a daemon and is left behind: it ends when the connection breaks, and a semaphore bounds how
many one silent host can hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from workers.hypervisor.errors import HostUnreachableError

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """A function running in a helper thread; `wait()` and then `result()`."""

    def __init__(self, work: Callable[[], T], *, on_end: Callable[[], None] = lambda: None) -> None:
        self._work = work
        self._on_end = on_end
        self._done = threading.Event()
        self._value: list[T] = []
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="hypervisor-call", daemon=True).start()

    def _run(self) -> None:
        try:
            self._value.append(self._work())
        except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked.
            self._error = error
        finally:
            self._on_end()
            self._done.set()

    def wait(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def result(self) -> T:
        """The value or the error of a call that is done."""
        if self._error is not None:
            raise self._error
        return self._value[0]


class CallLimiter:
    """Runs calls to one host with a deadline each, and only so many at once."""

    def __init__(self, most_at_once: int = 16) -> None:
        self._slots = threading.BoundedSemaphore(most_at_once)

    def run(self, work: Callable[[], T], limit_s: float) -> T:
        if not self._slots.acquire(timeout=limit_s):
            raise HostUnreachableError("The host is too busy: earlier calls have not come back.")
        call = BackgroundCall(work, on_end=self._slots.release)
        if not call.wait(limit_s):
            raise HostUnreachableError(f"The host did not answer within {limit_s:g} seconds.")
        return call.result()
