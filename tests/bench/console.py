"""The console's doors beside websockify and a bare TCP relay: bulk, latency, new sessions, memory, many at once.

Rounds are interleaved, so what disturbs the machine disturbs all alike; the table has medians. The server has one core
for itself, display and browser share another. `BENCH_ROUNDS` (5) and `BENCH_SCALE` (1, less is shorter) are heeded.
What is measured, and how, is in `tests/bench/screens/`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.rows import Row


def run() -> list[Row]:
    """In a process of its own, because the portal's database and settings are chosen by the environment."""
    with tempfile.TemporaryDirectory(prefix="casement-bench-") as folder:
        environment = {
            "DATABASE_URL": f"sqlite:///{folder}/db.sqlite3",
            "CASEMENT_TESTING": "1",
            "CASEMENT_HOME": folder,
            "DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings",
        }
        out = Path(folder) / "rows.json"
        subprocess.run(
            [sys.executable, "-m", "tests.bench.screens", str(out)], env={**os.environ, **environment}, check=True
        )
        return [Row(**values) for values in json.loads(out.read_text())]
