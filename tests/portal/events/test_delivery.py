"""What is sent to webhooks, by real HTTPS: signed, at least once, again and again for a while, and then no more."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Callable

import pytest
import time_machine
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event as AuditEvent
from portal.events import delivery
from portal.events.delivery import deliver, wait_s, wake_due
from portal.events.kinds import Kind
from portal.events.messages import signature
from portal.events.models import Delivery, DeliveryStatus, Event, Webhook
from portal.events.services import CHANGE_OVER, add_webhook, change_secret, record, resend, set_enabled, try_webhook
from portal.lib import bus
from portal.lib.fetcher import Fetcher
from portal.lib.secrets import unseal
from portal.machines.models import Machine
from tests.support.outside import NAME, Asked, Handler, Outside, Server, say
from tests.workers.support import Killed

Make = Callable[[Server], Webhook]
PENDING, DONE, FAILED = DeliveryStatus.PENDING, DeliveryStatus.DONE, DeliveryStatus.FAILED


def happen(machine: Machine, times: int = 1) -> None:
    for number in range(times):
        record(Kind.MACHINE_CHANGED, machine, project=machine.project_id, data={"number": number})


def one() -> Delivery:
    return Delivery.objects.select_related("event", "webhook").get()


def later(seconds: float = 0) -> None:
    """Whatever waits is due now; `seconds` of failing have passed."""
    Delivery.objects.update(due_at=timezone.now() - dt.timedelta(seconds=1))
    Webhook.objects.filter(failing_since__isnull=False).update(
        failing_since=timezone.now() - dt.timedelta(seconds=seconds)
    )


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The vector that the specification's own libraries are tested with."""
    found = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        name="msg_p5jXN8AQM9LWM0D4loKWxJek",
        at=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_two_secrets_sign_while_the_receiver_changes_over(
    outside: Outside, webhook_at: Make, machine: Machine, alice: User
) -> None:
    """As Standard Webhooks have it: signatures with a space between, of which the receiver finds one of theirs."""
    server = outside.serve(say(b"thanks"))
    webhook = webhook_at(server)
    first = unseal(webhook.secret)
    second = change_secret(webhook, actor=alice)
    third = change_secret(webhook, actor=alice)
    happen(machine)
    assert deliver(webhook.pk, by=outside.fetcher()) == 1
    signed = by_these(server.asked[0])
    assert signed(third) and signed(first) and not signed(second), "nobody was told of the second for long"
    later_on = timezone.now() + CHANGE_OVER + dt.timedelta(minutes=1)
    with time_machine.travel(later_on, tick=True):
        happen(machine)
        Delivery.objects.update(due_at=later_on)
        assert deliver(webhook.pk, by=outside.fetcher()) == 1
        change_secret(webhook, actor=alice)
    signed = by_these(server.asked[1])
    assert signed(third) and not signed(first)
    webhook.refresh_from_db()
    assert unseal(webhook.old_secret) == third
    assert AuditEvent.objects.filter(action="webhook.new_secret", actor=alice).count() == 3


def by_these(asked: Asked) -> Callable[[str], bool]:
    """Whether one of the message's signatures is by a secret."""

    def signed(secret: str) -> bool:
        name, at = asked.headers["webhook-id"], int(asked.headers["webhook-timestamp"])
        return signature(secret, name=name, at=at, body=asked.body) in asked.headers["webhook-signature"].split(" ")

    return signed


def test_an_event_arrives_signed(outside: Outside, webhook_at: Make, machine: Machine) -> None:
    server = outside.serve(say(b"thanks"))
    webhook = webhook_at(server)
    happen(machine)
    assert deliver(webhook.pk, by=outside.fetcher()) == 1
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", "/hook", "application/json")
    event = Event.objects.get()
    message = json.loads(asked.body)
    assert message == {
        "type": "machine.changed",
        "timestamp": event.at.isoformat(),
        "data": {
            "id": str(event.uid),
            "project": str(machine.project_id),
            "subject": {"type": "machine", "id": str(machine.pk), "name": "beacon"},
            "actor": None,
            "detail": {"number": 0},
        },
    }
    name, at = asked.headers["webhook-id"], asked.headers["webhook-timestamp"]
    key = base64.b64decode(unseal(webhook.secret).removeprefix("whsec_"))
    assert len(key) == 32
    expected = hmac.new(key, f"{name}.{at}.".encode() + asked.body, hashlib.sha256).digest()
    assert asked.headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
    assert abs(int(at) - timezone.now().timestamp()) < 60
    sent = one()
    assert (sent.status, sent.attempts, sent.answer_status, sent.answer, sent.error) == (DONE, 1, 200, "thanks", "")
    assert deliver(webhook.pk, by=outside.fetcher()) == 0, "it is sent once"


