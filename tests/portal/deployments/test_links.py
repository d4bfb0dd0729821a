"""People without an account: what their link opens, and everything that it must not."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from django.urls import URLResolver, get_resolver, reverse
from django.utils import timezone

from portal.accounts.guests import GuestMiddleware
from portal.accounts.models import User
from portal.accounts.permissions import Role
from portal.accounts.services import add_member
from portal.audit.models import Event
from portal.console.tickets import TicketScrubber
from portal.deployments import access
from portal.deployments.models import Deployment, Seat
from portal.deployments.services import remove_seat
from portal.errors import InvalidError
from portal.machines.models import Grant, Machine
from portal.machines.states import PowerState, Status, Task
from tests.portal.deployments.conftest import seat_of

DAY = dt.timedelta(days=1)
# Where a guest gets to, beside what is for everybody.
FOR_GUESTS = {
    *("console:ticket", "console:screen", "console:selftest", "console:selftest-steps", "console:people"),
    *("console:take", "console:ask", "console:give", "console:release", "deployments:own", "deployments:own-start"),
}


def link_of(deployment: Deployment, actor: User, label: str = "Mia") -> str:
    [link] = access.make_links(deployment, [seat_of(deployment, label)], actor=actor, lifetime=DAY)
    return reverse("deployments:shared", args=[link.token])


@pytest.fixture
def mia(deployment: Deployment, alice: User) -> Client:
    """Mia's browser, after she opened her link."""
    browser = Client()
    assert browser.post(link_of(deployment, alice)).status_code == 302
    return browser


def screen(deployment: Deployment, label: str) -> str:
    machine = seat_of(deployment, label).machine
    assert machine is not None
    return reverse("console:screen", args=[machine.pk])


def test_a_link_opens_ones_own_screen(deployment: Deployment, alice: User, client: Client) -> None:
    url = link_of(deployment, alice)
    looked = client.get(url)
    assert looked.status_code == 200 and looked["Referrer-Policy"] == "strict-origin"
    assert "sessionid" not in str(client.cookies) and "casement_session" not in client.cookies
    opened = client.post(url)
    assert opened.status_code == 302 and opened["Referrer-Policy"] == "strict-origin"
    own = client.get(opened["Location"])
    assert own["Location"] == screen(deployment, "Mia")
    assert client.get(own["Location"]).status_code == 200
    event = Event.objects.get(action="deployment.link_opened")
    assert event.actor_name.startswith("mia-guest-") and url.split("/")[-2] not in repr(event.detail)


def test_looking_at_a_link_changes_nothing(deployment: Deployment, alice: User, client: Client) -> None:
    """Mail programs and chats look at what is sent to people."""
    url = link_of(deployment, alice)
    before = list(Event.objects.values_list("pk")), list(User.objects.values_list("pk", "last_login"))
    for method in (client.get, client.head):
        assert method(url).status_code == 200
    assert (list(Event.objects.values_list("pk")), list(User.objects.values_list("pk", "last_login"))) == before


def test_a_guest_sees_that_one_machine_and_no_other_page(deployment: Deployment, mia: Client, machine: Machine) -> None:
    own, noahs = seat_of(deployment, "Mia"), seat_of(deployment, "Noah")
    for label in ("Noah", "dana"):
        assert mia.get(screen(deployment, label)).status_code == 404
        ticket = reverse("console:ticket", args=[seat_of(deployment, label).machine_id])
        assert mia.post(ticket).status_code == 404
    assert mia.get(reverse("console:screen", args=[machine.pk])).status_code == 404
    assert mia.get(reverse("deployments:own", args=[noahs.pk])).status_code == 404
    assert mia.post(reverse("deployments:own-start", args=[noahs.pk])).status_code == 404
    people = mia.get(reverse("console:people", args=[own.machine_id]), headers={"HX-Request": "true"})
    assert people.status_code == 200 and b"Share this screen" not in people.content


@pytest.mark.usefixtures("redis_db")
def test_every_other_address_is_not_there_for_a_guest(deployment: Deployment, mia: Client) -> None:
    seat = seat_of(deployment, "Mia")
    reached = set()
    for name, parameters in _addresses():
        values = {one: {"token": "x", "pk": seat.machine_id}.get(one, 1) for one in parameters}
        if name.startswith("deployments:"):
            values = {
                one: seat.pk if name.split(":")[1].startswith(("seat", "own")) else deployment.pk for one in values
            }
        try:
            path = reverse(name, kwargs=values)
        except Exception:  # noqa: BLE001, S112 - an address of another kind of thing, which no machine's id fits
            continue
        for answer in (mia.get(path), mia.post(path)):
            if answer.status_code not in {404, 405, 403}:
                reached.add(name)
    public = {"accounts:login", "accounts:logout", "jsi18n", "api:openapi", "keeping:healthz", "keeping:readyz"}
    assert reached - public <= FOR_GUESTS, reached - public - FOR_GUESTS
    assert "console:screen" in reached


def _addresses() -> list[tuple[str, frozenset[str]]]:
    found = []

    def walk(resolver: URLResolver, namespace: str) -> None:
        for pattern in resolver.url_patterns:
            if isinstance(pattern, URLResolver):
                walk(pattern, pattern.namespace or namespace)
            elif pattern.name and namespace not in {"api", "admin"}:
                name = f"{namespace}:{pattern.name}" if namespace else pattern.name
                if name not in {"accounts:logout", "deployments:shared"}:
                    found.append((name, frozenset(pattern.pattern.converters)))

    walk(get_resolver(), "")
    return found


