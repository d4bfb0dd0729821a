"""From counters to rates: nothing that happens to a counter or a clock makes a figure that cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.figures.points import Point
from portal.figures.rates import MOST_BYTES_S, Reading, of_host, point_between

counters = st.none() | st.floats(0, 1e18)
readings = st.builds(
    Reading,
    st.integers(0, 2),
    st.integers(0, 64),
    counters,
    counters,
    counters,
    counters,
    counters,
    counters,
    counters,
)


def reading(**values: float) -> Reading:
    return Reading(**{"run": 1, "processors": 2, **values})  # type: ignore[arg-type]  # Tests give whole numbers.


@given(st.none() | readings, readings, st.none() | st.floats(-1e6, 1e6))
def test_no_figure_is_negative_or_absurd(before: Reading | None, now: Reading, seconds: float | None) -> None:
    point = point_between(before, now, seconds)
    assert point.cpu is None or 0 <= point.cpu <= 1
    for value in (point.disk_read, point.disk_written, point.net_received, point.net_sent):
        assert value is None or 0 <= value <= MOST_BYTES_S
    assert (point.memory_used, point.memory_taken) == (now.memory_used, now.memory_taken)


def test_rates_are_by_the_second_and_cpu_is_a_share_of_its_processors() -> None:
    before = reading(cpu_ns=5e9, disk_read=100, net_sent=0)
    point = point_between(before, reading(cpu_ns=15e9, disk_read=1100, net_sent=50), 10.0)
    assert (point.cpu, point.disk_read, point.net_sent, point.disk_written) == (0.5, 100.0, 5.0, None)


@pytest.mark.parametrize(
    "now",
    [
        reading(run=2, cpu_ns=9e9, disk_read=900),  # Started anew, and busy since.
        reading(cpu_ns=1e9, disk_read=10),  # Began again without being started: its host was.
    ],
)
def test_after_a_restart_there_is_no_rate_until_the_next_reading(now: Reading) -> None:
    before = reading(cpu_ns=5e9, disk_read=100)
    assert point_between(before, now, 10.0) == Point()
    later = now._replace(cpu_ns=(now.cpu_ns or 0) + 2e9)
    assert point_between(now, later, 10.0).cpu == pytest.approx(0.1)


def test_one_disk_that_is_taken_away_hides_no_other_figure() -> None:
    before, now = reading(cpu_ns=0, disk_read=1e9, net_sent=0), reading(cpu_ns=1e9, disk_read=5e6, net_sent=10)
    point = point_between(before, now, 10.0)
    assert (point.cpu, point.disk_read, point.net_sent) == (0.05, None, 1.0)


def test_a_little_more_than_all_is_all_and_much_more_is_a_mistake() -> None:
    before = reading(cpu_ns=0)
    assert point_between(before, reading(cpu_ns=20.5e9), 10.0).cpu == 1.0
    assert point_between(before, reading(cpu_ns=60e9), 10.0).cpu is None


def test_a_host_is_what_it_tells_and_the_sum_of_its_machines() -> None:
    machines = [Point(disk_read=5.0, memory_taken=100.0), Point(disk_read=7.0), Point()]
    assert of_host(Point(cpu=0.5, memory_used=300.0), machines) == Point(
        cpu=0.5, memory_used=300.0, memory_taken=100.0, disk_read=12.0
    )
    assert of_host(Point(), []) == Point()
