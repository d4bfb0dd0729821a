"""Events on their way out: a real database and Redis, a worker, a web process, a browser's live channel, a receiver."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from celery import Celery
from django.utils import timezone
from pytest_django.fixtures import Settings
from tools import programs
from websockets.sync.client import connect
from websockets.typing import Origin

from portal import settings as portal_settings
from portal.accounts.models import Project, User
from portal.events.delivery import wake_due
from portal.events.kinds import Kind
from portal.events.models import Delivery, DeliveryStatus, Webhook
from portal.events.services import add_webhook, record
from portal.lib import bus
from portal.machines.models import Machine
from tests.support.outside import Asked, Handler, Outside, Server, outside_world, wait_for
from tests.support.product import ROOT
from tests.support.redis import redis_db, redis_url
from tests.support.web import cookie_of, database_url, web_processes

__all__ = ["redis_db", "redis_url"]

pytestmark = pytest.mark.django_db(transaction=True)

ADDRESS = "127.0.0.2"


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with outside_world(tmp_path / "outside") as world:
        yield world


@pytest.fixture
def environment(outside: Outside, redis_db: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Of processes that share database and Redis with this one. Only tests may let loopback in, see the settings."""
    layer = portal_settings.CHANNEL_LAYERS["default"]
    host = {**layer["CONFIG"]["hosts"][0], "address": redis_db}  # type: ignore[index]
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": {**layer["CONFIG"], "hosts": [host]}}}  # type: ignore[dict-item]
    settings.BUS_IN_TESTS = True
    app = Celery("portal", broker=redis_db.replace("unix://", "redis+socket://", 1), set_as_current=False)
    app.conf.update(broker_transport_options=bus.BROKER_OPTIONS, task_ignore_result=True)
    monkeypatch.setattr(bus, "_app", app)
    return {
        **os.environ,
        "CASEMENT_TESTING": "1",
        "DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings",
        "PYTHONPATH": f"{ROOT / 'bin'}:{ROOT}",
        "DATABASE_URL": database_url(),
        "REDIS_URL": redis_db,
        "FETCH_PRIVATE_NETWORKS": f"{ADDRESS}/32",
        "SSL_CERT_FILE": str(outside.authority.ca),
    }


@contextmanager
def worker(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The one that `bin/run` starts for webhooks."""
    argv = programs._celery_worker("hooks", "hooks", "8", "--pool", "threads")
    with log.open("ab") as output:
        process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@dataclass
class Receiver:
    """When each event arrived, by its number; the first one holds the line until it is let go."""

    holds_first: bool = False
    arrived: dict[int, float] = field(default_factory=dict)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, handler: Handler, asked: Asked) -> None:
        self.arrived[json.loads(asked.body)["data"]["detail"]["number"]] = time.monotonic()
        if self.holds_first and not self.let_go.is_set():
            self.let_go.wait(60)
        handler.answer(200, b"thanks")


def hook_to(server: Server, project: Project, owner: User) -> Webhook:
    return add_webhook(project, actor=owner, name="CI", url=f"https://{ADDRESS}:{server.port}/hook")


def test_an_event_reaches_a_receiver_and_an_open_page_within_a_second(
    outside: Outside, environment: dict[str, str], project: Project, alice: User, machine: Machine, tmp_path: Path
) -> None:
    receiver = Receiver()
    webhook = hook_to(outside.serve(receiver, name=ADDRESS, address=ADDRESS), project, alice)
    topic, heard, sent = f"events:{project.pk}", [], {}
    with worker(environment, tmp_path / "worker.log"), web_processes(1, environment, tmp_path) as [web]:
        headers = {"Cookie": cookie_of(alice)}
        origin = Origin(f"http://localhost:{web.port}")
        with connect(f"ws://127.0.0.1:{web.port}/ws/live/", origin=origin, additional_headers=headers) as tab:
            assert json.loads(tab.recv(timeout=30)) == {"topics": ["*"]}
            record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": 0})
            wait_for(lambda: 0 in receiver.arrived, seconds=60, what="the worker's first delivery")
            while topic not in json.loads(tab.recv(timeout=30))["topics"]:
                pass
            for number in range(1, 11):
                sent[number] = time.monotonic()
                record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": number})
                while topic not in json.loads(tab.recv(timeout=30))["topics"]:
                    pass
                heard.append(time.monotonic() - sent[number])
                wait_for(lambda number=number: number in receiver.arrived, seconds=30)  # type: ignore[misc]
        wait_for(lambda: not Delivery.objects.exclude(status=DeliveryStatus.DONE).exists(), what="all deliveries' end")
    arrived = [receiver.arrived[number] - at for number, at in sent.items()]
    assert statistics.median(arrived) < 1.0
    assert statistics.median(heard) < 1.0
    assert webhook.deliveries.count() == 11


def test_a_worker_that_is_killed_in_the_middle_of_a_delivery_loses_nothing(
    outside: Outside, environment: dict[str, str], project: Project, alice: User, machine: Machine, tmp_path: Path
) -> None:
    receiver = Receiver(holds_first=True)
    server = outside.serve(receiver, name=ADDRESS, address=ADDRESS)
    hook_to(server, project, alice)
    with worker(environment, tmp_path / "first.log") as first:
        record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": 0})
        wait_for(lambda: receiver.arrived, seconds=60, what="the first attempt")
        first.send_signal(signal.SIGKILL)
        first.wait(20)
    receiver.let_go.set()
    delivery = Delivery.objects.get()
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.PENDING, 1)
    assert wake_due() == 0, "its lease has not run out yet"
    Delivery.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    with worker(environment, tmp_path / "second.log"):
        assert wake_due() == 1
        wait_for(lambda: Delivery.objects.filter(status=DeliveryStatus.DONE).exists(), seconds=60, what="the second")
    first_try, second_try = server.asked
    assert first_try.headers["webhook-id"] == second_try.headers["webhook-id"]
    assert first_try.body == second_try.body