def test_the_admin_and_the_api_are_not_for_guests(mia: Client, deployment: Deployment) -> None:
    assert mia.get("/admin/").status_code in {302, 404}
    assert mia.get("/api/v1/machines").status_code == 401


@pytest.mark.parametrize("how", ["revoked", "expired", "removed", "anew", "machine", "switched-off"])
def test_an_end_of_the_link_is_the_end_of_its_sessions(
    deployment: Deployment, mia: Client, alice: User, how: str
) -> None:
    url = screen(deployment, "Mia")
    seat = seat_of(deployment, "Mia")
    assert mia.get(url).status_code == 200
    if how == "revoked":
        access.revoke_link(seat, actor=alice)
    elif how == "removed":
        remove_seat(seat, actor=alice)
    elif how == "anew":
        link_of(deployment, alice)
    elif how == "machine":
        Machine.objects.filter(seat=seat).update(status=Status.DELETED)
    elif how == "switched-off":
        User.objects.filter(guest_seat=seat).update(is_active=False)
    else:
        past = timezone.now() - dt.timedelta(seconds=1)
        Seat.objects.filter(pk=seat.pk).update(link_expires_at=past)
        Grant.objects.filter(user=seat.guest_id).update(until=past)
    assert mia.get(url).status_code in {302, 404}
    assert mia.post(url.replace("screen/", "console/ticket")).status_code in {302, 404}


def test_the_browsers_session_ends_with_the_link(mia: Client, deployment: Deployment) -> None:
    seat = seat_of(deployment, "Mia")
    assert seat.link_expires_at is not None
    assert abs(mia.session.get_expiry_date() - seat.link_expires_at) < dt.timedelta(seconds=2)


@pytest.mark.parametrize("token", ["x", "x" * 43, "%00" * 3, "../../admin"])
def test_a_made_up_link_is_none(client: Client, deployment: Deployment, token: str) -> None:
    for answer in (client.get(f"/deployments/shared/{token}/"), client.post(f"/deployments/shared/{token}/")):
        assert answer.status_code == 404
    assert not client.session.items()


def test_ones_own_account_is_not_changed_unasked(
    deployment: Deployment, alice: User, bob: User, client: Client
) -> None:
    client.force_login(bob)
    url = link_of(deployment, alice)
    assert "signed in as bob" in client.get(url).content.decode()
    assert client.get("/machines/").status_code == 200
    client.post(url)
    assert client.get("/machines/").status_code == 404, "a guest from here on"


def test_another_sites_form_signs_nobody_in(deployment: Deployment, alice: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    url = link_of(deployment, alice)
    assert browser.post(url).status_code == 403
    assert not browser.session.items()


def test_a_guest_cannot_become_anything_else(deployment: Deployment, mia: Client, alice: User) -> None:
    guest = seat_of(deployment, "Mia").guest
    assert guest is not None and not guest.has_usable_password() and not guest.is_staff
    with pytest.raises(InvalidError):
        add_member(deployment.project, actor=alice, person=guest.username, role=Role.OWNER)
    assert not mia.login(username=guest.username, password="")


def test_the_log_does_not_have_it(deployment: Deployment, alice: User) -> None:
    url = link_of(deployment, alice)
    record = logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '"GET %s HTTP/1.1" 200', (url,), None)
    TicketScrubber().filter(record)
    assert url.split("/")[-2] not in record.getMessage()


def test_who_has_an_account_signs_in_and_finds_it(
    deployment: Deployment, dana: User, emil: User, client: Client
) -> None:
    client.force_login(dana)
    page = client.get(reverse("deployments:list")).content.decode()
    seat = seat_of(deployment, "dana")
    own = reverse("deployments:own", args=[seat.pk])
    assert own in page and "lab-2" not in page
    assert client.get(own)["Location"] == screen(deployment, "dana")
    assert client.get(screen(deployment, "emil@example.org")).status_code == 404
    for name in ("detail", "links", "people"):
        assert client.get(reverse(f"deployments:{name}", args=[deployment.pk])).status_code == 404
    client.force_login(emil)
    assert client.get(own).status_code == 404


def test_ones_own_desktop_says_what_is_waited_for(deployment: Deployment, dana: User, client: Client) -> None:
    client.force_login(dana)
    seat = seat_of(deployment, "dana")
    own = reverse("deployments:own", args=[seat.pk])
    states: list[tuple[dict[str, Any], str]] = [
        ({"power_state": PowerState.SHUT_OFF, "console_socket": ""}, "Your desktop is switched off."),
        ({"status": Status.BUILDING, "task": Task.BUILDING}, "is being made"),
        ({"status": Status.READY, "task": Task.STARTING}, "One moment"),
        ({"task": Task.NONE, "power_state": PowerState.UNKNOWN}, "switched off"),
        ({"status": Status.ERROR}, "could not be made"),
        ({"status": Status.DELETED}, "no desktop for you yet"),
    ]
    for values, words in states:
        Machine.objects.filter(seat=seat).update(**values)
        page = client.get(own)
        assert page.status_code == 200 and words in page.content.decode(), (values, words)
    Machine.objects.filter(seat=seat).update(status=Status.READY, power_state=PowerState.RUNNING, console_socket="/x")
    assert client.get(own, headers={"HX-Request": "true"})["HX-Redirect"] == screen(deployment, "dana")


def test_the_middleware_is_on() -> None:
    assert f"{GuestMiddleware.__module__}.{GuestMiddleware.__name__}" in settings.MIDDLEWARE
