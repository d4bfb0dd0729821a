"""Django's own PostgreSQL, with another patience: who finds all connections of the pool taken waits for one.

Only while the database answers. A pool by itself has one limit for both, being busy and being away.
"""

from __future__ import annotations

import time
from typing import Any, Final

from django.db.backends.postgresql import base
from psycopg_pool import PoolTimeout

# The settings' limit of the pool is how often it is looked whether the database is away; this is for being busy.
BUSY_LIMIT_S: Final = 30.0


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        deadline = time.monotonic() + BUSY_LIMIT_S
        while True:
            failures = self._failures()
            try:
                return super().get_new_connection(conn_params)
            except PoolTimeout:
                if self._failures() > failures or time.monotonic() > deadline:
                    raise

    def _failures(self) -> int:
        """How many attempts to connect have failed so far."""
        return self.pool.get_stats().get("connections_errors", 0) if self.pool else 0
