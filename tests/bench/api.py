"""Calls of the API with 50,000 machines in the database, on SQLite and on PostgreSQL.

It is a part of the scene of `control-plane`; `BENCH_SIZE` and `BENCH_DATABASES` work as there.
"""

from __future__ import annotations

from tests.bench import control_plane
from tests.bench.rows import Row


def run() -> list[Row]:
    return control_plane.run("api")
