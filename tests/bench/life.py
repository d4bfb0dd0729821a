"""What is done to a machine, by the portal beside the same by plain virsh and qemu-img: in turns, in one run.

Ours goes the whole way: the service that a page or the API asks, the broker, a worker process, the host, and the row
that says that it is done. `BENCH_ROUNDS` says how often; the medians' difference is what the portal adds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.rows import Row
from tests.support.redis import private_redis


def run() -> list[Row]:
    """In a process of its own, whose database and folders are gone with it."""
    with tempfile.TemporaryDirectory(prefix="casement-life-") as folder, private_redis() as redis:
        environment = {
            "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
            "CASEMENT_TESTING": "1",
            "CASEMENT_HOME": folder,
            "REDIS_URL": redis,
            "GUEST_BOOT_TIMEOUT_S": "600",
            "DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings",
        }
        out = Path(folder) / "rows.json"
        argv = [sys.executable, "-m", "tests.bench.lives", str(out)]
        subprocess.run(argv, env={**os.environ, **environment}, check=True)
        return [Row(**values) for values in json.loads(out.read_text())]
