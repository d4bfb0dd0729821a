"""Reading the figures of 1,000 and of 50,000 machines, beside the bare bulk calls; on SQLite and on PostgreSQL.

Each database is measured in a process of its own, `tests/bench/sampling/`, with rings that are full, as after a month.
`BENCH_SIZES=hosts,machines;…` makes it smaller, `BENCH_DATABASES=sqlite` leaves one out.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.rows import Row
from tests.support.postgres import private_postgres
from tests.support.redis import private_redis

SIZES = os.environ.get("BENCH_SIZES", "20,1000;1000,50000")


def run() -> list[Row]:
    names = os.environ.get("BENCH_DATABASES", "sqlite,postgresql").split(",")
    return [row for name in names for size in SIZES.split(";") for row in _measured_on(name, size)]


def _measured_on(name: str, size: str) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="casement-figures-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        url = stack.enter_context(private_postgres()) if name == "postgresql" else f"sqlite:///{home / 'db.sqlite3'}"
        environment = {
            "DATABASE_URL": url,
            "CASEMENT_TESTING": "1",
            "REDIS_URL": stack.enter_context(private_redis()),
            "CASEMENT_HOME": folder,
            "DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings",
        }
        out = home / "rows.json"
        subprocess.run(
            [sys.executable, "-m", "tests.bench.sampling", size, str(out)],
            env={**os.environ, **environment},
            check=True,
        )
        for values in json.loads(out.read_text()):
            yield Row(**values)
