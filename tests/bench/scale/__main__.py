"""`python -m tests.bench.scale FILE [PART]`: measure on the configured database and write the rows there.

PART is `all`, the pages and what is behind them, or `api`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import django

django.setup()

from django.core.management import call_command
from django.db import connection

from tests.bench.rows import Row, to_json
from tests.bench.scale import api, http, placement, reconcile, tabs
from tests.support.estate import build_estate, furnish
from tests.support.web import web_processes

SIZE = os.environ.get("BENCH_SIZE", "1000,50000,500")
BUILD_TARGET_S = 120


IN_THE_WEB = {"all": (http.pages, http.launches, tabs.measure), "api": (api.calls,)}


def main(out: Path, wanted: str = "all") -> None:
    hosts, machines, projects = map(int, SIZE.split(","))
    call_command("migrate", verbosity=0)
    began = time.perf_counter()
    estate = build_estate(hosts=hosts, machines=machines, projects=projects)
    furnish(estate.machines)
    taken = time.perf_counter() - began
    rows = [Row("build", taken, "s", target=f"< {BUILD_TARGET_S} s", ok=taken < BUILD_TARGET_S)]
    _look_over()
    with tempfile.TemporaryDirectory() as logs:
        settings = {"DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"], "API_REQUESTS_PER_MINUTE": "100000"}
        with web_processes(1, settings, Path(logs)) as (web,):
            for part in IN_THE_WEB[wanted]:
                rows += _told(part(estate, web))
        if wanted == "all":
            rows += _told(placement.measure(estate))
            rows += _told(reconcile.measure(estate))
    out.write_text(to_json([_named(row) for row in rows]), encoding="utf-8")


def _told(rows: list[Row]) -> list[Row]:
    for row in rows:
        sys.stderr.write(f"{connection.vendor}: {row.name} {row.value:.4g} {row.unit}\n")
    return rows


def _named(row: Row) -> Row:
    return replace(row, name=f"{connection.vendor}.{row.name}")


def _look_over() -> None:
    """What PostgreSQL does by itself a minute after so much was written: it learns how the rows are spread."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
