"""Prometheus metrics, read from the database and Redis at each scrape, so that several web processes say the same.

The number of queries is the same for one machine and for fifty thousand.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator
from typing import Any, Final

import redis
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Count, F, FloatField, Func, Min, Q, Sum
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from portal.console.models import ConsoleSession
from portal.hosts.models import Host
from portal.hosts.selectors import hosts, is_answering
from portal.jobs.models import Job
from portal.jobs.names import JobStatus
from portal.lib import pulse
from portal.machines.models import Machine
from portal.machines.states import LIVE

logger = logging.getLogger(__name__)

MIB: Final = 1024**2
GIB: Final = 1024**3
JOB_BUCKETS_S: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0)


def exposition() -> bytes:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Portal())
    return generate_latest(registry)


class _Portal(Collector):
    def collect(self) -> Iterator[Metric]:
        yield from _jobs()
        yield _job_seconds()
        yield _machines()
        yield _screens()
        rows = list(hosts())
        yield from _hosts(rows)
        yield from _of_redis(rows)


class _Seconds(Func):
    """From the second moment to the first, in seconds, computed by the database itself."""

    output_field = FloatField()
    arity = 2
    template = "EXTRACT(EPOCH FROM (%(expressions)s))"
    arg_joiner = " - "

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **extra: Any) -> Any:
        template = "((julianday(%(expressions)s)) * 86400.0)"
        return self.as_sql(compiler, connection, template=template, arg_joiner=") - julianday(", **extra)


def _jobs() -> Iterator[Metric]:
    by_status = Job.objects.order_by().values("name", "status")
    counted = list(by_status.annotate(count=Count("pk"), oldest=Min("created_at")))
    jobs = GaugeMetricFamily("casement_jobs", "Jobs by kind and status", labels=["name", "status"])
    for row in counted:
        jobs.add_metric([row["name"], row["status"]], row["count"])
    yield jobs
    oldest = min((row["oldest"] for row in counted if row["status"] == JobStatus.QUEUED), default=None)
    yield GaugeMetricFamily(
        "casement_oldest_queued_job_age_seconds",
        "How long the oldest job has been waiting for a worker; 0 if none is",
        value=_age_s(oldest),
    )


def _age_s(since: dt.datetime | None) -> float:
    return max((timezone.now() - since).total_seconds(), 0.0) if since else 0.0


def _job_seconds() -> Metric:
    family = HistogramMetricFamily(
        "casement_job_duration_seconds", "From a job's start to its end", labels=["name", "status"]
    )
    ended = Job.objects.filter(started_at__isnull=False, finished_at__isnull=False).order_by()
    within: Any = {
        f"within_{place}": Count("pk", filter=Q(seconds__lte=edge)) for place, edge in enumerate(JOB_BUCKETS_S)
    }
    rows = ended.alias(seconds=_Seconds(F("finished_at"), F("started_at"))).values("name", "status")
    counted: Iterable[Any] = rows.annotate(count=Count("pk"), total=Sum("seconds"), **within)  # Keys made above.
    for row in counted:
        counts = [row[f"within_{place}"] for place in range(len(JOB_BUCKETS_S))]
        family.add_metric([row["name"], row["status"]], _buckets(JOB_BUCKETS_S, [*counts, row["count"]]), row["total"])
    return family


def _buckets(edges: Iterable[float], cumulative: Iterable[int]) -> list[tuple[str, float]]:
    names = [*(str(edge) for edge in edges), "+Inf"]
    return list(zip(names, map(float, cumulative), strict=True))


def _machines() -> Metric:
    family = GaugeMetricFamily("casement_machines", "Machines that are not deleted", labels=["status", "power"])
    rows = Machine.objects.filter(status__in=LIVE).order_by().values("status", "power_state")
    for row in rows.annotate(count=Count("pk")):
        family.add_metric([row["status"], row["power_state"]], row["count"])
    return family


def _screens() -> Metric:
    family = GaugeMetricFamily("casement_console_sessions", "Screens that are open", labels=["mode"])
    rows = ConsoleSession.objects.filter(ended_at=None).order_by().values("mode").annotate(count=Count("pk"))
    counts = {row["mode"]: row["count"] for row in rows}
    for mode in ConsoleSession.Mode.values:
        family.add_metric([mode], counts.get(mode, 0))
    return family


def _hosts(rows: Iterable[Host]) -> Iterator[Metric]:
    """`total` is what there is, `promisable` what may be promised of it, `promised` what is, `used` what is in use."""
    up = GaugeMetricFamily("casement_host_up", "Whether the host was heard of lately", labels=["host"])
    vcpus = GaugeMetricFamily("casement_host_vcpus", "CPUs; used is the load", labels=["host", "what"])
    memory = GaugeMetricFamily("casement_host_memory_bytes", "Memory", labels=["host", "what"])
    disk = GaugeMetricFamily("casement_host_disk_bytes", "Room for disks", labels=["host", "what"])
    for host in rows:
        up.add_metric([host.name], int(is_answering(host)))
        for what, (cpu, mib, gib, room) in _capacity(host).items():
            vcpus.add_metric([host.name, what], cpu)
            memory.add_metric([host.name, what], mib * MIB)
            disk.add_metric([host.name, what], gib * GIB + room)
    yield from (up, vcpus, memory, disk)


def _capacity(host: Host) -> dict[str, tuple[float, int, int, int]]:
    """CPUs, MiB of memory, and GiB and bytes of disk, whose sum counts."""
    stored = host.storage_total_bytes - host.storage_free_bytes
    return {
        "total": (host.cpus, host.memory_mib, 0, host.storage_total_bytes),
        "promisable": (host.vcpus_promisable, host.memory_promisable_mib, host.disk_promisable_gib, 0),
        "promised": (host.reserved_vcpus, host.reserved_memory_mib, host.reserved_disk_gib, 0),
        "used": (host.load, host.memory_used_mib, 0, stored),
    }


def _of_redis(rows: list[Host]) -> Iterator[Metric]:
    """A Redis that is away is a value like another: what the database says is told all the same."""
    up = GaugeMetricFamily("casement_redis_up", "Whether Redis answers", value=0)
    try:
        living, lags, tabs = pulse.living(), pulse.event_lags(host.pk for host in rows), pulse.open_tabs()
    except redis.RedisError as error:
        logger.warning("metrics without Redis: %s", error)
        yield up
        return
    yield GaugeMetricFamily("casement_redis_up", "Whether Redis answers", value=1)
    yield GaugeMetricFamily("casement_workers", "Workers that gave a sign of life lately", value=len(living.workers))
    yield GaugeMetricFamily("casement_watcher_up", "Whether the watcher gave one", value=int(living.watcher))
    yield GaugeMetricFamily("casement_live_tabs", "Browser tabs with a live channel", value=tabs)
    yield _event_lag(rows, lags)


def _event_lag(rows: Iterable[Host], lags: dict[Any, pulse.Lag]) -> Metric:
    family = HistogramMetricFamily(
        "casement_event_lag_seconds", "From a host's event to its being in the database", labels=["host"]
    )
    for host in rows:
        if lag := lags.get(host.pk):
            family.add_metric([host.name], _buckets(pulse.LAG_BUCKETS_S, lag.cumulative), lag.total_s)
    return family
