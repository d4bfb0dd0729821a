"""Web and worker processes of a pool that kill themselves with SIGKILL in the midst of a statement."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import django

django.setup()  # In the fork server, where this module is imported for all the processes that come of it.

from django.db import OperationalError, connection, connections

from portal.accounts.models import User
from portal.pools import broker, filling, keeping_time
from portal.pools.models import Pool

# Forked from a process that has never spoken with the database.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])
FOR_EVER = 10**9


def start(work: Callable[..., None], pool: Pool, people: Sequence[int], lives: int = FOR_EVER) -> Any:
    """A process that lives through so many statements."""
    process = _processes.Process(target=work, args=(str(connection.settings_dict["NAME"]), pool.pk, people, lives))
    process.start()
    return process


def all_over(processes: Sequence[Any]) -> list[int]:
    """How each of them ended."""
    deadline = time.monotonic() + 240
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
            process.join()
            raise AssertionError("a process did not come to its end")
    return [process.exitcode for process in processes]


class _Dying:
    """Kills the process at the so-manieth statement of all its threads."""

    def __init__(self, lives: int) -> None:
        self.lives = lives
        self.lock = threading.Lock()

    def __call__(self, run: Callable[..., Any], *arguments: Any) -> Any:
        with self.lock:
            self.lives -= 1
            if self.lives < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return run(*arguments)


def answer_people(database: str, pool_id: UUID, people: Sequence[int], lives: int) -> None:
    """A web process: requests in threads, each with a connection of its own."""
    dying = _Dying(lives)

    def answer(mine: Sequence[int]) -> None:
        connection.settings_dict["NAME"] = database
        with connection.execute_wrapper(dying):
            for key in mine:
                broker.ask(Pool.objects.get(pk=pool_id), User.objects.get(pk=key))
        connections.close_all()

    threads = [threading.Thread(target=answer, args=(people[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def look_after(database: str, pool_id: UUID, _people: Sequence[int], lives: int) -> None:
    """A worker that looks after the pool, and has its time come round again at once."""
    connection.settings_dict["NAME"] = database
    with connection.execute_wrapper(_Dying(lives)):
        for _ in range(200):
            try:
                Pool.objects.filter(pk=pool_id).update(tended_until=None)
                filling.tend(pool_id)
                keeping_time.keep()
                broker.serve(Pool.objects.get(pk=pool_id))
            except OperationalError:
                continue
