"""Pages and launches over HTTP, through a real web process: the 95th percentile of one browser's waiting."""

from __future__ import annotations

import http.client
import os
import re
import time
from statistics import quantiles
from uuid import uuid4

from django.utils import timezone

from portal.hosts.models import Host
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from tests.bench.rows import Row
from tests.support.estate import Estate
from tests.support.web import HOST, Web, cookie_of, request

TIMES = int(os.environ.get("BENCH_ROUNDS", "40"))
PAGE_TARGET_MS = 150
LAUNCH_TARGET_MS = 100


def pages(estate: Estate, web: Web) -> list[Row]:
    machine = Machine.objects.filter(
        project=estate.projects[0], status=Status.READY, power_state=PowerState.RUNNING
    ).first()
    assert machine is not None
    cookies = {"operator": cookie_of(estate.operator), "member": cookie_of(estate.member)}
    connected = http.client.HTTPConnection(HOST, web.port, timeout=60)
    rows = []
    for who, name, path in _addresses(estate, machine):
        Host.objects.filter(last_error="").update(last_seen_at=timezone.now())  # As if they had just reported.
        taken, used = [], web.cpu_seconds()
        for _ in range(TIMES):
            began = time.perf_counter()
            answer = request(connected, path, cookie=cookies[who])
            taken.append((time.perf_counter() - began) * 1000)
            assert answer.status == 200, (path, answer.status)
        rows.append(_row(f"page.{who}.{name}", taken, web.cpu_seconds() - used, PAGE_TARGET_MS))
    connected.close()
    return rows


def _addresses(estate: Estate, machine: Machine) -> list[tuple[str, str, str]]:
    states = ("running", "off", "busy", "failed", "unknown")
    return [
        ("operator", "machines", "/machines/"),
        ("operator", "machines.page-50", "/machines/?page=50"),
        ("operator", "machines.page-last", "/machines/?page=100000"),
        ("operator", "machines.search-name", "/machines/?q=web-1"),
        ("operator", "machines.search-owner", "/machines/?q=person-00042"),
        ("operator", "machines.search-nothing", "/machines/?q=nothing-is-called-so"),
        *[("operator", f"machines.state-{state}", f"/machines/?status={state}") for state in states],
        ("operator", "machines.kind", "/machines/?kind=desktop"),
        ("operator", "machines.project", f"/machines/?project={estate.projects[3].name.replace(' ', '+')}"),
        ("operator", "machine", f"/machines/{machine.pk}/"),
        ("operator", "machine.building", f"/machines/{_building().pk}/"),
        ("operator", "new-machine", "/machines/new/"),
        ("operator", "overview", "/hosts/overview/"),
        ("operator", "hosts", "/hosts/"),
        ("operator", "host", f"/hosts/{machine.host_id}/"),
        ("operator", "jobs", "/jobs/"),
        ("operator", "jobs.active", "/jobs/?state=active"),
        ("operator", "jobs.search", "/jobs/?q=web-1"),
        ("operator", "audit", "/audit/"),
        ("operator", "audit.search", "/audit/?q=person-00042"),
        ("operator", "projects", "/projects/"),
        ("operator", "project", f"/projects/{machine.project_id}/"),
        ("member", "machines", "/machines/"),
        ("member", "machines.page-5", "/machines/?page=5"),
        ("member", "machines.search-name", "/machines/?q=web-1"),
        ("member", "machines.state-off", "/machines/?status=off"),
        ("member", "machine", f"/machines/{machine.pk}/"),
        ("member", "jobs", "/jobs/"),
        ("member", "project", f"/projects/{machine.project_id}/"),
    ]


def _building() -> Machine:
    """One whose page tells how long each step usually takes."""
    machine = Machine.objects.filter(status=Status.BUILDING).first()
    assert machine is not None
    return machine


def launches(estate: Estate, web: Web) -> list[Row]:
    """The form of a new machine, posted and answered: quota, host, row, audit, job, and the messages on commit."""
    cookie = cookie_of(estate.member)
    common = {
        "project": estate.projects[0].pk,
        "image": estate.versions[0].image_id,
        "flavour": estate.flavours[0].pk,
        "login_user": "me",
    }
    connected = http.client.HTTPConnection(HOST, web.port, timeout=60)
    taken, used = [], web.cpu_seconds()
    for number in range(TIMES):
        form = {**common, "name": f"launch-{number}", "request_key": uuid4()}
        began = time.perf_counter()
        answer = request(connected, "/machines/new/", cookie=cookie, form=form)
        taken.append((time.perf_counter() - began) * 1000)
        assert answer.status == 302, (number, answer.status, re.findall(r">([^<>]{20,300})<", answer.text))
    connected.close()
    return [_row("launch", taken, web.cpu_seconds() - used, LAUNCH_TARGET_MS)]


def _row(name: str, taken: list[float], cpu_s: float, target_ms: int) -> Row:
    """Beside it the web process's own time for each, which a busy machine does not blur."""
    value, own = quantiles(taken, n=20)[18], cpu_s * 1000 / len(taken)
    return Row(name, value, "ms p95", peer="CPU mean", peer_value=own, target=f"< {target_ms} ms", ok=value < target_ms)
