"""`python -m tests.bench.sampling HOSTS,MACHINES FILE`: measure on the configured database and write the rows there."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import django

django.setup()

from django.core.management import call_command
from django.db import connection

from portal.figures import live, services
from portal.figures.models import Series
from portal.figures.points import COARSER, SHAPES, Level, Point, Ring, pack
from portal.figures.selectors import latest_of, machine_figures
from portal.hosts.models import Host
from portal.lib.store import store
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from tests.bench.rows import Row, to_json
from tests.support.estate import build_estate, furnish
from workers.hosts import driver_of
from workers.hypervisor.fake import fake_host
from workers.sample import sample_host

ROUNDS = 3
# So often each host is read; all of them together must cost less than half a processor.
EVERY_S = live.STEP_S
ONE = pack(Point(0.25, 2e9, 3e9, 1e6, 1e6, 1e5, 1e5))


class Clock:
    """Time that passes at once."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        self.fakes = [fake_host(host.uri.removeprefix("fake://")) for host in hosts]
        # When a slot of every level begins, so that how much is put by does not depend on the time of day.
        self.now_s = time.time() // 7200 * 7200
        live.now_s = lambda client: self.now_s
        self.wait(0)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for fake in self.fakes:
            fake.meters.now_s = self.now_s


def main(size: str, out: Path) -> None:
    count, machines = map(int, size.split(","))
    call_command("migrate", verbosity=0)
    estate = build_estate(hosts=count, machines=machines, projects=max(machines // 100, 1))
    Machine.objects.live().update(status=Status.READY, power_state=PowerState.RUNNING)
    furnish(Machine.objects.live().select_related("host"))
    hosts = list(Host.objects.all())
    clock = Clock(hosts)
    _fill_rows(clock.now_s)
    _all(hosts)
    for host in hosts:
        _fill_live(host)
    rows = list(_measured(hosts, clock, estate.machines[0]))
    prefix = f"{connection.vendor}.{machines}"
    out.write_text(to_json([replace(row, name=f"{prefix}.{row.name}") for row in rows]), encoding="utf-8")


def _measured(hosts: list[Host], clock: Clock, machine: Machine) -> Iterable[Row]:
    bare_s = median(_cpu_of(lambda: [driver_of(host).stats() for host in hosts]) for _ in range(ROUNDS))
    yield Row("bulk calls alone", bare_s, "CPU s")
    plain_s = median(_round(hosts, clock) for _ in range(ROUNDS))
    target = f"< {EVERY_S / 2:g} s"
    yield Row("a round", plain_s, "CPU s", "bulk calls", bare_s, plain_s / bare_s, target, plain_s < EVERY_S / 2)
    put_by = [_put_all_by(hosts, clock) for _ in range(7)]
    # Of thirty rounds one, which of them being another for each host.
    whole_s = plain_s + sum(put_by) / len(put_by) * EVERY_S / services.PUT_BY_EVERY_S
    yield Row("to put all by, median", median(put_by), "CPU s")
    yield Row("to put all by, with all levels", max(put_by), "CPU s")
    yield Row(
        "a round and its part of that",
        whole_s,
        "CPU s",
        "bulk calls",
        bare_s,
        whole_s / bare_s,
        target,
        whole_s < EVERY_S / 2,
    )
    yield Row("Redis", int(store().info("memory")["used_memory"]) / 1024**2, "MiB")
    yield Row("rows of figures (SQLite: the whole file)", _table_bytes() / 1024**2, "MiB")
    fresh = Machine.objects.get(pk=machine.pk)
    for level in (Level.LIVE, Level.MONTH):
        read_ms = 1000 * median(_timed(partial(machine_figures, fresh, level)) for _ in range(20))
        yield Row(f"figures of one machine, {level}", read_ms, "ms")
    listed = list(Machine.objects.live()[:36])
    yield Row("figures of a list of 36", 1000 * median(_timed(lambda: latest_of(listed)) for _ in range(20)), "ms")


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _cpu_of(work: Callable[[], object]) -> float:
    """What this process uses, however busy the machine is; Redis and PostgreSQL use about as much again."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _all(hosts: list[Host]) -> None:
    for host in hosts:
        sample_host(host.pk)


def _round(hosts: list[Host], clock: Clock) -> float:
    """Without putting by, which is measured on its own."""
    clock.wait(EVERY_S)
    for host in hosts:
        live.set_put_by(host.pk, clock.now_s)
    return _cpu_of(lambda: _all(hosts))


def _put_all_by(hosts: list[Host], clock: Clock) -> float:
    """Five minutes after the last time. The rounds between are left out, but for the last two."""
    clock.wait(services.PUT_BY_EVERY_S - 2 * EVERY_S)
    for _ in range(2):
        _round(hosts, clock)
    for host in hosts:
        _fill_live(host)
    return _cpu_of(lambda: _put_by(hosts, clock.now_s))


def _put_by(hosts: list[Host], now_s: float) -> None:
    for host in hosts:
        services.put_by(host, now_s)


def _fill_live(host: Host) -> None:
    """As after ten minutes."""
    key, client = live._key(host.pk), store()
    for subject in live.subjects_on(host.pk):
        (kept,) = live._kept(client, key, [subject.bytes])
        assert kept is not None
        client.hset(key, subject.bytes, live._packed(kept._replace(data=ONE * live.SIZE)))


def _fill_rows(now_s: float) -> None:
    """As after a month."""
    rings = [Ring(level, SHAPES[level].slot(now_s) - 1, ONE * SHAPES[level].size) for level in COARSER.values()]
    subjects = [*Machine.objects.live().values_list("pk", flat=True), *Host.objects.values_list("pk", flat=True)]
    for place in range(0, len(subjects), 1000):
        Series.objects.bulk_create(
            Series(subject=subject, level=ring.level.value, end=ring.end, data=ring.data)
            for subject in subjects[place : place + 1000]
            for ring in rings
        )


def _table_bytes() -> int:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_total_relation_size('figures_series')")
            return int(cursor.fetchone()[0])
    return Path(connection.settings_dict["NAME"]).stat().st_size


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
