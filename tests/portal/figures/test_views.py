"""The pages: what they say with figures, without any, of machines that are off, and to whom."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse

from portal.accounts.models import User
from portal.figures import live
from portal.figures.charts import charts_of, rate_text, share_text
from portal.figures.models import Series
from portal.figures.points import SHAPES, Level, Point, Ring, pack
from portal.figures.rates import Reading
from portal.figures.selectors import Figures
from portal.hosts.models import Host
from portal.lib.store import store
from portal.machines.models import Machine
from portal.machines.states import PowerState

GIB = 1024**3
pytestmark = pytest.mark.usefixtures("redis_db", "standing_clock")


@pytest.fixture
def standing_clock(redis_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No slot ends between what is told and what is looked at."""
    now_s = live.now_s(store())
    monkeypatch.setattr(live, "now_s", lambda _client: now_s)


def told(machine: Machine, *, rounds: int = 3, balloon: bool = True, network: bool = True) -> None:
    """As a sampler keeps it: half of the machine's processors are busy, with a megabyte a second read from its disk."""
    for place in range(rounds):
        at_s = 10.0 * place
        reading = Reading(
            1,
            1,
            5e9 * place,
            1024**2 * at_s,
            0.0,
            1000.0 * at_s if network else None,
            0.0 if network else None,
            GIB / 4 if balloon else None,
            GIB,
        )
        host = Reading(0, 8, 8e9 * place, memory_used=2 * GIB)
        with shifted(10.0 * (place - rounds + 1)):
            live.record(machine.host_id, live.Round("a", at_s, host, {machine.pk: reading}))


@contextmanager
def shifted(seconds: float) -> Iterator[None]:
    now_s = live.now_s(store()) + seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "now_s", lambda _client: now_s)
        yield


def page(client: Client, machine: Machine, span: str = "live", *, part: bool = False) -> str:
    headers = {"HX-Request": "true"} if part else {}
    answer = client.get(reverse("figures:machine", args=[machine.pk]), {"span": span}, headers=headers)
    assert answer.status_code == 200
    assert answer["Cache-Control"].startswith("max-age=0") or "no-store" in answer["Cache-Control"]
    return answer.content.decode()


def charts_in(html: str) -> dict[str, dict[str, Any]]:
    found = re.findall(r'id="chart-(\w+)" data-chart="([^"]*)"', html)
    return {key: json.loads(text.replace("&quot;", '"')) for key, text in found}


def test_a_machine_shows_what_it_uses_in_words_charts_and_a_table(
    client: Client, alice: User, machine: Machine
) -> None:
    told(machine)
    client.force_login(alice)
    html = page(client, machine)
    assert "<b>50 %</b>" in html
    assert "<b>1 MiB/s</b>" in html
    assert "<b>256 MiB</b>" in html
    charts = charts_in(html)
    assert list(charts) == ["cpu", "memory", "disk", "network"]
    assert charts["memory"]["top"] == GIB
    (line,) = charts["cpu"]["lines"]
    assert line["values"][-2:] == [0.5, 0.5] and len(line["values"]) == 60
    assert '<th scope="col" class="number">Disk, read</th>' in html


@pytest.mark.parametrize("span", ["live", "hour", "day", "month", "nonsense", ""])
def test_every_span_is_a_page_and_a_part(client: Client, alice: User, machine: Machine, span: str) -> None:
    told(machine)
    client.force_login(alice)
    whole, part = page(client, machine, span), page(client, machine, span, part=True)
    assert "<html" in whole and "<html" not in part
    marked = re.search(r'id="span-(\w+)"[^>]*aria-current="true"', part)
    assert marked is not None and marked[1] == (span if span in set(Level) else "hour")


