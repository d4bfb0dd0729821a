"""The processes of the simulation: people who sign in and out, and what looks after the pools."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any
from uuid import UUID

import django

django.setup()  # In the processes of the simulation, which begin with this module.

from django.db import connections

from portal.accounts.models import User
from portal.lib import live
from portal.pools import broker, filling, keeping_time
from portal.pools.models import Pool, Session
from portal.pools.states import EndReason

_processes = multiprocessing.get_context("spawn")
THREADS = 8


@dataclass
class Told:
    """What a process measured: seconds of each answer from when it was due, and its own processor time."""

    taken: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)


Work = Callable[..., Told]


def start(work: Work, *arguments: Any) -> tuple[Any, Connection]:
    ours, theirs = _processes.Pipe()
    process = _processes.Process(target=_run, args=(theirs, work, arguments))
    process.start()
    return process, ours


def ended(process: Any, pipe: Connection, *, within_s: float) -> Told:
    if not pipe.poll(within_s):
        process.kill()
        raise AssertionError("a process of the simulation did not come to its end")
    told: Told = pipe.recv()
    process.join(30)
    return told


def _run(pipe: Connection, work: Work, arguments: tuple[Any, ...]) -> None:
    live.keep_loop()
    # As web processes and workers do.
    gc.collect()
    gc.freeze()
    began = time.process_time()
    told = work(*arguments)
    told.cpu_s = time.process_time() - began
    pipe.send(told)
    os._exit(0)


def _at_their_times(works: Sequence[Callable[[], str]], *, per_s: float) -> Told:
    """Each when it is due, whether or not the one before has been answered: nobody waits at home for others."""
    told = Told()
    began = time.perf_counter() + 0.5

    def at_its_time(number: int) -> tuple[float, str]:
        due = began + number / per_s
        time.sleep(max(due - time.perf_counter(), 0))
        outcome = works[number]()
        return time.perf_counter() - due, outcome

    with ThreadPoolExecutor(THREADS) as pool:
        for seconds, outcome in pool.map(at_its_time, range(len(works))):
            told.taken.append(seconds)
            told.outcomes[outcome] = told.outcomes.get(outcome, 0) + 1
        for _ in range(THREADS):
            pool.submit(connections.close_all)
    return told


def sign_in(pairs: Sequence[tuple[UUID, int]], per_s: float) -> Told:
    """A web process: as a view does, with the rows of person and pool read anew."""

    def one(pool_id: UUID, person_id: int) -> Callable[[], str]:
        def ask() -> str:
            person = User.objects.get(pk=person_id)
            answer = broker.ask(Pool.objects.select_related("project").get(pk=pool_id), person)
            return "desktop" if answer.session else "place"

        return ask

    return _at_their_times([one(*pair) for pair in pairs], per_s=per_s)


def sign_out(sessions: Sequence[UUID], per_s: float) -> Told:
    """A web process: people who leave."""

    def one(session_id: UUID) -> Callable[[], str]:
        def leave() -> str:
            session = Session.objects.select_related("pool__project", "desktop__pool", "person").get(pk=session_id)
            return "left" if broker.sign_out(session, EndReason.SIGNED_OUT, actor=session.person) else "had left"

        return leave

    return _at_their_times([one(session) for session in sessions], per_s=per_s)


def look_after(pools: Sequence[UUID], seconds: float, every_s: float) -> Told:
    """A worker: each pool every few seconds, as the clock has it, and the times of sessions."""
    told = Told()
    until = time.monotonic() + seconds
    order = list(pools)
    random.Random(1).shuffle(order)  # noqa: S311 - the same run each time
    rounds = 0
    for number in itertools.count():
        began = time.monotonic()
        for pool_id in order:
            one = time.monotonic()
            filling.tend(pool_id)
            told.taken.append(time.monotonic() - one)
            # Spread over the time, as the messages of a beat with many workers are.
            time.sleep(max(began + (order.index(pool_id) + 1) * every_s / len(order) - time.monotonic(), 0))
        if number % 2 == 0:
            keeping_time.keep()
        rounds += 1
        if time.monotonic() > until:
            break
    told.outcomes["rounds"] = rounds
    return told