def test_several_go_in_the_order_in_which_they_happened(outside: Outside, webhook_at: Make, machine: Machine) -> None:
    server = outside.serve(say(b""))
    webhook = webhook_at(server)
    happen(machine, 5)
    assert deliver(webhook.pk, by=outside.fetcher()) == 5
    assert [json.loads(asked.body)["data"]["detail"]["number"] for asked in server.asked] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
def test_what_does_not_arrive_is_tried_again_with_the_same_id(
    outside: Outside, webhook_at: Make, machine: Machine, status: int
) -> None:
    answers = iter([status, 204])
    server = outside.serve(lambda handler, _asked: handler.answer(next(answers), b"", Location="/elsewhere"))
    webhook = webhook_at(server)
    happen(machine)
    began = timezone.now()
    deliver(webhook.pk, by=outside.fetcher())
    ended = timezone.now()
    sent = one()
    assert (sent.status, sent.answer_status, sent.attempts) == (PENDING, status, 1)
    assert str(status) in sent.error
    assert (sent.due_at - began).total_seconds() > 3 and (sent.due_at - ended).total_seconds() < 7
    with time_machine.travel(ended, tick=False):
        assert deliver(webhook.pk, by=outside.fetcher()) == 0, "it is not due yet"
    later()
    deliver(webhook.pk, by=outside.fetcher())
    assert one().status == DONE
    assert one().webhook.failing_since is None
    first, second = server.asked
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert (first.path, first.body) == (second.path, second.body)


def test_the_waits_grow_and_are_never_quite_the_same() -> None:
    for attempts, wait in enumerate([5, 20, 80, 320, 1280, 5120, 20480, 21600, 21600], start=1):
        waits = {wait_s(attempts) for _ in range(50)}
        assert len(waits) > 10
        assert all(0.8 * wait <= found <= 1.2 * wait for found in waits)


def test_after_the_last_attempt_it_is_given_up(outside: Outside, webhook_at: Make, machine: Machine) -> None:
    server = outside.serve(lambda handler, _asked: handler.answer(500, b"\x00\xff broken <script>"))
    webhook = webhook_at(server)
    happen(machine)
    for _ in range(delivery.MOST_ATTEMPTS):
        later()
        assert deliver(webhook.pk, by=outside.fetcher()) == 1
    later()
    assert deliver(webhook.pk, by=outside.fetcher()) == 0
    sent = one()
    assert (sent.status, sent.attempts) == (FAILED, delivery.MOST_ATTEMPTS)
    assert sent.answer == "\ufffd\ufffd broken <script>"


def test_a_receiver_in_trouble_is_not_asked_once_for_each_event(
    outside: Outside, webhook_at: Make, machine: Machine
) -> None:
    server = outside.serve(lambda handler, _asked: handler.answer(503))
    webhook = webhook_at(server)
    happen(machine, 10)
    assert deliver(webhook.pk, by=outside.fetcher()) == 1
    first = Delivery.objects.order_by("pk")[0]
    with time_machine.travel(first.due_at - dt.timedelta(seconds=1), tick=False):
        assert wake_due() == 0
    assert Delivery.objects.filter(due_at__gt=timezone.now() + delivery.HELD_BACK).count() == 0


def test_one_that_is_not_liked_holds_up_no_other(outside: Outside, webhook_at: Make, machine: Machine) -> None:
    def respond(handler: Handler, asked: Asked) -> None:
        handler.answer(422 if json.loads(asked.body)["data"]["detail"]["number"] == 0 else 200)

    webhook = webhook_at(outside.serve(respond))
    happen(machine, 3)
    deliver(webhook.pk, by=outside.fetcher())
    deliver(webhook.pk, by=outside.fetcher())
    assert sorted(Delivery.objects.values_list("status", flat=True)) == [DONE, DONE, PENDING]


