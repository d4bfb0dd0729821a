"""Row 6: a session ends within two seconds of whatever takes the right to it away, and says why."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from portal.accounts.models import User
from portal.console import control
from portal.console.models import ConsoleSession
from portal.machines.models import Machine
from tests.integration.console.doors.causes import LOSSES
from tests.integration.console.doors.conftest import Door, Person, eventually, within
from tests.integration.console.doors.screens import flood, qemu
from tests.portal.console.test_client_stream import UPDATE

KEY_OF_BOB, KEY_OF_ALICE = (b"\x04\x01\0\0\0\0\0" + letter for letter in (b"b", b"a"))
BOB_LETS_GO = b"\x04\x00\0\0\0\0\0b"

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_live_session_ends_within_two_seconds(
    door: Door, bob: User, alice: User, screen: Machine, sit_down: Callable[[User], Person], loss: str
) -> None:
    """In the midst of a stream that never rests."""
    person = sit_down(bob)

    def ends() -> float:
        with qemu(screen.console_socket, flood):
            wire = door.enter(person, screen)
            wire.until(1_000_000)
            LOSSES[loss].happen(door, person, screen)
            lost_at = time.monotonic()
            closed = wire.closed()
            took = time.monotonic() - lost_at
        assert (closed.step, 4000 <= closed.code < 5000) == (LOSSES[loss].inside, True)
        eventually(lambda: ConsoleSession.objects.exclude(ended_at=None).exists())
        session = ConsoleSession.objects.get()
        assert (session.ended_step, session.ended_reason) == (closed.step, closed.reason)
        assert session.bytes_down > 900_000
        return took

    within(2, ends)


def test_who_loses_control_holds_nothing_down_and_types_no_more_within_two_seconds(
    door: Door, alice: User, bob: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    people = [sit_down(bob), sit_down(alice)]

    def lets_go() -> float:
        with qemu(screen.console_socket) as heard:
            bobs, alices = [door.enter(person, screen) for person in people]
            alices.send(KEY_OF_ALICE + UPDATE)
            eventually(lambda: bytes(heard) == UPDATE)
            bobs.send(KEY_OF_BOB)
            eventually(lambda: bytes(heard) == UPDATE + KEY_OF_BOB)
            control.take(screen, actor=alice)
            taken_at = time.monotonic()
            eventually(lambda: bytes(heard).endswith(BOB_LETS_GO))
            took = time.monotonic() - taken_at
            bobs.send(KEY_OF_BOB + UPDATE)
            eventually(lambda: bytes(heard).endswith(BOB_LETS_GO + UPDATE))

            def alice_types() -> bool:
                alices.send(KEY_OF_ALICE)
                return heard.find(KEY_OF_ALICE) >= 0

            # Her process hears of it within a second, as his did.
            eventually(alice_types)
            bobs.leave()
            alices.leave()
        assert heard.count(KEY_OF_BOB) == 1
        return took

    within(2, lets_go)
