"""The broker with 20,000 desktops and 2,000 sign-ins a minute, on SQLite and on PostgreSQL; hosts are in memory.

Each database is measured in a process of its own, because Django has one for good: `tests/bench/pools/`, which says
what is real and what is not. `BENCH_SIZE=pools,desktops` (of each) makes it smaller, `BENCH_MINUTES` shorter, and
`BENCH_DATABASES=sqlite` leaves one out.
"""

from __future__ import annotations

from tests.bench import control_plane
from tests.bench.rows import Row


def run() -> list[Row]:
    return control_plane.run(module="tests.bench.pools")
