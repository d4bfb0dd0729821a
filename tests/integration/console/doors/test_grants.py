"""A grant of one machine lets a stranger work on its screen, and on nothing else; taken away, it is over within 2 s."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable

import pytest
from django.utils import timezone

from portal.accounts.models import User
from portal.console.models import ConsoleSession
from portal.console.tickets import SUBPROTOCOL_PREFIX, Claim, Mode, issue, session_hash
from portal.machines.models import Grant, Machine
from portal.pools import broker
from portal.pools.models import Desktop, Pool, Session
from portal.pools.states import DesktopState, EndReason
from tests.integration.console.doors.conftest import Door, Person, copy_of, eventually, session_key, within
from tests.integration.console.doors.screens import flood, qemu
from tests.integration.console.doors.test_revocation import KEY_OF_BOB
from tests.portal.console.test_client_stream import UPDATE

pytestmark = pytest.mark.django_db(transaction=True)

SitDown = Callable[[User], Person]


def _grant_deleted(session: Session) -> None:
    Grant.objects.all().delete()


def _grant_ran_out(session: Session) -> None:
    Grant.objects.update(until=timezone.now())


def _signed_out(session: Session) -> None:
    assert broker.sign_out(session, EndReason.OPERATOR)


def _disconnected(session: Session) -> None:
    assert broker.disconnect(session)


@pytest.fixture
def session(screen: Machine, charlie: User) -> Session:
    """Charlie, who is a stranger to the project, has the machine from a pool."""
    assert screen.image_version is not None and screen.flavour is not None
    version, now = screen.image_version, timezone.now()
    pool = Pool.objects.create(
        name="lab", title="Lab", project=screen.project, image_version=version, flavour=screen.flavour
    )
    pool.entitlements.create(user=charlie)
    Desktop.objects.create(
        pool=pool, number=1, machine=screen, image_version=version, state=DesktopState.SPARE, state_since=now
    )
    session = broker.ask(pool, charlie).session
    assert session is not None
    return session


@pytest.mark.parametrize("loss", [_grant_deleted, _grant_ran_out, _signed_out, _disconnected])
def test_a_live_screen_ends_within_two_seconds(
    door: Door,
    charlie: User,
    screen: Machine,
    session: Session,
    sit_down: SitDown,
    loss: Callable[[Session], None],
) -> None:
    person = sit_down(charlie)

    def ends() -> float:
        with qemu(screen.console_socket, flood):
            wire = door.enter(person, screen)
            wire.until(1_000_000)
            loss(Session.objects.select_related("pool", "desktop__pool", "person").get(pk=session.pk))
            lost_at = time.monotonic()
            closed = wire.closed()
            took = time.monotonic() - lost_at
        assert closed.step == "revoked"
        eventually(lambda: ConsoleSession.objects.exclude(ended_at=None).exists())
        return took

    within(2, ends)


def test_what_is_typed_reaches_the_machine_and_is_noted(
    door: Door, charlie: User, screen: Machine, session: Session, sit_down: SitDown
) -> None:
    with qemu(screen.console_socket) as heard:
        wire = door.enter(sit_down(charlie), screen)
        wire.send(KEY_OF_BOB + UPDATE)
        eventually(lambda: bytes(heard) == KEY_OF_BOB + UPDATE)
        eventually(lambda: ConsoleSession.objects.exclude(last_input_at=None).exists())


def test_nothing_but_this_one_screen(
    door: Door, charlie: User, alice: User, screen: Machine, session: Session, sit_down: SitDown
) -> None:
    person, other = sit_down(charlie), copy_of(screen, 7)
    assert door.ask(person, f"/machines/{other.pk}/console/ticket", {"mode": "control"}).status == 404
    claim = Claim(charlie.pk, session_hash(session_key(person)), other.pk, Mode.CONTROL)
    assert door.refused(person, SUBPROTOCOL_PREFIX + issue(claim)).step == "permission"
    for path in ("start/", "stop/", "delete/", "password/", "rename/"):
        assert door.ask(person, f"/machines/{screen.pk}/{path}", {}).status in {403, 404, 405}
    assert door.ask(person, f"/machines/{screen.pk}/").status == 200
    assert "beacon" not in door.ask(person, "/machines/").text


@pytest.mark.parametrize("loss", [_grant_deleted, _grant_ran_out, _signed_out])
def test_a_ticket_that_was_given_before_opens_nothing(
    door: Door,
    charlie: User,
    screen: Machine,
    session: Session,
    sit_down: SitDown,
    loss: Callable[[Session], None],
) -> None:
    person = sit_down(charlie)
    ticket = door.grant(person, screen)["ticket"]
    loss(session)
    assert door.refused(person, SUBPROTOCOL_PREFIX + ticket).step == "permission"
    assert door.ask(person, f"/machines/{screen.pk}/console/ticket", {"mode": "control"}).status == 404


def test_a_grant_with_an_end_holds_until_then(
    door: Door, charlie: User, screen: Machine, session: Session, sit_down: SitDown
) -> None:
    Grant.objects.update(until=timezone.now() + dt.timedelta(minutes=5))
    assert door.grant(sit_down(charlie), screen)["ticket"]
