"""The portal's part of the way to a screen: each step's verdict, who may ask, and what an operator sees more."""

import asyncio
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from django.conf import LazySettings
from django.db import connections
from django.test import Client
from django.urls import reverse
from redis.exceptions import ConnectionError as RedisGone

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Role
from portal.console import selftest, tickets
from portal.console.limits import Place, is_held, take
from portal.console.models import ConsoleSession
from portal.lib.secrets import seal
from portal.lib.store import store
from portal.machines.models import Machine
from portal.machines.states import PowerState
from tests.portal.console.displays import display_at, greet, server_init

pytestmark = [pytest.mark.usefixtures("redis_db"), pytest.mark.django_db(transaction=True)]

SECRET = "s3cr3tpw"
Steps = dict[str, dict[str, Any]]


def steps(client: Client, pk: UUID) -> Steps:
    answer = client.post(reverse("console:selftest-steps", args=[pk]))
    assert answer.status_code == 200
    return {step["name"]: step for step in answer.json()["steps"]}


def verdicts(found: Steps) -> list[bool | None]:
    return [step["ok"] for step in found.values()]


def in_thread(work: Callable[[], Steps]) -> Steps:
    """Closes the thread's own connection to the database, which nobody else would."""
    try:
        return work()
    finally:
        connections.close_all()


