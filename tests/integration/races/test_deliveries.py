"""Several workers at the same webhooks: what nobody died of is sent once, and changes beside it lose nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from portal.accounts.models import Project, User
from portal.errors import ConflictError
from portal.events.delivery import deliver
from portal.events.kinds import Kind
from portal.events.models import Delivery, DeliveryStatus, Webhook
from portal.events.services import add_webhook, record, resend, set_enabled
from portal.machines.models import Machine
from tests.support.outside import NAME, Outside, outside_world, say
from tests.support.together import at_once

pytestmark = pytest.mark.django_db(transaction=True)

EVENTS = 12
WORKERS = 4


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with outside_world(tmp_path) as world:
        yield world


def work_until_all_has_arrived(outside: Outside, webhook: Webhook) -> None:
    """Workers come as the clock wakes them; one that finds others at work goes away again."""
    for _round in range(20):
        at_once([partial(deliver, webhook.pk, by=outside.fetcher()) for _ in range(WORKERS)])
        if not Delivery.objects.filter(status=DeliveryStatus.PENDING).exists():
            return
    raise AssertionError(list(Delivery.objects.values_list("status", "attempts", "error")))


def test_what_several_workers_send_at_once_arrives_once(
    outside: Outside, project: Project, alice: User, machine: Machine
) -> None:
    server = outside.serve(say(b""))
    webhook = add_webhook(project, actor=alice, name="CI", url=f"https://{NAME}:{server.port}/")
    for number in range(EVENTS):
        record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": number})
    work_until_all_has_arrived(outside, webhook)
    arrived = Counter(asked.headers["webhook-id"] for asked in server.asked)
    assert len(arrived) == EVENTS
    assert set(arrived.values()) == {1}
    assert set(Delivery.objects.values_list("attempts", flat=True)) == {1}


def test_an_event_recorded_while_a_webhook_is_switched_and_sent_to_is_neither_lost_nor_doubled(
    outside: Outside, project: Project, alice: User, machine: Machine
) -> None:
    """Each change is made by somebody else at the same moment; none waits for another for ever."""
    server = outside.serve(say(b""))
    webhook = add_webhook(project, actor=alice, name="CI", url=f"https://{NAME}:{server.port}/")
    record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": 0})
    deliver(webhook.pk, by=outside.fetcher())
    first = Delivery.objects.select_related("webhook", "event").get()
    assert first.status == DeliveryStatus.DONE

    def happen() -> None:
        for number in range(1, EVENTS):
            record(Kind.MACHINE_CHANGED, machine, project=project.pk, data={"number": number})

    def switch() -> None:
        for enabled in (False, True, False, True):
            set_enabled(webhook, actor=alice, enabled=enabled)

    def again() -> None:
        with suppress(ConflictError):  # The webhook may be off just then, as this row of it says.
            first.webhook.refresh_from_db()
            resend(first, actor=alice)

    def work() -> None:
        deliver(webhook.pk, by=outside.fetcher())

    at_once([happen, switch, again, work])
    work_until_all_has_arrived(outside, webhook)
    rows = Delivery.objects.filter(webhook=webhook)
    assert set(rows.values_list("status", flat=True)) == {DeliveryStatus.DONE}
    assert rows.count() == len(set(rows.values_list("event", flat=True)))
    arrived = {asked.headers["webhook-id"] for asked in server.asked}
    assert arrived == {f"evt_{row.event.uid.hex}" for row in rows.select_related("event")}
