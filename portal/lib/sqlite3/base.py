"""Django's own SQLite, with another way to wait for its one writer: who waits asks every two milliseconds.

SQLite's own way of waiting sleeps longer with each try, up to a tenth of a second. Where many write for some
milliseconds each, those who come later are before those who sleep, and these wait for seconds.
"""

from __future__ import annotations

import functools
import sqlite3
import time
from typing import Any, Final

from django.db.backends.sqlite3 import base

ASKED_EVERY_S: Final = 0.002


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        connection.execute("PRAGMA busy_timeout = 0")
        return connection

    def create_cursor(self, name: str | None = None) -> Any:
        patience_s = self.settings_dict["OPTIONS"].get("timeout", 5.0)
        return self.connection.cursor(factory=functools.partial(_Cursor, patience_s=patience_s))


class _Cursor(base.SQLiteCursorWrapper):
    def __init__(self, connection: sqlite3.Connection, *, patience_s: float) -> None:
        super().__init__(connection)
        self._patience_s = patience_s

    def execute(self, query: str, params: Any = None) -> Any:
        deadline = None
        while True:
            try:
                return super().execute(query, params)
            except sqlite3.OperationalError as error:
                # Its lower byte, for being busy has several kinds: one is that somebody brings the file in order after
                # a crash. Within a transaction waiting would not help: that has to begin anew.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or self.connection.in_transaction:
                    raise
                now = time.monotonic()
                deadline = deadline or now + self._patience_s
                if now > deadline:
                    raise
                time.sleep(ASKED_EVERY_S)
