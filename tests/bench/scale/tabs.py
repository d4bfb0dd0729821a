"""A thousand open tabs: WebSockets to the real web process, changes published through the real Redis.

Some tabs belong to people of the project that changes, some to operators, most to people of other projects. A tab of
another project must hear nothing at all.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from statistics import median

from asgiref.sync import sync_to_async
from websockets.asyncio.client import ClientConnection, connect

from portal.machines.events import machine_changed
from portal.machines.models import Machine
from portal.machines.states import Status
from tests.bench.rows import Row
from tests.support.estate import Estate
from tests.support.web import HOST, Web, cookie_of

TABS = int(os.environ.get("BENCH_TABS", "1000"))
OF_PROJECT = OPERATORS = TABS // 10
OTHERS = TABS - OF_PROJECT - OPERATORS
CHANGES = 20
CONNECTING_AT_ONCE = 50
HEARD_S = 30
STORM_S = 5.0
STORM_EVERY_S = 0.02
LATENCY_TARGET_MS = 1000


@dataclass
class Tab:
    """One browser tab; `heard` has the topics and when they came."""

    socket: ClientConnection
    heard: list[tuple[float, list[str]]] = field(default_factory=list)

    async def listen(self) -> None:
        async for message in self.socket:
            self.heard.append((time.perf_counter(), json.loads(message)["topics"]))

    def when(self, topic: str) -> float | None:
        return next((at for at, topics in self.heard if topic in topics), None)


def measure(estate: Estate, web: Web) -> list[Row]:
    first, others = estate.projects[0], estate.projects[2:]
    people = {
        "project": estate.people[first.pk],
        "operators": [estate.operator],
        "others": [estate.people[project.pk][0] for project in others],
    }
    cookies = {name: [cookie_of(user) for user in users] for name, users in people.items()}
    ours = Machine.objects.filter(project=first, status=Status.READY)[:CHANGES]
    every = Machine.objects.filter(status=Status.READY).order_by("pk")[: round(STORM_S / STORM_EVERY_S)]
    return asyncio.run(_measure(cookies, list(ours), list(every), web.port))


async def _measure(cookies: dict[str, list[str]], ours: list[Machine], every: list[Machine], port: int) -> list[Row]:
    counts = {"project": OF_PROJECT, "operators": OPERATORS, "others": OTHERS}
    async with AsyncExitStack() as stack:
        limit = asyncio.Semaphore(CONNECTING_AT_ONCE)
        began = time.perf_counter()
        tabs = {
            name: await asyncio.gather(
                *(_opened(stack, port, cookies[name][number % len(cookies[name])], limit) for number in range(count))
            )
            for name, count in counts.items()
        }
        opened = time.perf_counter() - began
        listening = [asyncio.create_task(tab.listen()) for group in tabs.values() for tab in group]
        await _until(lambda: all(tab.heard for group in tabs.values() for tab in group), "every tab is greeted")
        rows = [Row("tabs.open", opened, f"s for {TABS}")]
        rows += await _latency(tabs, ours)
        rows += await _storm(tabs, every)
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
    return rows


async def _opened(stack: AsyncExitStack, port: int, cookie: str, limit: asyncio.Semaphore) -> Tab:
    async with limit:
        return Tab(await stack.enter_async_context(_socket(port, cookie)))


@asynccontextmanager
async def _socket(port: int, cookie: str) -> AsyncIterator[ClientConnection]:
    async with connect(
        f"ws://{HOST}:{port}/ws/live/",
        additional_headers={"Cookie": cookie, "Host": "localhost"},
        origin=f"http://localhost:{port}",  # type: ignore[arg-type]  # a NewType of str
        compression=None,
        ping_interval=None,
        open_timeout=60,
    ) as socket:
        yield socket


async def _latency(tabs: dict[str, list[Tab]], machines: list[Machine]) -> list[Row]:
    """Single changes, one after the other has been heard: from before the publishing to the last tab that it is for."""
    wanted = tabs["project"] + tabs["operators"]
    before = sum(len(tab.heard) for tab in tabs["others"])
    slowest, publishing = [], []
    for machine in machines:
        began = time.perf_counter()
        await sync_to_async(machine_changed)(machine)
        publishing.append(time.perf_counter() - began)
        topic = f"machine:{machine.pk}"
        await _until(lambda topic=topic: all(tab.when(topic) for tab in wanted), "all who should have heard")  # type: ignore[misc]  # the default binds the loop's value
        slowest.append(max(tab.when(topic) or began for tab in wanted) - began)
        await asyncio.sleep(0.3)  # A change right after another would be told with the next message, later on purpose.
    strangers = (sum(len(tab.heard) for tab in tabs["others"]) - before) / len(machines)
    worst = max(slowest) * 1000
    return [
        Row("tabs.publish", median(publishing) * 1000, "ms"),
        Row("tabs.heard-by-last.median", median(slowest) * 1000, f"ms, {len(wanted)} tabs"),
        Row("tabs.heard-by-last.worst", worst, "ms", target=f"< {LATENCY_TARGET_MS} ms", ok=worst < LATENCY_TARGET_MS),
        Row("tabs.messages-to-strangers", strangers, "per change", target="0", ok=strangers == 0),
    ]


async def _storm(tabs: dict[str, list[Tab]], machines: list[Machine]) -> list[Row]:
    """Fifty changes a second all over the site: how many messages an operator's tab gets, and whether any is lost."""
    before = sum(len(tab.heard) for tab in tabs["operators"])
    began = time.perf_counter()
    for number, machine in enumerate(machines):
        await sync_to_async(machine_changed)(machine)
        await asyncio.sleep(max(began + (number + 1) * STORM_EVERY_S - time.perf_counter(), 0))
    took = time.perf_counter() - began
    last = f"machine:{machines[-1].pk}"
    await _until(lambda: all(tab.when(last) for tab in tabs["operators"]), "operators have heard the last")
    whole = time.perf_counter() - began
    messages = (sum(len(tab.heard) for tab in tabs["operators"]) - before) / len(tabs["operators"]) / whole
    topics = {topic for _, heard in tabs["operators"][0].heard for topic in heard}
    lost = sum(f"machine:{machine.pk}" not in topics for machine in machines)
    return [
        Row("tabs.storm.changes", len(machines) / took, "per s"),
        Row("tabs.storm.heard-by-last", (whole - took) * 1000, "ms after the last"),
        Row("tabs.storm.messages-per-operator-tab", messages, "per s", target="<= 5", ok=messages <= 5),
        Row("tabs.storm.lost", lost, "changes", target="0", ok=lost == 0),
    ]


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + HEARD_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {HEARD_S} s it is not so that {what}")
        await asyncio.sleep(0.005)
