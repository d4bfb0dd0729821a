"""Whoever came by a link, or was given a desktop, is out of its screen within two seconds of losing it."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

import pytest
from django.utils import timezone

from portal.accounts.models import User
from portal.console.models import ConsoleSession
from portal.deployments import access
from portal.deployments.models import Seat
from portal.deployments.services import remove_seat
from portal.machines.models import Grant, Machine
from tests.integration.console.doors.conftest import Door, Person, copy_of, eventually, within
from tests.integration.console.doors.screens import flood, qemu
from tests.portal.test_every_url import seat_on

pytestmark = pytest.mark.django_db(transaction=True)
DAY = dt.timedelta(days=1)


def _revoke(seat: Seat, alice: User) -> object:
    return access.revoke_link(seat, actor=alice)


def _make_another(seat: Seat, alice: User) -> object:
    return access.make_links(seat.deployment, [seat], actor=alice, lifetime=DAY)


def _remove(seat: Seat, alice: User) -> object:
    return remove_seat(seat, actor=alice)


def _expire(seat: Seat, _alice: User) -> object:
    """As the clock does it."""
    return Grant.objects.filter(machine=seat.machine_id).update(until=timezone.now())


def _disable(seat: Seat, _alice: User) -> object:
    return User.objects.filter(pk__in=[pk for pk in (seat.guest_id, seat.person_id) if pk]).update(is_active=False)


OF_LINKS = {"revoked": _revoke, "made anew": _make_another, "removed": _remove, "expired": _expire, "off": _disable}


def _row_of(seat: Seat) -> Seat:
    return Seat.objects.select_related("deployment__project", "guest", "person", "machine").get(pk=seat.pk)


def _at_the_screen(door: Door, person: Person, screen: Machine, lose: Callable[[], object]) -> str:
    """The reason for which it ended, in time."""
    reasons = []

    def ends() -> float:
        with qemu(screen.console_socket, flood):
            wire = door.enter(person, screen)
            wire.until(1_000_000)
            lose()
            lost_at = time.monotonic()
            closed = wire.closed()
            took = time.monotonic() - lost_at
        eventually(lambda: not ConsoleSession.objects.filter(ended_at=None).exists())
        assert closed.step == "revoked"
        reasons.append(closed.reason)
        return took

    within(2, ends)
    return reasons[-1]


@pytest.mark.parametrize("loss", OF_LINKS)
def test_a_guests_screen_ends_with_the_link(
    door: Door, alice: User, screen: Machine, sit_down: Callable[[User], Person], loss: str
) -> None:
    seat = seat_on(screen)
    [link] = access.make_links(seat.deployment, [seat], actor=alice, lifetime=DAY)
    assert link.seat.guest is not None
    guest = sit_down(link.seat.guest)
    reason = _at_the_screen(door, guest, screen, lambda: OF_LINKS[loss](_row_of(seat), alice))
    assert reason in ({"not-found"} if loss == "expired" else {"signed-out"})
    refused = door.ask(guest, f"/machines/{screen.pk}/console/ticket", {"mode": "view"})
    assert refused.status in {302, 404}


@pytest.mark.parametrize("loss", ["removed", "off"])
def test_the_screen_of_a_person_with_an_account_ends_with_the_seat(
    door: Door, alice: User, charlie: User, screen: Machine, sit_down: Callable[[User], Person], loss: str
) -> None:
    """Charlie is in another project, and sees this one machine of it."""
    seat = seat_on(screen)
    Seat.objects.filter(pk=seat.pk).update(person=charlie)
    access.open_desktop(_row_of(seat))
    reason = _at_the_screen(door, sit_down(charlie), screen, lambda: OF_LINKS[loss](_row_of(seat), alice))
    assert reason == ("not-found" if loss == "removed" else "signed-out")


def test_a_guest_gets_in_nowhere_else(
    door: Door, alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    seat = seat_on(screen)
    [link] = access.make_links(seat.deployment, [seat], actor=alice, lifetime=DAY)
    assert link.seat.guest is not None
    guest = sit_down(link.seat.guest)
    other = copy_of(screen, 1)
    for mode in ("view", "control"):
        assert door.ask(guest, f"/machines/{other.pk}/console/ticket", {"mode": mode}).status == 404
    # A ticket for their own screen is for nothing else either, and nobody else can use it.
    ticket = door.grant(guest, screen)["ticket"]
    assert door.refused(sit_down(alice), f"casement.ticket.{ticket}").step == "ticket"
