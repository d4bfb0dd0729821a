"""What is measured at the doors, and which target it has."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from statistics import median
from typing import Final

from tests.bench.rows import Row
from tests.bench.screens.doors import Door

MIB: Final = 1024 * 1024
Samples = Mapping[str, Mapping[str, list[float]]]
"""Of each door, by measure."""

# Measure, unit, and for each peer the ratio to it that door 1 must reach: at least, or where less is better at most.
TARGETS: Final[dict[str, tuple[str, dict[str, tuple[str, float]]]]] = {
    "bulk 64 KiB": ("MB/s", {"websockify": (">=", 1.5), "raw": (">=", 0.6)}),
    "bulk 8 KiB": ("MB/s", {"websockify": (">=", 1.5), "raw": (">=", 0.6)}),
    "CPU 64 KiB": ("s/GB", {"websockify": ("<=", 0.7)}),
    "CPU 8 KiB": ("s/GB", {"websockify": ("<=", 0.7)}),
    "echo p50": ("us", {"websockify": ("<=", 0.75), "raw": ("<=", 1.3)}),
    "echo p99": ("us", {"websockify": ("<=", 0.75), "raw": ("<=", 1.3)}),
    "new sessions": ("1/s", {"websockify": (">=", 5.0), "raw": ("", 0.0)}),
}
DOOR_TWO: Final = {
    "bulk 64 KiB": (">=", 0.95),
    "bulk 8 KiB": (">=", 0.95),
    "CPU 64 KiB": ("<=", 1.05),
    "CPU 8 KiB": ("<=", 1.05),
    "echo p50": ("<=", 1.05),
    "echo p99": ("<=", 1.05),
}


def compare(doors: Mapping[str, Door], rounds: int, scale: float) -> list[Row]:
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for name, door in doors.items():
            for measure, value in one_round(door, scale, slow=name in {"websockify", "door 2"}).items():
                samples[name][measure].append(value)
        sys.stderr.write(f"console: round {number + 1} of {rounds}\n")
    rows = [
        _row("door 1", measure, unit, samples, peer, *wanted)
        for measure, (unit, peers) in TARGETS.items()
        for peer, wanted in peers.items()
    ]
    if "door 2" in doors:
        rows += [
            _row("door 2", name, TARGETS[name][0], samples, "websockify", *wanted) for name, wanted in DOOR_TWO.items()
        ]
    return rows


def one_round(door: Door, scale: float, *, slow: bool) -> dict[str, float]:
    """The display writes 64 KiB at once. "8 KiB" is at the server that reads no more than that at once."""
    found: dict[str, float] = {}
    assert door.narrow is not None
    for kib, mib, one in ((64, 2048, door), (8, 1024, door.narrow)):
        size = max(16, int(mib * scale))
        before = one.cpu_seconds()
        seconds = one.run("bulk", 64, size, connections=1)["seconds"]
        time.sleep(0.2)  # A server that forks has then waited for its child, and its time counts.
        found[f"bulk {kib} KiB"] = size * MIB / 1e6 / seconds
        found[f"CPU {kib} KiB"] = (one.cpu_seconds() - before) / (size * MIB / 1e9)
    with door.stage.awake():
        echo = door.run("echo", max(500, int(10_000 * scale)), str(door.stage.display), connections=1)
    found["echo p50"], found["echo p99"] = echo["p50"] * 1e6, echo["p99"] * 1e6
    count = max(40, int((240 if slow else 2400) * scale) // 8 * 8)
    found["new sessions"] = new_sessions(door, count)
    return found


def new_sessions(door: Door, count: int) -> float:
    """Eight browsers at once, one session after the other: connect, ticket, handshake up to the size of the screen."""
    return count / float(door.run("new", count, 8, connections=count)["seconds"])


def idle(door: Door, websockify: Door, scale: float) -> list[Row]:
    ours = _memory(door, max(50, int(500 * scale)))
    theirs = _memory(websockify, max(10, int(40 * scale)))
    ratio = ours / theirs
    return [
        Row("door 1: memory, idle", ours, "KiB", "websockify", theirs, ratio, "<= 0.1", ratio <= 0.1),
        Row("door 1: memory, idle", ours, "KiB", target="<= 100 KiB", ok=ours <= 100),
    ]


def _memory(door: Door, sessions: int) -> float:
    """KiB for each session that is open and silent. What the first ones fill for all is there before."""
    new_sessions(door, 40)
    time.sleep(1)
    before = door.memory()
    with door.client("hold", sessions, connections=sessions) as client:
        assert client.stdout is not None
        if not client.stdout.readline():
            raise RuntimeError("the sessions did not open")
        time.sleep(1)
        return (door.memory() - before) / sessions / 1024


def many(door: Door, portal: Door, rounds: int, scale: float) -> list[Row]:
    """At the relay, and in the whole portal, where the watch over the sessions asks the database every second."""
    rows = []
    count = max(50, int(500 * scale))
    for name, one in ((f"{count} sessions", door), (f"{count} sessions, whole portal", portal)):
        found = [ticking(one, count, max(3, int(8 * scale))) for _ in range(max(1, rounds // 2))]
        shares, tails = [share for share, _ in found], [tail for _, tail in found]
        share, tail = median(shares), median(tails)
        rows += [
            Row(f"door 1: {name}, core", share, "", target="< 0.6", ok=share < 0.6, spread=_spread(shares)),
            Row(f"door 1: {name}, p99", tail, "ms", target="< 20 ms", ok=tail < 20, spread=_spread(tails)),
        ]
    return rows


def ticking(door: Door, sessions: int, seconds: int) -> tuple[float, float]:
    """Every session gets 4 KiB ten times a second: the share of a core, and the 99th percentile in ms."""
    with door.client("tick", sessions, seconds, 4096, 100, connections=sessions) as client:
        assert client.stdout is not None
        if not client.stdout.readline():
            raise RuntimeError("the sessions did not open")
        began, before = time.monotonic(), door.cpu_seconds()
        result = json.loads(client.stdout.readline())
        share = (door.cpu_seconds() - before) / (time.monotonic() - began)
    # Less than that and the display or the browser was the slow one, or the door was.
    if result["count"] < sessions * seconds * 10 * 0.9:
        raise RuntimeError(f"only {result['count']} updates came through")
    return share, result["p99"] * 1000


def whole(portal: Door, gateway: Door | None, rounds: int, scale: float) -> list[Row]:
    """With cookie, live permission, row and audit row; there is no target for it."""
    rows = []
    for name, door in (("door 1", portal), ("door 2", gateway)):
        if door is not None:
            values = [new_sessions(door, max(40, int(240 * scale) // 8 * 8)) for _ in range(max(1, rounds // 2))]
            rows.append(Row(f"{name}: new sessions, whole", median(values), "1/s", spread=_spread(values)))
    return rows


def _row(door: str, measure: str, unit: str, samples: Samples, peer: str, sign: str, wanted: float) -> Row:
    """Ratios are the median of the rounds' own ratios: what disturbed a round disturbed both."""
    ours, theirs = samples[door][measure], samples[peer][measure]
    ratio = median(our / their for our, their in zip(ours, theirs, strict=True))
    ok = {"": None, ">=": ratio >= wanted, "<=": ratio <= wanted}[sign]
    target = f"{sign} {wanted:g}" if sign else ""
    name = f"{door}: {measure}"
    return Row(name, median(ours), unit, peer, median(theirs), ratio, target, ok, _spread(ours))


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / median(values)
