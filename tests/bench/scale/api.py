"""Calls of the API over HTTP, through a real web process: the 95th percentile of one program's waiting."""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import time
from statistics import quantiles
from typing import Any
from uuid import uuid4

from django.utils import timezone

from portal.accounts.models import ApiToken, User
from portal.accounts.tokens import make_token
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from tests.bench.rows import Row
from tests.support.estate import Estate
from tests.support.web import HOST, Web

TIMES = int(os.environ.get("BENCH_ROUNDS", "40"))
TARGET_MS = 50


class _Program:
    """A token's connection."""

    def __init__(self, web: Web, user: User) -> None:
        year = dt.timedelta(days=365)
        _row, self._secret = make_token(user, actor=user, name="bench", scope=ApiToken.Scope.WRITE, lifetime=year)
        self._web = web
        self._connection: http.client.HTTPConnection | None = None

    def connect(self) -> None:
        """Anew before each measurement: the server closes a connection on which nothing was asked for a while."""
        if self._connection is not None:
            self._connection.close()
        self._connection = http.client.HTTPConnection(HOST, self._web.port, timeout=60)
        self._connection.connect()

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[float, Any]:
        """How long it took in milliseconds, and what was answered."""
        headers = {"Authorization": f"Bearer {self._secret}", "Host": "localhost", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        headers |= {} if body is None else {"Idempotency-Key": uuid4().hex}
        assert self._connection is not None
        began = time.perf_counter()
        self._connection.request("GET" if body is None else "POST", f"/api/v1/{path}", data, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        taken = (time.perf_counter() - began) * 1000
        assert answer.status in {200, 202}, (path, answer.status, text[:300])
        return taken, json.loads(text)


def calls(estate: Estate, web: Web) -> list[Row]:
    machine = Machine.objects.filter(
        project=estate.projects[0], status=Status.READY, power_state=PowerState.RUNNING
    ).first()
    assert machine is not None
    programs = {"operator": _Program(web, estate.operator), "member": _Program(web, estate.member)}
    rows = []
    for who, name, path in _addresses(estate, machine):
        Host.objects.filter(last_error="").update(last_seen_at=timezone.now())  # As if they had just reported.
        program, used = programs[who], web.cpu_seconds()
        program.connect()
        taken = [program.ask(path)[0] for _time in range(TIMES)]
        rows.append(_row(f"api.{who}.{name}", taken, web.cpu_seconds() - used))
    rows.append(_deep(programs["operator"], web))
    rows.append(_launches(estate, programs["member"], web))
    return rows


def _addresses(estate: Estate, machine: Machine) -> list[tuple[str, str, str]]:
    job = Job.objects.filter(target_id=machine.pk).first()
    assert job is not None
    project = estate.projects[3].pk
    return [
        ("operator", "machines", "machines"),
        ("operator", "machines.by-name", "machines?sort=name"),
        ("operator", "machines.fields", "machines?fields=id,name,power_state"),
        ("operator", "machines.search", "machines?q=web-1"),
        ("operator", "machines.search-nothing", "machines?q=nothing-is-called-so"),
        ("operator", "machines.running", "machines?status=running"),
        ("operator", "machines.project", f"machines?project={project}"),
        ("operator", "machines.whole-name", f"machines?name={machine.name}"),
        ("operator", "machine", f"machines/{machine.pk}"),
        ("operator", "jobs", "jobs"),
        ("operator", "jobs.active", "jobs?state=active"),
        ("operator", "job", f"jobs/{job.pk}"),
        ("operator", "projects", "projects"),
        ("operator", "hosts", "hosts"),
        ("operator", "host", f"hosts/{machine.host_id}"),
        ("operator", "audit", "audit"),
        ("operator", "sessions", "sessions"),
        ("member", "machines", "machines"),
        ("member", "machines.by-name", "machines?sort=name"),
        ("member", "machines.search", "machines?q=web-1"),
        ("member", "machine", f"machines/{machine.pk}"),
        ("member", "jobs", "jobs"),
        ("member", "project", f"projects/{estate.projects[0].pk}"),
    ]


def _deep(program: _Program, web: Web) -> Row:
    """Pages far down a list, where numbered pages are slow: each goes on where the one before it ended."""
    program.connect()
    cursor: str | None = program.ask("machines?limit=200")[1]["next"]
    for _page in range(80):
        cursor = program.ask(f"machines?limit=200&fields=id&cursor={cursor}")[1]["next"] or cursor
    used, taken = web.cpu_seconds(), []
    for _time in range(TIMES):
        taken_ms, found = program.ask(f"machines?cursor={cursor}")
        taken.append(taken_ms)
        cursor = found["next"] or cursor
    return _row("api.operator.machines.deep", taken, web.cpu_seconds() - used)


def _launches(estate: Estate, program: _Program, web: Web) -> Row:
    common = {
        "project": str(estate.projects[0].pk),
        "image": str(estate.versions[0].image_id),
        "flavour": estate.flavours[0].name,
    }
    program.connect()
    used = web.cpu_seconds()
    taken = [program.ask("machines", {**common, "name": f"api-{number}"})[0] for number in range(TIMES)]
    return _row("api.member.launch", taken, web.cpu_seconds() - used, target_ms=100)


def _row(name: str, taken: list[float], cpu_s: float, target_ms: int = TARGET_MS) -> Row:
    """Beside it the web process's own time for each, which a busy machine does not blur."""
    value, own = quantiles(taken, n=20)[18], cpu_s * 1000 / len(taken)
    return Row(name, value, "ms p95", peer="CPU mean", peer_value=own, target=f"< {target_ms} ms", ok=value < target_ms)