def with_display(path: str, work: Callable[[], Steps], *, secret: str = SECRET) -> Steps:
    """Run `work` in a thread while a display answers at `path`."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=secret)
        writer.write(server_init(b"<script>guest's word</script>"))
        await reader.read()

    async def run() -> Steps:
        async with display_at(path, talk):
            return await asyncio.to_thread(in_thread, work)

    return asyncio.run(run())


@pytest.fixture
def shown(machine: Machine, socket_path: str, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(selftest, "DISPLAY_DEADLINE", 60.0)  # A busy machine is no display that says nothing.
    Machine.objects.update(power_state=PowerState.RUNNING, console_socket=socket_path, console_secret=seal(SECRET))
    machine.refresh_from_db()
    return machine


def test_every_step_is_fine_has_a_time_and_leaves_nothing_behind(client: Client, alice: User, shown: Machine) -> None:
    client.force_login(alice)
    found = with_display(shown.console_socket, lambda: steps(client, shown.pk))
    assert list(found) == ["ticket", "permission", "machine-off", "limit", "display"]
    assert verdicts(found) == [True] * 5
    assert all(step["ms"] > 0 for step in found.values())
    assert not ConsoleSession.objects.exists()
    assert not cast(list[bytes], store().keys("casement:console:ticket:*"))
    assert not cast(list[bytes], store().keys("casement:console:*:*")), "the place is given back"


def test_only_an_operator_sees_the_host_and_nobody_the_guests_words(
    client: Client, alice: User, operator: User, shown: Machine
) -> None:
    client.force_login(alice)
    seen = with_display(shown.console_socket, lambda: steps(client, shown.pk))
    assert not [step for step in seen.values() if "detail" in step]
    client.force_login(operator)
    seen = with_display(shown.console_socket, lambda: steps(client, shown.pk))
    assert shown.host.name in seen["display"]["detail"]
    assert "640x480" in seen["display"]["detail"]
    assert "script" not in str(seen)
    assert SECRET not in str(seen)


@pytest.mark.parametrize(
    ("power", "name", "step"),
    [(PowerState.SHUT_OFF, "machine-off", "machine-off"), (PowerState.UNKNOWN, "machine-off", "host")],
)
def test_a_machine_that_is_off_stops_it_there_and_the_rest_is_not_tried(
    client: Client, alice: User, shown: Machine, power: PowerState, name: str, step: str
) -> None:
    Machine.objects.update(power_state=power)
    client.force_login(alice)
    found = steps(client, shown.pk)
    assert verdicts(found) == [True, True, False, None, None]
    assert found[name]["step"] == step


def test_a_display_that_is_not_there_is_the_hosts_fault(client: Client, operator: User, shown: Machine) -> None:
    client.force_login(operator)
    found = steps(client, shown.pk)
    assert verdicts(found) == [True, True, True, True, False]
    assert (found["display"]["step"], found["display"]["reason"]) == ("host", "unreachable")
    assert shown.host.name in found["display"]["detail"]


def test_a_display_with_another_password_is_the_displays(client: Client, alice: User, shown: Machine) -> None:
    client.force_login(alice)
    found = with_display(shown.console_socket, lambda: steps(client, shown.pk), secret="another")
    assert (found["display"]["step"], found["display"]["reason"]) == ("display", "password")


def test_a_display_that_says_nothing_is_given_up(
    client: Client, alice: User, shown: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "DISPLAY_DEADLINE", 0.2)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def run() -> Steps:
        async with display_at(shown.console_socket, mute):
            return await asyncio.to_thread(in_thread, lambda: steps(client, shown.pk))

    client.force_login(alice)
    found = asyncio.run(run())
    assert found["display"]["ok"] is False
    assert found["display"]["step"] == "display"


def test_a_machine_with_too_many_viewers_says_so(
    client: Client, alice: User, shown: Machine, settings: LazySettings
) -> None:
    settings.CONSOLE_MAX_SESSIONS_PER_MACHINE = 1
    other = Place("someone", 0, shown.pk)
    assert take(other) is None
    client.force_login(alice)
    found = steps(client, shown.pk)
    assert (found["limit"]["step"], found["limit"]["reason"]) == ("limit", "machine")
    assert is_held(other)


def test_a_store_that_does_not_answer_is_the_tickets_step(
    client: Client, alice: User, shown: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_claim: object) -> str:
        raise RedisGone

    monkeypatch.setattr(tickets, "issue", gone)
    client.force_login(alice)
    found = steps(client, shown.pk)
    assert verdicts(found) == [False, None, None, None, None]
    assert found["ticket"]["reason"] == "unavailable"


def test_a_viewer_may_test_what_he_may_watch(client: Client, bob: User, shown: Machine) -> None:
    Membership.objects.filter(user=bob).update(role=Role.VIEWER)
    client.force_login(bob)
    assert client.get(reverse("console:selftest", args=[shown.pk])).status_code == 200
    assert verdicts(steps(client, shown.pk))[:3] == [True, True, True]


def test_charlie_cannot_test_his_way_to_a_machine_that_is_not_his(
    client: Client, charlie: User, machine: Machine
) -> None:
    client.force_login(charlie)
    for pk in (machine.pk, uuid4()):
        assert client.get(reverse("console:selftest", args=[pk])).status_code == 404
        assert client.post(reverse("console:selftest-steps", args=[pk])).status_code == 404


def test_the_steps_are_tried_by_post_with_the_csrf_token(alice: User, machine: Machine) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert strict.get(reverse("console:selftest-steps", args=[machine.pk])).status_code == 405
    assert strict.post(reverse("console:selftest-steps", args=[machine.pk])).status_code == 403


def test_a_refused_ticket_tells_an_operator_the_host_and_nobody_else(
    client: Client, alice: User, operator: User, machine: Machine
) -> None:
    Machine.objects.update(power_state=PowerState.UNKNOWN)
    for person, told in ((alice, False), (operator, True)):
        client.force_login(person)
        answer = client.post(reverse("console:ticket", args=[machine.pk])).json()
        assert (machine.host.name in answer.get("detail", "")) is told


def test_the_screens_page_names_the_host_to_an_operator_only(
    client: Client, alice: User, operator: User, machine: Machine
) -> None:
    for person, told in ((alice, False), (operator, True)):
        client.force_login(person)
        page = client.get(reverse("console:screen", args=[machine.pk])).content.decode()
        assert (f'data-host="{machine.host.name}"' in page) is told
        assert ("data-console-technical" in page) is told
