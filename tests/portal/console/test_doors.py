"""The screen's page brings its ticket: for whom, in which mode, and that nobody keeps it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Role
from portal.console import tickets
from portal.console.tickets import session_hash
from portal.machines.models import Machine
from portal.machines.states import PowerState

pytestmark = pytest.mark.usefixtures("redis_db")


def brought(answer: Any) -> dict[str, str]:
    found = re.search(r'<meta name="casement-door" content="([^"]*)">', answer.content.decode())
    grant: dict[str, str] = json.loads(html.unescape(found[1])) if found else {}
    return grant


def screen(client: Client, machine: Machine, query: str = "") -> Any:
    answer = client.get(reverse("console:screen", args=[machine.pk]) + query)
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    return answer


@pytest.mark.parametrize(
    ("role", "query", "mode"),
    [(Role.MEMBER, "", "control"), (Role.MEMBER, "?watch=1", "view"), (Role.VIEWER, "", "view")],
)
def test_it_is_this_browsers_and_of_the_mode_that_may_be(
    client: Client, bob: User, machine: Machine, role: Role, query: str, mode: str
) -> None:
    Membership.objects.filter(user=bob).update(role=role)
    client.force_login(bob)
    grant = brought(screen(client, machine, query))
    assert (grant["machine"], grant["path"], grant["mode"]) == (str(machine.pk), "/ws/console/", mode)
    claim = tickets.redeem(grant["ticket"])
    assert claim is not None
    assert (claim.user_id, claim.machine_id, claim.mode) == (bob.pk, machine.pk, mode)
    assert claim.session == session_hash(client.session.session_key)


def test_of_a_machine_that_is_off_there_is_none(client: Client, alice: User, machine: Machine) -> None:
    Machine.objects.update(power_state=PowerState.SHUT_OFF, console_socket="")
    client.force_login(alice)
    answer = screen(client, machine)
    assert brought(answer) == {}
    assert "js/door.js" not in answer.content.decode()


def test_without_redis_the_page_is_there_and_asks_itself(
    client: Client, alice: User, machine: Machine, settings: Settings, tmp_path: Path
) -> None:
    client.force_login(alice)
    settings.REDIS_URL = f"unix://{tmp_path}/none.sock"
    assert brought(screen(client, machine)) == {}


@pytest.mark.parametrize(("role", "mode"), [(Role.MEMBER, "control"), (Role.VIEWER, "view")])
def test_a_machines_page_brings_it_with_the_screen_and_once(
    client: Client, bob: User, machine: Machine, role: Role, mode: str
) -> None:
    """While the screen is there it is not brought again: each ticket would be one more that lies about."""
    Membership.objects.filter(user=bob).update(role=role)
    client.force_login(bob)
    address = reverse("machines:detail", args=[machine.pk])
    answer = client.get(address)
    assert "no-store" in answer["Cache-Control"]
    grant = brought(answer)
    assert (grant["machine"], grant["mode"]) == (str(machine.pk), mode)
    claim = tickets.redeem(grant["ticket"])
    assert claim is not None
    assert (claim.user_id, claim.session) == (bob.pk, session_hash(client.session.session_key))
    there = re.search('id="stage-is" name="stage" value="([^"]*)"', answer.content.decode())
    assert there is not None
    again = client.get(address, {"stage": there[1]}, headers={"HX-Request": "true", "Casement-Live": "true"})
    assert again.status_code == 200
    assert brought(again) == {}


def test_a_machines_page_without_a_screen_brings_none(client: Client, alice: User, machine: Machine) -> None:
    Machine.objects.update(power_state=PowerState.SHUT_OFF, console_socket="")
    client.force_login(alice)
    assert brought(client.get(reverse("machines:detail", args=[machine.pk]))) == {}
