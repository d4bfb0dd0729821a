"""The three addresses for machines: what they say, to whom, and that they leave no trace."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import redis
import time_machine
from django.conf import settings as django_settings
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families
from pytest_django.fixtures import Settings

from portal.accounts.models import Project, User
from portal.console.models import ConsoleSession
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus
from portal.keeping import health
from portal.lib import pulse
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status

TOKEN = "a-token-for-prometheus"


@pytest.fixture
def alive(redis_db: str, host: Host) -> Host:
    """Everything lives."""
    pulse.beat(pulse.worker_beat("worker@here", ["default", host.queue]))
    pulse.beat(pulse.WATCHER)
    return host


def ready(client: Client) -> tuple[int, dict[str, Any]]:
    answer = client.get("/readyz")
    return answer.status_code, answer.json()


@pytest.mark.usefixtures("redis_db")
def test_alive_asks_nothing(client: Client, django_assert_num_queries: Callable[[int], Any], db: None) -> None:
    client.cookies[django_settings.SESSION_COOKIE_NAME] = "some-session-that-nobody-knows"
    with django_assert_num_queries(0):
        answer = client.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_a_balancer_asks_by_address_and_gets_no_session(
    client: Client, settings: Settings, redis_db: str, db: None, path: str
) -> None:
    settings.METRICS_TOKEN = TOKEN
    for name in ("192.0.2.7:8000", "elsewhere.example.org"):
        answer = client.get(path, headers={"Host": name, "Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code in {200, 503}
        assert not answer.cookies
        assert not answer.has_header("Location")
    assert client.get("/login/", headers={"Host": "elsewhere.example.org"}).status_code == 400, "pages stay strict"
    assert client.post(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 405


def test_ready_when_all_is_there(client: Client, alive: Host) -> None:
    assert ready(client) == (
        200,
        {
            "status": "ready",
            "database": "ok",
            "redis": "ok",
            "workers": "ok",
            "watcher": "ok",
            "hosts": {alive.name: "ok"},
        },
    )


def test_one_silent_host_takes_no_web_process_away(client: Client, alive: Host) -> None:
    Host.objects.create(
        name="lost", uri="fake://lost", pool_dir="/", last_seen_at=timezone.now() - dt.timedelta(hours=1)
    )
    Host.objects.create(name="unserved", uri="fake://u", pool_dir="/", last_seen_at=timezone.now())
    Host.objects.create(name="resting", uri="fake://r", pool_dir="/", enabled=False)
    code, body = ready(client)
    assert (code, body["status"]) == (200, "degraded")
    assert body["hosts"] == {alive.name: "ok", "lost": "silent", "unserved": "no-worker", "resting": "off"}


def test_without_a_watcher_it_is_degraded(client: Client, alive: Host) -> None:
    pulse.end(pulse.WATCHER)
    code, body = ready(client)
    assert (code, body["status"], body["watcher"]) == (200, "degraded", "none")


def test_without_workers_nothing_gets_done(client: Client, alive: Host, redis_db: str) -> None:
    pulse.end(pulse.worker_beat("worker@here", ["default", alive.queue]))
    code, body = ready(client)
    assert (code, body["status"], body["workers"]) == (503, "unavailable", "none")


def test_a_worker_that_fell_silent_counts_as_none(alive: Host, redis_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "SILENT_AFTER_S", 0)
    assert pulse.living().workers == ()


def test_without_redis(client: Client, host: Host, settings: Settings, tmp_path: Any) -> None:
    settings.REDIS_URL = f"unix://{tmp_path}/none.sock"
    code, body = ready(client)
    assert (code, body["database"], body["redis"], body["workers"]) == (503, "ok", "away", "unknown")


def test_without_a_database(client: Client, alive: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise OperationalError

    monkeypatch.setattr(health, "hosts", away)
    code, body = ready(client)
    assert (code, body["database"], body["redis"], body["hosts"]) == (503, "away", "ok", {})


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_without_a_token_there_are_no_metrics(client: Client, db: None, settings: Settings) -> None:
    settings.METRICS_TOKEN = ""
    for given in ("", "Bearer ", "Bearer x"):
        assert client.get("/metrics", headers={"Authorization": given}).status_code == 404


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, "Bearer tökén"])
def test_another_token_is_refused(client: Client, settings: Settings, given: str, operator: User) -> None:
    settings.METRICS_TOKEN = TOKEN
    client.force_login(operator)
    answer = client.get("/metrics", headers={"Authorization": given})
    assert (answer.status_code, answer.content) == (401, b"")
    assert answer["WWW-Authenticate"].startswith("Bearer")


def scrape(client: Client, settings: Settings) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and the values of the labels."""
    settings.METRICS_TOKEN = TOKEN
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.content.decode())
    return {
        (sample.name, tuple(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def job(status: JobStatus, machine: Machine, *, seconds: float | None = None, age_s: float = 0) -> Job:
    now = timezone.now()
    made = Job.objects.create(
        name=JobName.MACHINE_START,
        target_type="machine",
        target_id=machine.pk,
        queue="host.local",
        status=status,
        started_at=None if seconds is None else now - dt.timedelta(seconds=seconds),
        finished_at=None if seconds is None else now,
    )
    Job.objects.filter(pk=made.pk).update(created_at=now - dt.timedelta(seconds=age_s))
    return made


def test_jobs_by_kind_status_and_duration(client: Client, settings: Settings, redis_db: str, machine: Machine) -> None:
    for seconds in (0.25, 2.0, 40.0):
        job(JobStatus.DONE, machine, seconds=seconds)
    job(JobStatus.QUEUED, machine, age_s=120)
    job(JobStatus.QUEUED, machine)
    found = scrape(client, settings)
    start = JobName.MACHINE_START.value
    assert found["casement_jobs", (start, "done")] == 3
    assert found["casement_jobs", (start, "queued")] == 2
    assert 120 <= found["casement_oldest_queued_job_age_seconds", ()] < 180
    buckets = {
        float(labels[0]): value
        for (name, labels), value in found.items()
        if name == "casement_job_duration_seconds_bucket"
    }
    assert [buckets[edge] for edge in (0.5, 1.0, 2.5, 30.0, 60.0, float("inf"))] == [1, 1, 2, 2, 3, 3]
    assert found["casement_job_duration_seconds_count", (start, "done")] == 3
    assert found["casement_job_duration_seconds_sum", (start, "done")] == pytest.approx(42.25, abs=0.01)


def test_machines_screens_and_tabs(client: Client, settings: Settings, redis_db: str, machine: Machine) -> None:
    ConsoleSession.objects.create(user_name="a", machine_name="m", mode="view")
    ConsoleSession.objects.create(user_name="a", machine_name="m", mode="view", ended_at=timezone.now())
    with redis.Redis.from_url(redis_db) as client_of_redis:
        client_of_redis.zadd("casement:group:everyone", {"tab1": 1, "tab2": 2})
    found = scrape(client, settings)
    assert found["casement_machines", ("running", "ready")] == 1
    assert found["casement_console_sessions", ("view",)] == 1
    assert found["casement_console_sessions", ("control",)] == 0
    assert found["casement_live_tabs", ()] == 2


def test_capacity_and_lateness_of_hosts(client: Client, settings: Settings, alive: Host) -> None:
    Host.objects.filter(pk=alive.pk).update(reserved_vcpus=5, reserved_memory_mib=1024, load=1.5)
    now = dt.datetime.now(dt.UTC)
    with time_machine.travel(now, tick=False):
        for late in (0.0, 0.2, 100.0):
            pulse.record_event(alive.pk, now - dt.timedelta(seconds=late))
    found = scrape(client, settings)
    name = alive.name
    vcpus = {what: found["casement_host_vcpus", (name, what)] for what in ("total", "promisable", "promised", "used")}
    assert vcpus == {"total": 8, "promisable": 32, "promised": 5, "used": 1.5}
    assert found["casement_host_memory_bytes", (name, "promised")] == 1024**3
    assert found["casement_host_disk_bytes", (name, "used")] == 100 * 1024**3
    assert found["casement_host_up", (name,)] == found["casement_watcher_up", ()] == found["casement_workers", ()] == 1
    assert found["casement_event_lag_seconds_count", (name,)] == 3
    assert found["casement_event_lag_seconds_bucket", (name, "0.5")] == 2
    assert found["casement_event_lag_seconds_sum", (name,)] == pytest.approx(100.2, abs=1)


def test_without_redis_the_rest_is_told(client: Client, settings: Settings, machine: Machine, tmp_path: Any) -> None:
    settings.REDIS_URL = f"unix://{tmp_path}/none.sock"
    found = scrape(client, settings)
    assert found["casement_redis_up", ()] == 0
    assert found["casement_machines", ("running", "ready")] == 1


@pytest.mark.parametrize("count", [1, 300])
def test_a_scrape_asks_as_often_for_many_as_for_one(
    client: Client,
    settings: Settings,
    redis_db: str,
    machine: Machine,
    project: Project,
    count: int,
    django_assert_num_queries: Callable[[int], Any],
) -> None:
    Machine.objects.bulk_create(
        Machine(
            project=project,
            name=f"m{number}",
            kind="server",
            vcpus=1,
            memory_mib=1,
            disk_gib=1,
            host=machine.host,
            status=Status.READY,
            power_state=PowerState.RUNNING,
            login_user="u",
            mac=uuid4().hex[:17],
        )
        for number in range(count)
    )
    with django_assert_num_queries(5):
        scrape(client, settings)
