"""Who gets a ticket, in which mode, and what a refusal says. Charlie gets the 404 of nothing at all (row 14)."""

from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Role
from portal.console.admission import Admitted, Standing, standings
from portal.console.models import ScreenControl
from portal.console.selectors import Target
from portal.console.tickets import Claim, Mode, session_hash
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status

pytestmark = pytest.mark.usefixtures("redis_db")


def ticket_url(pk: UUID) -> str:
    return reverse("console:ticket", args=[pk])


@pytest.mark.parametrize(("role", "mode"), [(Role.OWNER, "control"), (Role.MEMBER, "control"), (Role.VIEWER, "view")])
def test_a_role_gives_its_mode(client: Client, bob: User, machine: Machine, role: Role, mode: str) -> None:
    Membership.objects.filter(user=bob).update(role=role)
    client.force_login(bob)
    answer = client.post(ticket_url(machine.pk))
    assert answer.status_code == 200
    assert answer.json()["mode"] == mode
    assert answer.json()["path"] == "/ws/console/"
    assert answer["Cache-Control"].startswith("max-age=0, no-cache, no-store")


def test_watching_can_be_asked_for_by_who_may_do_more(client: Client, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    assert client.post(ticket_url(machine.pk), {"mode": "view"}).json()["mode"] == "view"


def test_a_viewer_who_asks_for_control_gets_to_watch(client: Client, vera: User, machine: Machine) -> None:
    client.force_login(vera)
    assert client.post(ticket_url(machine.pk), {"mode": "control"}).json()["mode"] == "view"


def test_the_ticket_is_in_no_address(client: Client, alice: User, machine: Machine) -> None:
    client.force_login(alice)
    answer = client.post(ticket_url(machine.pk)).json()
    assert answer["ticket"] not in answer["path"]
    assert "?" not in answer["path"]


def test_charlie_cannot_tell_the_machine_from_one_that_does_not_exist(
    client: Client, charlie: User, machine: Machine
) -> None:
    client.force_login(charlie)
    foreign, missing = client.post(ticket_url(machine.pk)), client.post(ticket_url(uuid4()))
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json() == missing.json()
    assert foreign.json()["step"] == "permission"


def test_nobody_gets_a_ticket_without_signing_in(client: Client, machine: Machine) -> None:
    assert client.post(ticket_url(machine.pk)).status_code == 302


def test_a_ticket_is_asked_for_by_post_and_with_the_csrf_token(alice: User, machine: Machine) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(alice)
    assert strict.get(ticket_url(machine.pk)).status_code == 405
    assert strict.post(ticket_url(machine.pk)).status_code == 403


@pytest.mark.parametrize(
    ("power", "socket", "step"),
    [
        (PowerState.SHUT_OFF, "", "machine-off"),
        (PowerState.RUNNING, "", "machine-off"),
        (PowerState.UNKNOWN, "/nowhere/vnc.sock", "host"),
    ],
)
def test_a_refusal_names_the_step_and_the_remedy(
    client: Client, alice: User, machine: Machine, power: PowerState, socket: str, step: str
) -> None:
    Machine.objects.update(power_state=power, console_socket=socket)
    client.force_login(alice)
    answer = client.post(ticket_url(machine.pk))
    assert answer.status_code == 409
    assert answer.json()["step"] == step
    assert answer.json()["message"].endswith(".")


def test_a_deleted_machine_has_no_screen(client: Client, alice: User, machine: Machine) -> None:
    Machine.objects.update(status=Status.DELETED)
    client.force_login(alice)
    assert client.post(ticket_url(machine.pk)).status_code == 404


def test_the_screen_in_a_tab_of_its_own_offers_to_start_the_machine_to_who_may(
    client: Client, bob: User, vera: User, machine: Machine
) -> None:
    start = reverse("machines:start", args=[machine.pk])
    for person, offered in ((bob, True), (vera, False)):
        client.force_login(person)
        page = client.get(reverse("console:screen", args=[machine.pk])).content.decode()
        assert (start in page) is offered
        assert reverse("console:ticket", args=[machine.pk]) in page


def test_charlie_gets_no_page_for_the_screen(client: Client, charlie: User, machine: Machine) -> None:
    client.force_login(charlie)
    assert client.get(reverse("console:screen", args=[machine.pk])).status_code == 404


def test_a_machines_name_is_text_on_the_page(client: Client, alice: User, machine: Machine) -> None:
    """Row 12; a name like this cannot be typed in, but it must do no harm if it were there."""
    Machine.objects.update(name='"><img src=x onerror=1>')
    client.force_login(alice)
    page = client.get(reverse("console:screen", args=[machine.pk])).content.decode()
    assert "<img src=x" not in page


def test_looking_after_fifty_sessions_takes_the_queries_of_one(
    client: Client, bob: User, machine: Machine, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    client.force_login(bob)
    key = client.session.session_key or ""
    target = Target(bob, machine, machine.console_socket, "")
    sessions = [Admitted(key, Claim(bob.pk, session_hash(key), machine.pk, Mode.CONTROL), target) for _ in range(50)]
    ScreenControl.objects.create(machine=machine, user=bob, since=timezone.now())
    with django_assert_max_num_queries(6):
        found = standings(sessions)
    assert found == {session.number: Standing(None, view_only=False) for session in sessions}
