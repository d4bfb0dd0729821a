"""The portal itself with 1,000 hosts and 50,000 machines, on SQLite and on PostgreSQL; hosts are in memory.

Each database is measured in a process of its own, because Django has one for good: `tests/bench/scale/`.
`BENCH_SIZE=hosts,machines,projects` makes it smaller, `BENCH_DATABASES=sqlite` leaves one out.
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


def run(part: str = "all", *, module: str = "tests.bench.scale") -> list[Row]:
    """`part` is one of those that the module's `__main__` knows."""
    names = os.environ.get("BENCH_DATABASES", "sqlite,postgresql").split(",")
    return [row for name in names for row in _measured_on(name, part, module)]


def _measured_on(name: str, part: str, module: str) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="casement-scale-") as folder, contextlib.ExitStack() as stack:
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
        # What it says on the way is for whoever watches; a measurement that fails fails the benchmark.
        argv = [sys.executable, "-m", module, str(out), part]
        subprocess.run(argv, env={**os.environ, **environment}, check=True)
        return list(_read(out))


def _read(path: Path) -> Iterator[Row]:
    for values in json.loads(path.read_text()):
        yield Row(**values)