def test_after_days_of_failing_it_is_switched_off_and_says_so(
    outside: Outside, webhook_at: Make, machine: Machine
) -> None:
    server = outside.serve(lambda handler, _asked: handler.answer(500))
    webhook = webhook_at(server)
    happen(machine)
    deliver(webhook.pk, by=outside.fetcher())
    later(delivery.STOPPED_AFTER.total_seconds() - 60)
    deliver(webhook.pk, by=outside.fetcher())
    assert Webhook.objects.filter(enabled=True).exists(), "not quite yet"
    later(delivery.STOPPED_AFTER.total_seconds() + 60)
    deliver(webhook.pk, by=outside.fetcher())
    webhook.refresh_from_db()
    assert not webhook.enabled
    assert "500" in webhook.stopped_reason
    assert AuditEvent.objects.filter(action="webhook.stopped").count() == 1
    assert Event.objects.filter(kind=Kind.WEBHOOK_STOPPED).count() == 1
    before = len(server.asked)
    happen(machine)
    later()
    assert (deliver(webhook.pk, by=outside.fetcher()), wake_due(), len(server.asked)) == (0, 0, before)


def test_gone_for_good_is_believed_at_once(outside: Outside, webhook_at: Make, machine: Machine) -> None:
    webhook = webhook_at(outside.serve(lambda handler, _asked: handler.answer(410)))
    happen(machine)
    deliver(webhook.pk, by=outside.fetcher())
    webhook.refresh_from_db()
    assert not webhook.enabled


def test_switched_on_again_it_goes_on_with_what_waited(
    outside: Outside, webhook_at: Make, machine: Machine, alice: User
) -> None:
    answers = iter([410, 200])
    server = outside.serve(lambda handler, _asked: handler.answer(next(answers)))
    webhook = webhook_at(server)
    happen(machine)
    deliver(webhook.pk, by=outside.fetcher())
    webhook.refresh_from_db()
    set_enabled(webhook, actor=alice, enabled=True)
    webhook.refresh_from_db()
    assert (webhook.stopped_reason, webhook.failing_since) == ("", None)
    deliver(webhook.pk, by=outside.fetcher())
    assert one().status == DONE


def test_what_arrived_can_be_sent_again(outside: Outside, webhook_at: Make, machine: Machine, alice: User) -> None:
    server = outside.serve(say(b""))
    webhook = webhook_at(server)
    happen(machine)
    deliver(webhook.pk, by=outside.fetcher())
    resend(one(), actor=alice)
    resend(one(), actor=alice)
    assert deliver(webhook.pk, by=outside.fetcher()) == 1
    assert len({asked.headers["webhook-id"] for asked in server.asked}) == 1
    assert len(server.asked) == 2


def test_a_try_goes_to_the_one_webhook_only(outside: Outside, webhook_at: Make, project: Project, alice: User) -> None:
    server = outside.serve(say(b""))
    webhook = webhook_at(server)
    other = add_webhook(project, actor=alice, name="Other", url="https://other.example/")
    Webhook.objects.update(kinds=["job.done"])
    try_webhook(webhook, actor=alice)
    assert deliver(webhook.pk, by=outside.fetcher()) == 1
    assert json.loads(server.asked[0].body)["type"] == "webhook.test"
    assert not other.deliveries.exists()


# --- workers that die, and more than one of them -----------------------------------------------------------------


