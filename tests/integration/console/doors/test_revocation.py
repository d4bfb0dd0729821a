"""Row 6: a session ends within two seconds of whatever takes the right to it away, and says why."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from portal.accounts.models import User
from portal.console.models import ConsoleSession
from portal.machines.models import Machine
from tests.integration.console.doors.causes import LOSSES
from tests.integration.console.doors.conftest import Door, Person, eventually
from tests.integration.console.doors.screens import flood, qemu

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_live_session_ends_within_two_seconds(
    door: Door, bob: User, alice: User, screen: Machine, sit_down: Callable[[User], Person], loss: str
) -> None:
    """In the midst of a stream that never rests."""
    person = sit_down(bob)
    with qemu(screen.console_socket, flood):
        wire = door.enter(person, screen)
        wire.until(1_000_000)
        LOSSES[loss].happen(door, person, screen)
        lost_at = time.monotonic()
        closed = wire.closed()
        assert time.monotonic() - lost_at < 2
    assert (closed.step, 4000 <= closed.code < 5000) == (LOSSES[loss].inside, True)
    eventually(lambda: ConsoleSession.objects.exclude(ended_at=None).exists())
    session = ConsoleSession.objects.get()
    assert (session.ended_step, session.ended_reason) == (closed.step, closed.reason)
    assert session.bytes_down > 900_000
