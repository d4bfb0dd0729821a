"""Events on their way out: a real database and Redis, a worker, a web process, a browser's live channel, a receiver."""

from __future__ import annotations

import datetime as dt
import json
import signal
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.utils import timezone
from websockets.sync.client import connect
from websockets.typing import Origin

from portal.accounts.models import Project, User
from portal.events.delivery import wake_due
from portal.events.kinds import Kind
from portal.events.models import Delivery, DeliveryStatus, Webhook
from portal.events.services import add_webhook, record
from portal.machines.models import Machine
from tests.integration.hooks.conftest import ADDRESS, StartWorker
from tests.support.outside import Asked, Handler, Outside, Server, wait_for
from tests.support.web import cookie_of, web_processes

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(600)]


@dataclass
class Receiver:
    """When each event arrived, by its number; the first one holds the line until it is let go."""

    holds_first: bool = False
    arrived: dict[int, float] = field(default_factory=dict)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, handler: Handler, asked: Asked) -> None:
        self.arrived[json.loads(asked.body)["data"]["detail"]["number"]] = time.monotonic()
        if self.holds_first and not self.let_go.is_set():
            self.let_go.wait(240)
        handler.answer(200, b"thanks")


def hook_to(server: Server, project: Project, owner: User) -> Webhook:
    return add_webhook(project, actor=owner, name="CI", url=f"https://{ADDRESS}:{server.port}/hook")


def test_an_event_reaches_a_receiver_and_an_open_page_within_a_second(
    outside: Outside,
    environment: dict[str, str],
    worker: StartWorker,
    project: Project,
    alice: User,
    machine: Machine,
    tmp_path: Path,
) -> None:
    receiver = Receiver()
    webhook = hook_to(outside.serve(receiver, name=ADDRESS, address=ADDRESS), project, alice)
    topic, heard, sent = f"events:{project.pk}", [], {}
    with worker("hooks", 8, "--pool", "threads"), web_processes(1, environment, tmp_path) as [web]:
        headers = {"Cookie": cookie_of(alice)}
        origin = Origin(f"http://localhost:{web.port}")
        address = f"ws://127.0.0.1:{web.port}/ws/live/"
        with connect(address, origin=origin, additional_headers=headers, open_timeout=60, ping_interval=None) as tab:
            assert json.loads(tab.recv(timeout=60)) == {"topics": ["*"]}
            record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": 0})
            wait_for(lambda: 0 in receiver.arrived, seconds=120, what="the worker's first delivery")
            while topic not in json.loads(tab.recv(timeout=60))["topics"]:
                pass
            for number in range(1, 11):
                sent[number] = time.monotonic()
                record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": number})
                while topic not in json.loads(tab.recv(timeout=60))["topics"]:
                    pass
                heard.append(time.monotonic() - sent[number])
                wait_for(lambda number=number: number in receiver.arrived)  # type: ignore[misc]  # the default binds the loop's value
        wait_for(lambda: not Delivery.objects.exclude(status=DeliveryStatus.DONE).exists(), what="all deliveries' end")
    arrived = [receiver.arrived[number] - at for number, at in sent.items()]
    assert statistics.median(arrived) < 1.0
    assert statistics.median(heard) < 1.0
    assert webhook.deliveries.count() == 11


def test_a_worker_that_is_killed_in_the_middle_of_a_delivery_loses_nothing(
    outside: Outside, worker: StartWorker, project: Project, alice: User, machine: Machine
) -> None:
    receiver = Receiver(holds_first=True)
    server = outside.serve(receiver, name=ADDRESS, address=ADDRESS)
    hook_to(server, project, alice)
    with worker("hooks", 8, "--pool", "threads") as first:
        record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": 0})
        wait_for(lambda: receiver.arrived, seconds=120, what="the first attempt")
        first.send_signal(signal.SIGKILL)
        first.wait(60)
    receiver.let_go.set()
    delivery = Delivery.objects.get()
    assert (delivery.status, delivery.attempts) == (DeliveryStatus.PENDING, 1)
    assert wake_due() == 0, "its lease has not run out yet"
    Delivery.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    with worker("hooks", 8, "--pool", "threads"):
        assert wake_due() == 1
        wait_for(lambda: Delivery.objects.filter(status=DeliveryStatus.DONE).exists(), seconds=120, what="the second")
    first_try, second_try = server.asked
    assert first_try.headers["webhook-id"] == second_try.headers["webhook-id"]
    assert first_try.body == second_try.body