def test_a_worker_that_dies_before_it_sends_or_before_it_says_so_loses_nothing(
    outside: Outside, webhook_at: Make, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = outside.serve(say(b""))
    webhook = webhook_at(server)
    happen(machine)

    def die(*_args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(delivery, "_send", die)
        deliver(webhook.pk, by=outside.fetcher())
    assert server.asked == []
    assert deliver(webhook.pk, by=outside.fetcher()) == 0, "another one still has it, as far as anyone knows"
    assert wake_due() == 0
    _lease_runs_out()
    assert wake_due() == 1
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(delivery, "tell_webhook", die)
        deliver(webhook.pk, by=outside.fetcher())
    assert one().status == PENDING
    _lease_runs_out()
    assert deliver(webhook.pk, by=outside.fetcher()) == 1
    assert (one().status, one().attempts, len(server.asked)) == (DONE, 3, 2)


def _lease_runs_out() -> None:
    Delivery.objects.filter(lease_until__isnull=False).update(lease_until=timezone.now() - dt.timedelta(seconds=1))


def test_who_lost_the_lease_writes_nothing(
    outside: Outside, webhook_at: Make, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker took it over and was done while the first one was still waiting for an answer."""
    send = delivery._send

    def slowly(row: Delivery, by: Fetcher) -> delivery.Outcome:
        outcome = send(row, by)
        Delivery.objects.update(lease_owner="another", status=DONE, answer="as the other one found it")
        return outcome

    webhook = webhook_at(outside.serve(lambda handler, _asked: handler.answer(500)))
    happen(machine)
    monkeypatch.setattr(delivery, "_send", slowly)
    deliver(webhook.pk, by=outside.fetcher())
    assert (one().status, one().answer) == (DONE, "as the other one found it")
    assert one().webhook.failing_since is None


def test_a_webhook_has_no_more_than_two_under_way(outside: Outside, webhook_at: Make, machine: Machine) -> None:
    webhook = webhook_at(outside.serve(say(b"")))
    happen(machine, 4)
    claimed = [delivery._claim(webhook.pk) for _ in range(4)]
    assert [row is not None for row in claimed] == [True, True, False, False]
    assert claimed[0] != claimed[1]


def test_a_message_that_was_lost_is_sent_by_the_clock(
    outside: Outside, webhook_at: Make, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = webhook_at(outside.serve(say(b"")))
    happen(machine, 3)
    woken: list[object] = []
    monkeypatch.setattr(bus, "wake", lambda name, pk, *, queue: woken.append((name, pk, queue)))
    monkeypatch.setattr("django.db.transaction.on_commit", lambda call: call())
    assert wake_due() == 1
    assert woken == [("events.deliver", webhook.pk, "hooks")]


# --- attacks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "2130706433", "10.0.0.1"])
def test_a_webhook_into_the_private_network_is_never_sent(
    outside: Outside, webhook_at: Make, machine: Machine, named: str
) -> None:
    inside = outside.serve(say(b"secret"), address="127.0.0.1", name="localhost")
    webhook = webhook_at(inside)
    Webhook.objects.update(url=f"https://{named}:{inside.port}/")
    happen(machine)
    deliver(webhook.pk)  # By the fetcher of use and the system's own resolver.
    assert inside.asked == []
    assert "private network" in one().error
    assert one().answer == ""


def test_a_redirect_into_the_private_network_is_not_followed(
    outside: Outside, webhook_at: Make, machine: Machine
) -> None:
    inside = outside.serve(say(b"secret"), address="127.0.0.1", name="localhost")
    server = outside.serve(lambda handler, _asked: handler.answer(307, Location=f"https://localhost:{inside.port}/"))
    webhook = webhook_at(server)
    happen(machine)
    deliver(webhook.pk, by=outside.fetcher())
    assert inside.asked == []
    assert "redirect" in one().error


def test_an_endless_answer_is_kept_in_its_beginning_only(outside: Outside, webhook_at: Make, machine: Machine) -> None:
    def endless(handler: Handler, _asked: Asked) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 65536)

    webhook = webhook_at(outside.serve(endless))
    happen(machine)
    deliver(webhook.pk, by=outside.fetcher())
    assert (one().status, len(one().answer)) == (DONE, 1000)


def test_a_secret_that_cannot_be_read_any_more_signs_nothing(
    outside: Outside, webhook_at: Make, machine: Machine
) -> None:
    server = outside.serve(say(b""))
    webhook = webhook_at(server)
    Webhook.objects.update(secret="gAAAAAB-of-another-key")
    happen(machine)
    deliver(webhook.pk, by=outside.fetcher())
    assert server.asked == []
    assert "SECRET_KEY" in one().error


def test_the_name_is_the_servers(outside: Outside, webhook_at: Make, machine: Machine) -> None:
    webhook = webhook_at(outside.serve(say(b""), name="other.example"))
    happen(machine)
    deliver(webhook.pk, by=outside.fetcher())
    assert "certificate" in one().error
    assert NAME in webhook.url
