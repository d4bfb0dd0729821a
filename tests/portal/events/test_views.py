"""The pages of events and webhooks: what they show, to whom, and what they say when something is wrong."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event as AuditEvent
from portal.events.delivery import _claim
from portal.events.kinds import CHOICES, Kind
from portal.events.models import Delivery, Webhook
from portal.events.services import MOST_WEBHOOKS, add_webhook, record, try_webhook
from portal.lib.secrets import unseal
from portal.machines.models import Machine
from tests.support.xss import CORPUS, faults


@pytest.fixture
def webhook(project: Project, alice: User) -> Webhook:
    return add_webhook(project, actor=alice, name="CI", url="https://ci.example.org/hook")


def form(**values: object) -> dict[str, object]:
    return {"name": "CI", "url": "https://ci.example.org/hook", "request_key": str(uuid4()), **values}


@pytest.mark.parametrize(("cast", "status"), [("alice", 200), ("bob", 200), ("vera", 200), ("charlie", 404)])
def test_everyone_in_the_project_sees_its_events(
    client: Client, request: pytest.FixtureRequest, machine: Machine, cast: str, status: int
) -> None:
    record(Kind.MACHINE_STATE, machine, project=machine.project_id, data={"power_state": "shut_off"})
    client.force_login(request.getfixturevalue(cast))
    answer = client.get(reverse("events:list", args=[machine.project_id]))
    assert answer.status_code == status
    assert (b"It is off." in answer.content) == (status == 200)


@pytest.mark.parametrize(("cast", "status"), [("alice", 200), ("bob", 403), ("vera", 403), ("charlie", 404)])
@pytest.mark.parametrize("page", ["events:hooks", "events:webhook", "events:webhook-edit", "events:webhook-delete"])
def test_only_owners_see_webhooks(
    client: Client, request: pytest.FixtureRequest, webhook: Webhook, cast: str, status: int, page: str
) -> None:
    client.force_login(request.getfixturevalue(cast))
    pk = webhook.project_id if page == "events:hooks" else webhook.pk
    assert client.get(reverse(page, args=[pk])).status_code == status


def test_events_of_another_project_are_not_in_the_list(
    client: Client, machine: Machine, alice: User, charlie: User
) -> None:
    other = charlie.memberships.get().project
    record(Kind.MACHINE_STATE, machine, project=other.pk, data={"power_state": "running"})
    client.force_login(alice)
    assert b"Nothing has happened yet" in client.get(reverse("events:list", args=[machine.project_id])).content


def test_the_list_is_filtered_and_says_when_nothing_matches(client: Client, machine: Machine, alice: User) -> None:
    record(Kind.MACHINE_BUILD_FAILED, machine, project=machine.project_id, data={"error": "There is no room."})
    client.force_login(alice)
    address = reverse("events:list", args=[machine.project_id])
    assert b"There is no room." in client.get(address, {"kind": "machine.build_failed", "q": "beac"}).content
    assert b"No event matches" in client.get(address, {"kind": "job"}).content
    assert b"There is no room." in client.get(address, {"kind": "\x00nonsense"}).content


def test_a_webhook_is_made_with_a_secret_that_the_page_shows_when_asked(
    client: Client, project: Project, alice: User
) -> None:
    client.force_login(alice)
    answer = client.post(reverse("events:new", args=[project.pk]), form(kinds=["job.failed", "job.done"]))
    webhook = Webhook.objects.get()
    assert answer["Location"] == reverse("events:webhook", args=[webhook.pk])
    assert webhook.kinds == ["job.done", "job.failed"]
    secret = unseal(webhook.secret)
    assert secret not in client.get(answer["Location"]).content.decode()
    shown = client.post(reverse("events:webhook-secret", args=[webhook.pk]))
    assert secret in shown.content.decode()
    assert shown["Cache-Control"] == "no-store"
    assert AuditEvent.objects.filter(action="webhook.secret", actor=alice).count() == 1


def test_a_new_secret_is_shown_with_how_long_the_one_before_signs(
    client: Client, webhook: Webhook, alice: User
) -> None:
    client.force_login(alice)
    before = unseal(webhook.secret)
    shown = client.post(reverse("events:webhook-new-secret", args=[webhook.pk]))
    webhook.refresh_from_db()
    assert unseal(webhook.secret) != before and unseal(webhook.secret) in shown.content.decode()
    assert "the one before stops signing" in shown.content.decode() and shown["Cache-Control"] == "no-store"
    assert "signs as well, and stops" in client.get(reverse("events:webhook", args=[webhook.pk])).content.decode()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"url": "http://ci.example.org/"}, "Only addresses that begin with https://"),
        ({"url": "https://user:word@ci.example.org/"}, "must not hold a user name"),
        ({"url": "ftp://ci.example.org/"}, "Only addresses that begin with https://"),
        ({"url": "nonsense"}, "Only addresses that begin with https://"),
        ({"url": ""}, "This field is required"),
        ({"name": ""}, "This field is required"),
        ({"kinds": ["machine.exploded"]}, "Select a valid choice"),
        ({"kinds": ["webhook.test"]}, "Select a valid choice"),
    ],
)
def test_what_cannot_be_is_said_at_the_field(
    client: Client, project: Project, alice: User, values: dict[str, object], words: str
) -> None:
    client.force_login(alice)
    answer = client.post(reverse("events:new", args=[project.pk]), form(**values))
    assert answer.status_code == 422
    assert words in answer.content.decode()
    assert not Webhook.objects.exists()


def test_there_are_only_so_many_in_a_project(client: Client, project: Project, alice: User) -> None:
    for _ in range(MOST_WEBHOOKS):
        add_webhook(project, actor=alice, name="CI", url="https://ci.example.org/hook")
    client.force_login(alice)
    answer = client.post(reverse("events:new", args=[project.pk]), form())
    assert answer.status_code == 422
    assert "at most 20" in answer.content.decode()


def test_a_form_of_another_projects_webhook_is_not_taken_for_sent(
    client: Client, webhook: Webhook, charlie: User
) -> None:
    client.force_login(charlie)
    other = charlie.memberships.get().project
    answer = client.post(reverse("events:new", args=[other.pk]), form(request_key=str(webhook.pk)))
    assert answer.status_code == 422
    assert Webhook.objects.count() == 1


def test_it_is_changed_switched_off_and_deleted(client: Client, webhook: Webhook, alice: User) -> None:
    client.force_login(alice)
    values = form(name="Chat", url="https://chat.example.org/", kinds=[CHOICES[0][0]])
    client.post(reverse("events:webhook-edit", args=[webhook.pk]), values)
    webhook.refresh_from_db()
    assert (webhook.name, webhook.url, webhook.kinds) == ("Chat", "https://chat.example.org/", [CHOICES[0][0]])
    client.post(reverse("events:webhook-enable", args=[webhook.pk]), {"enabled": "no"})
    webhook.refresh_from_db()
    assert not webhook.enabled
    assert client.post(reverse("events:webhook-try", args=[webhook.pk])).status_code == 409
    client.post(reverse("events:webhook-delete", args=[webhook.pk]))
    assert not Webhook.objects.exists()
    actions = ["webhook.added", "webhook.changed", "webhook.disabled", "webhook.deleted"]
    assert list(AuditEvent.objects.order_by("pk").values_list("action", flat=True)) == actions


def test_what_others_in_the_project_read_holds_no_more_of_an_address_than_its_host(
    client: Client, webhook: Webhook, alice: User, vera: User
) -> None:
    client.force_login(alice)
    secret = "https://ci.example.org/hook/s3cret?token=s3cret"
    client.post(reverse("events:webhook-edit", args=[webhook.pk]), form(url=secret))
    client.post(reverse("events:webhook-try", args=[webhook.pk]))
    client.post(reverse("events:webhook-delete", args=[webhook.pk]))
    assert "s3cret" not in str(list(AuditEvent.objects.values()))
    client.force_login(vera)
    for page in ("events:list", "accounts:project"):
        assert "s3cret" not in client.get(reverse(page, args=[webhook.project_id])).content.decode()


def test_one_that_was_stopped_says_why_and_what_to_do(client: Client, webhook: Webhook, alice: User) -> None:
    Webhook.objects.update(enabled=False, stopped_reason="Nothing has arrived there for 2 days.")
    client.force_login(alice)
    for page, pk in (("events:webhook", webhook.pk), ("events:hooks", webhook.project_id)):
        text = client.get(reverse(page, args=[pk])).content.decode()
        assert "Nothing has arrived there for 2 days." in text
    assert "switch it on" in client.get(reverse("events:webhook", args=[webhook.pk])).content.decode()


def test_what_happened_last_is_sent_last_and_shown_first(client: Client, webhook: Webhook, alice: User) -> None:
    now = timezone.now()
    for number in range(3):
        record(Kind.MACHINE_CHANGED, webhook, project=webhook.project_id, data={"number": number})
    Delivery.objects.update(due_at=now)
    first = _claim(webhook.pk)
    assert first is not None and first.event.data == {"number": 0}
    client.force_login(alice)
    shown = client.get(reverse("events:webhook", args=[webhook.pk])).context["page"]
    assert [row.event.data["number"] for row in shown] == [2, 1, 0]


@pytest.mark.parametrize("nasty", CORPUS)
def test_what_comes_back_is_text_never_markup(client: Client, webhook: Webhook, alice: User, nasty: str) -> None:
    try_webhook(webhook, actor=alice)
    Delivery.objects.update(answer=nasty, error=nasty)
    Webhook.objects.update(name=nasty[:100], stopped_reason=nasty)
    client.force_login(alice)
    for page, pk in (("events:webhook", webhook.pk), ("events:hooks", webhook.project_id)):
        assert faults(client.get(reverse(page, args=[pk])).content.decode()) == []
