"""What the portal leans on goes away and comes back: nothing is lost, and nobody has to do anything."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.faults.conftest import Backend, Portal
from tests.support import postgres
from tests.support.product import wait_for

pytestmark = pytest.mark.timeout(900)

READY = ["ready", "", "running"]
SLOW = {"create_disk": 2, "write_seed": 2, "define": 2, "start": 2}


def all_ready(portal: Portal, count: int) -> Callable[[], bool]:
    def ready() -> bool:
        states = portal("states")
        assert not [job for job in states["jobs"] if job[0] in {"failed", "cancelled"}], states
        return bool(states["machines"] == [READY] * count and all(job[0] == "done" for job in states["jobs"]))

    return ready


def test_redis_that_comes_back_empty_has_lost_no_work(backend: Backend) -> None:
    """What was queued is found again in the rows, and what was asked for while there was no Redis at all as well."""
    backend.environment["FAULTS_DELAYS"] = json.dumps({"create_disk": 5})
    backend.start_redis()
    portal = backend.portal()
    portal("prepare")
    for _ in range(5):
        portal("launch")  # There is no worker yet: five messages wait in Redis, and are lost with it.
    backend.start_worker()
    backend.start_beat()
    wait_for(
        "work is under way",
        lambda: any(job[0] == "running" for job in portal("states")["jobs"]),
        seconds=120,
        every=0.1,
    )
    backend.stop("redis")
    portal("launch")
    backend.start_redis()
    wait_for("all six are ready", all_ready(portal, 6), seconds=240)
    assert portal("states")["reserved"] == 6


@pytest.mark.parametrize("seconds", [20])
def test_a_database_that_is_away_in_the_middle_of_a_build_ends_nothing(backend: Backend, seconds: float) -> None:
    backend.environment["FAULTS_DELAYS"] = json.dumps(SLOW)
    with postgres.private_postgres() as url:
        backend.environment["DATABASE_URL"] = url
        backend.start_redis()
        portal = backend.portal()
        portal("prepare")
        backend.start_worker()
        backend.start_beat()
        for _ in range(3):
            portal("launch")
        wait_for(
            "work is under way",
            lambda: any(job[0] == "running" for job in portal("states")["jobs"]),
            seconds=120,
            every=0.1,
        )
        postgres.stop(url)
        away_since = time.monotonic()
        assert "OperationalError" in portal.ask("launch")["error"]
        wait_for("it was away for long enough", lambda: time.monotonic() - away_since >= seconds, seconds=2 * seconds)
        postgres.start(url)
        wait_for("all three are ready", all_ready(portal, 3), seconds=240)
        assert portal("states")["reserved"] == 3
        assert backend.running["worker"].poll() is None, "the worker died of it"
        assert backend.running["beat"].poll() is None, "the beat died of it"


def test_a_clock_that_is_set_back_holds_up_nothing(backend: Backend, tmp_path: Path) -> None:
    """By an hour, in the middle of a build whose worker dies just then: its lease would hold for that hour."""
    clock = tmp_path / "clock"
    clock.write_text("0")
    backend.start_redis()
    # Nothing is on the host yet when the worker dies: it is in the worker's memory.
    backend.environment |= {"FAULTS_DELAYS": json.dumps({"has_image": 15}), "FAULTS_CLOCK": str(clock)}
    portal = backend.portal()
    portal("prepare")
    backend.start_worker()
    backend.start_beat()
    portal("launch")
    wait_for(
        "work is under way",
        lambda: any(job[0] == "running" for job in portal("states")["jobs"]),
        seconds=120,
        every=0.1,
    )
    backend.kill("worker")
    clock.write_text("-3600")
    before = dt.datetime.now(dt.UTC)
    backend.start_worker()
    wait_for("the machine is ready", all_ready(portal, 1), seconds=300)
    states = portal("states")
    assert dt.datetime.fromisoformat(states["now"]) < before, "the clock was not set back at all"
    wait_for(
        "hosts are looked at by the new clock",
        lambda: dt.datetime.fromisoformat(portal("states")["seen"]) < before,
        seconds=120,
    )
