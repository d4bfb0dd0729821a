"""Who finds SQLite's one writer at work waits for it, for so long and no longer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django.db.backends.sqlite3 import base

from portal.lib.sqlite3.base import DatabaseWrapper, _Cursor

pytestmark = pytest.mark.django_db


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "db.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (number INTEGER)")
    return path


@pytest.fixture
def writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Who is at work."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def _connect(path: Path, patience_s: float) -> DatabaseWrapper:
    options = {"timeout": patience_s, "transaction_mode": "IMMEDIATE"}
    settings = {"NAME": str(path), "OPTIONS": options, "TIME_ZONE": None, "CONN_MAX_AGE": 0, "AUTOCOMMIT": True}
    settings |= {"CONN_HEALTH_CHECKS": False, "TEST": {}}
    return DatabaseWrapper(settings, "patient")


def test_the_next_writer_waits_for_the_one_before(path: Path, writer: sqlite3.Connection) -> None:
    def write() -> int:
        patient = _connect(path, 60)
        with patient.cursor() as cursor:
            cursor.execute("INSERT INTO t VALUES (%s)", [1])
            cursor.execute("SELECT count(*) FROM t")
            [found] = cursor.fetchone()
        patient.close()
        return int(found)

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(write)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        writer.execute("COMMIT")
        assert waiting.result(timeout=60) == 1


def test_it_does_not_wait_for_ever(path: Path, writer: sqlite3.Connection) -> None:
    impatient = _connect(path, 0.05)
    with pytest.raises(Exception, match="locked"), impatient.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (2)")
    with impatient.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (0,)
    impatient.close()


@pytest.mark.parametrize("kind", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY])
def test_whatever_it_is_busy_with_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    """After a crash the first who comes brings the file in order, and those behind are told so."""
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = kind
    answers = iter([busy, busy, None])

    def answer(_cursor: object, _query: str, _params: object = None) -> None:
        if (refusal := next(answers)) is not None:
            raise refusal

    monkeypatch.setattr(base.SQLiteCursorWrapper, "execute", answer)
    connection = sqlite3.connect(path, isolation_level=None)
    _Cursor(connection, patience_s=60).execute("SELECT 1")
    assert next(answers, "all were asked for") == "all were asked for"
    connection.close()


def test_a_transaction_that_cannot_go_on_is_told_at_once(path: Path, writer: sqlite3.Connection) -> None:
    """It read before the other one wrote: however long it waits, its rows are old."""
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("PRAGMA busy_timeout = 0")
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t").fetchall()
    writer.execute("INSERT INTO t VALUES (3)")
    writer.execute("COMMIT")
    cursor = _Cursor(reader, patience_s=10**6)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        cursor.execute("INSERT INTO t VALUES (4)")
    reader.close()
