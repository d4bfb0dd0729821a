"""What only the gateway has: a process for each screen, which may be killed, orphaned, or never told what it is for."""

from __future__ import annotations

import datetime as dt
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.utils import timezone

from portal.accounts.models import User
from portal.console.limits import LEASE_S, Place
from portal.console.models import ConsoleSession
from portal.console.services import end_lost_sessions
from portal.console.tickets import SUBPROTOCOL_PREFIX
from portal.lib.store import store
from portal.machines.models import Machine
from tests.integration.console.doors.conftest import HANDSHAKE, Door, Person, eventually, running_gateway, within
from tests.integration.console.doors.screens import qemu
from tests.integration.console.doors.wire import GREETING, Closed, frame
from tests.portal.console.test_client_stream import KEY

pytestmark = [pytest.mark.django_db(transaction=True)]

SitDown = Callable[[User], Person]


@pytest.mark.parametrize("door", ["gateway"], indirect=True)
def test_what_comes_in_one_packet_with_the_request_is_not_lost(
    door: Door, alice: User, screen: Machine, sit_down: SitDown
) -> None:
    """websockify reads requests through a buffer that the stream would never look into again."""
    person = sit_down(alice)
    ticket = SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"]
    with qemu(screen.console_socket) as heard:
        wire = door.knock(person.cookie, ticket, behind=frame(GREETING) + frame(KEY))
        wire.until(HANDSHAKE + 1)
        assert bytes(heard) == KEY
        wire.leave()


@pytest.mark.parametrize("door", ["gateway"], indirect=True)
def test_a_killed_child_frees_its_place_and_the_clock_ends_its_row(
    door: Door, alice: User, screen: Machine, sit_down: SitDown
) -> None:
    with qemu(screen.console_socket) as heard:
        wire = door.enter(sit_down(alice), screen)
        (child,) = door.processes()[1:]
        os.kill(child, signal.SIGKILL)
        assert wire.closed() == Closed(1006)
        eventually(lambda: not Path(f"/proc/{child}").exists())
        session = ConsoleSession.objects.get()
        assert session.ended_at is None
        assert end_lost_sessions() == 0, "its place is held for a while: it may only be slow"
        _let_time_pass(session)
        assert end_lost_sessions() == 1
        session.refresh_from_db()
        assert (session.ended_step, session.ended_reason) == ("ended", "portal-lost")
        assert heard.visitors == 1


def _let_time_pass(session: ConsoleSession) -> None:
    """As long as a lease, without waiting for it."""
    assert session.user_id
    assert session.machine_id
    ConsoleSession.objects.update(started_at=timezone.now() - dt.timedelta(seconds=2 * LEASE_S))
    place = Place(str(session.pk), session.user_id, session.machine_id)
    for key in place.keys:
        store().zadd(key, {place.number: time.time() - 1})


@pytest.mark.parametrize("door", ["gateway"], indirect=True)
def test_who_dawdles_with_the_request_is_cut_off(door: Door) -> None:
    started = time.monotonic()
    wire = door.wire()
    wire.socket.sendall(b"GET / HTTP/1.1\r\n")
    eventually(lambda: len(door.processes()) == 2)
    assert wire.socket.recv(1) == b""
    assert time.monotonic() - started > 5
    eventually(lambda: len(door.processes()) == 1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_gateway_that_ends_ends_its_screens_and_writes_it_down(
    how: signal.Signals,
    transactional_db: None,
    redis_url: str,
    redis_db: str,
    alice: User,
    screen: Machine,
    sit_down: SitDown,
    tmp_path: Path,
) -> None:
    """Also when it is killed: its children notice that they are alone."""

    def ends() -> float:
        with running_gateway(redis_url, tmp_path) as door, qemu(screen.console_socket):
            wire = door.enter(sit_down(alice), screen)
            children = door.processes()[1:]
            os.kill(door.pid, how)
            asked_at = time.monotonic()
            assert wire.closed() == Closed(4000, "ended", "portal-stopped")
            took = time.monotonic() - asked_at
            wire.socket.close()
            eventually(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
        session = ConsoleSession.objects.get()
        assert (session.ended_step, session.ended_reason) == ("ended", "portal-stopped")
        assert "Traceback" not in door.logs()
        return took

    within(2, ends)
