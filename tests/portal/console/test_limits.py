"""Nobody takes all the places, a place comes back when its session or its whole web process is gone (row 8)."""

from uuid import uuid4

import pytest
from pytest_django import Settings

from portal.console import limits
from portal.console.limits import Place
from portal.lib.store import store

BOX = uuid4()


def test_a_person_and_a_machine_have_so_many_places_and_no_more(redis_db: str, settings: Settings) -> None:
    settings.CONSOLE_MAX_SESSIONS_PER_USER = 2
    settings.CONSOLE_MAX_SESSIONS_PER_MACHINE = 3
    assert limits.take(Place("a1", 1, BOX)) is None
    assert limits.take(Place("a2", 1, uuid4())) is None
    assert limits.take(Place("a3", 1, BOX)) == "user"
    assert limits.take(Place("b1", 2, BOX)) is None
    assert limits.take(Place("c1", 3, BOX)) is None
    assert limits.take(Place("d1", 4, BOX)) == "machine"
    limits.give_back(Place("b1", 2, BOX))
    assert limits.take(Place("d1", 4, BOX)) is None


def test_renewing_takes_no_second_place(redis_db: str, settings: Settings) -> None:
    settings.CONSOLE_MAX_SESSIONS_PER_USER = 1
    assert [limits.take(Place("a1", 1, BOX)) for _ in range(3)] == [None] * 3


def test_the_places_of_a_process_that_died_come_back(
    redis_db: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.CONSOLE_MAX_SESSIONS_PER_USER = 1
    dead = Place("dead", 1, BOX)
    limits.take(dead)
    for key in dead.keys:
        store().zadd(key, {"dead": 1})  # Its lease ended long ago.
    assert limits.take(Place("new", 1, BOX)) is None


def test_a_process_counts_its_own_sessions(settings: Settings) -> None:
    settings.CONSOLE_MAX_SESSIONS_PER_PROCESS = 1
    with limits.process_place() as first, limits.process_place() as second:
        assert (first, second) == (True, False)
    with limits.process_place() as again:
        assert again
