"""A database beside the real one, in which a backup is built up and checked, and the one moment in which it becomes it.

SQLite: a file in the same folder, copied over the real one in a single transaction of SQLite's own (its backup API).
PostgreSQL: a schema in the same database, whose tables take the place of the others in a single transaction.
So a process that is killed leaves the old state or the new one, and at most a scratch that the next try removes.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from django.db import OperationalError, connection, transaction

from portal.keeping.archive import KeepingError

SCHEMA: Final = "casement_restoring"
PAGES_A_STEP: Final = 64
LOCK_LIMIT_S: Final = 30

TakeOver = Callable[[], None]


@contextmanager
def scratch_database() -> Iterator[TakeOver]:
    """In here, Django's default connection leads to an empty scratch. What is given makes it the real one.

    After the call, and after the end, the connection leads to the real database again.
    """
    engines = {"sqlite": _sqlite, "postgresql": _postgresql}
    with engines[connection.vendor]() as take_over:
        yield take_over


@contextmanager
def _sqlite() -> Iterator[TakeOver]:
    settings = connection.settings_dict
    real = Path(settings["NAME"])
    scratch = real.with_name(f".{real.name}.restoring")
    _remove_sqlite(scratch)
    _touch_private(scratch)

    def back() -> None:
        connection.close()
        settings["NAME"] = str(real)

    def take_over() -> None:
        back()
        _touch_private(real)
        _copy_sqlite(scratch, real)

    connection.close()
    settings["NAME"] = str(scratch)
    try:
        yield take_over
    finally:
        back()
        _remove_sqlite(scratch)


def _copy_sqlite(source_path: Path, target_path: Path) -> None:
    """All or nothing: until the last page is written, the target's journal takes everything back."""
    last_seen, deadline = -1, time.monotonic() + LOCK_LIMIT_S

    def check(_status: int, remaining: int, _total: int) -> None:
        nonlocal last_seen, deadline
        if remaining != last_seen:
            last_seen, deadline = remaining, time.monotonic() + LOCK_LIMIT_S
        elif time.monotonic() > deadline:
            raise KeepingError("The database is in use. Stop the portal and its workers first.")

    source, target = sqlite3.connect(source_path), sqlite3.connect(target_path)
    try:
        target.execute("PRAGMA synchronous=FULL")
        source.backup(target, pages=PAGES_A_STEP, progress=check)
    finally:
        target.close()
        source.close()


def _touch_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def _remove_sqlite(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def _postgresql() -> Iterator[TakeOver]:
    options: dict[str, Any] = connection.settings_dict["OPTIONS"]
    before = options.get("options", "")
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_schema()")
        (real,) = cursor.fetchone() or ("public",)
        cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        cursor.execute(f"CREATE SCHEMA {SCHEMA}")

    def lead_to(search_path: str) -> None:
        connection.close()
        options["options"] = search_path

    def take_over() -> None:
        tables = connection.introspection.table_names()
        lead_to(before)
        _swap_postgresql(real, tables)

    lead_to(f"{before} -c search_path={SCHEMA}".strip())
    try:
        yield take_over
    finally:
        lead_to(before)
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")


def _swap_postgresql(real: str, tables: list[str]) -> None:
    """Sequences and indexes go with their tables."""
    quoted = connection.ops.quote_name
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_LIMIT_S}s'")
            for table in connection.introspection.table_names(cursor):
                cursor.execute(f"DROP TABLE {quoted(table)} CASCADE")
            for table in tables:
                cursor.execute(f"ALTER TABLE {SCHEMA}.{quoted(table)} SET SCHEMA {quoted(real)}")
    except OperationalError as error:
        if "lock timeout" not in str(error):
            raise
        raise KeepingError("The database is in use. Stop the portal and its workers first.") from error
