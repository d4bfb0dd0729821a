"""`bin/bench console` in short. A test's machine is busy, so only ratios count, and only far below their targets."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.bench.screens.doors import DOORS, Door, in_both_widths, stage
from tests.bench.screens.measure import compare, idle

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler here"),
]

# The targets stand in tests/bench/screens/measure.py; these are what no noise explains.
LEAST = {"bulk 64 KiB": 0.6, "bulk 8 KiB": 0.5, "new sessions": 1.5}
MOST = {"CPU 64 KiB": 1.3, "CPU 8 KiB": 1.5, "echo p50": 1.6}
MOST_KIB = 300


@dataclass(frozen=True, slots=True)
class Doors:
    ours: Door
    websockify: Door
    raw: Door


@pytest.fixture(scope="module")
def doors() -> Iterator[Doors]:
    with stage() as place, contextlib.ExitStack() as stack:
        yield Doors(*(stack.enter_context(in_both_widths(opens, place)) for opens in DOORS.values()))


def test_the_relay_is_nowhere_near_as_slow_as_what_it_replaces(doors: Doors) -> None:
    rows = compare({"door 1": doors.ours, "websockify": doors.websockify, "raw": doors.raw}, rounds=3, scale=0.08)
    ratios = {row.name.removeprefix("door 1: "): row.ratio for row in rows if row.peer == "websockify"}
    slow = {name: ratio for name, ratio in ratios.items() if ratio is not None and ratio < LEAST.get(name, 0)}
    dear = {name: ratio for name, ratio in ratios.items() if ratio is not None and ratio > MOST.get(name, 1e9)}
    assert ratios.keys() >= LEAST.keys() | MOST.keys()
    assert not slow
    assert not dear


def test_a_silent_session_costs_next_to_nothing(doors: Doors) -> None:
    ratio, own = idle(doors.ours, doors.websockify, scale=0.5)
    assert ratio.ratio is not None
    assert ratio.ratio < 0.3
    assert own.value < MOST_KIB