def test_before_the_first_reading_it_says_so(client: Client, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    html = page(client, machine)
    assert "some twenty seconds after it was started" in html
    assert charts_in(html) == {}


def test_a_machine_that_is_off_says_so_and_shows_what_was(client: Client, alice: User, machine: Machine) -> None:
    shape = SHAPES[Level.HOUR]
    slot = shape.slot(live.now_s(store())) - 20
    ring = Ring(Level.HOUR).put(slot, pack(Point(cpu=0.75)))
    Series.objects.create(subject=machine.pk, level="hour", end=ring.end, data=ring.data)
    Machine.objects.update(power_state=PowerState.SHUT_OFF)
    client.force_login(alice)
    html = page(client, machine, "hour")
    assert "The machine is off" in html
    assert "75 %" in html and "<b>" not in html, "it is shown, and not as what is now"
    assert "The machine is off" in page(client, machine, "live")
    Machine.objects.update(power_state=PowerState.UNKNOWN)
    assert "host does not answer" in page(client, machine, "live")


def test_what_a_guest_or_its_host_does_not_tell_is_named(client: Client, alice: User, machine: Machine) -> None:
    told(machine, balloon=False, network=False)
    client.force_login(alice)
    html = page(client, machine)
    assert "has no balloon driver" in html
    assert "Its traffic is not counted" in html
    assert "taken on the host" in html
    assert "nan" not in html.lower().replace("finance", "")


def test_a_host_shows_its_own_and_its_machines_sums(client: Client, operator: User, machine: Machine) -> None:
    told(machine)
    client.force_login(operator)
    html = client.get(reverse("host-figures:host", args=[machine.host_id]), {"span": "live"}).content.decode()
    assert "<b>10 %</b>" in html
    assert "Disks of its machines" in html
    Host.objects.update(last_error="gone")
    html = client.get(reverse("host-figures:host", args=[machine.host_id]), {"span": "live"}).content.decode()
    assert "does not answer" in html


def test_hosts_are_for_operators(client: Client, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    assert client.get(reverse("host-figures:host", args=[machine.host_id])).status_code == 404


def test_loads_are_told_of_what_one_sees_and_of_nothing_else(
    client: Client, alice: User, charlie: User, machine: Machine
) -> None:
    told(machine)
    ids = f"{machine.pk},{uuid4()},rubbish,,{machine.host_id}"
    client.force_login(alice)
    found = client.get(reverse("figures:loads"), {"ids": ids}).json()
    assert list(found) == [str(machine.pk)]
    load = found[str(machine.pk)]
    assert (load["cpu"], load["memory"], load["spark"][-1]) == (0.5, 0.25, 0.5)
    assert load["words"] == "CPU 50 %, memory 256 MiB"
    client.force_login(charlie)
    assert client.get(reverse("figures:loads"), {"ids": ids}).json() == {}
    assert client.get(reverse("figures:loads")).json() == {}


def test_the_overview_names_the_busiest(client: Client, operator: User, machine: Machine) -> None:
    told(machine)
    client.force_login(operator)
    html = client.get(reverse("hosts:overview")).content.decode()
    assert "Busiest machines" in html
    assert "0.5 of 1 CPU" in html


@pytest.fixture
def away(settings: object) -> Iterator[None]:
    settings.REDIS_URL = "unix:///nowhere/redis.sock"  # type: ignore[attr-defined]  # pytest-django's settings.
    yield


def test_without_redis_pages_are_there(
    client: Client, operator: User, alice: User, machine: Machine, away: None
) -> None:
    client.force_login(alice)
    assert charts_in(page(client, machine)) == {}
    assert client.get(reverse("figures:loads"), {"ids": str(machine.pk)}).json() == {}
    client.force_login(operator)
    assert "Busiest machines" not in client.get(reverse("hosts:overview")).content.decode()


def test_numbers_have_units_and_nothing_is_a_number_that_is_not_known() -> None:
    assert (share_text(0.0123), share_text(0.123), share_text(None)) == ("1.2 %", "12 %", "unknown")
    assert rate_text(2048) == "2 KiB/s"
    nothing = Figures(Level.LIVE, 0, 10, [Point()] * 60, Point())
    assert [chart.lines for chart in charts_of(nothing, memory_total=GIB)] == [[], [], [], []]
