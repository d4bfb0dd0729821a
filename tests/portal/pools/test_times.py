"""Idle, warned, disconnected, signed out; each with its own time, and 0 is never."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from uuid import uuid4

import pytest
from django.utils import timezone

from portal.accounts.models import User
from portal.console.models import ConsoleSession
from portal.figures.memory import Memory, record_memory
from portal.machines.models import Machine
from portal.parents.models import Parent
from portal.pools import broker, inside, keeping_time, selectors
from portal.pools.models import Pool, Session
from portal.pools.states import EndReason, SessionState
from tests.portal.pools.conftest import Look
from tests.portal.pools.test_broker import taken_by
from tests.support.redis import redis_db, redis_url
from tests.workers.support import fake_of
from workers import look_inside
from workers.hypervisor.errors import HostUnreachableError
from workers.hypervisor.types import CommandResult

__all__ = ["redis_db", "redis_url"]

pytestmark = pytest.mark.django_db

MakePool = Callable[..., Pool]
Start = Callable[..., Session]


def ago(seconds: float) -> dt.datetime:
    return timezone.now() - dt.timedelta(seconds=seconds)


@pytest.fixture
def start(make_pool: MakePool, look: Look, alice: User) -> Start:
    """Alice's session in a pool with these times; it began an hour ago."""

    def begin(**times: int) -> Session:
        pool = look(make_pool(entitled=(alice,), spare=1, maximum=2, **times))
        session = taken_by(broker.ask(pool, alice))
        Session.objects.update(asked_at=ago(3602), started_at=ago(3600), last_active_at=ago(3600))
        session.refresh_from_db()
        return session

    return begin


def open_screen(session: Session, *, seconds_ago: float = 1, person: User | None = None) -> ConsoleSession:
    screen = ConsoleSession.objects.create(
        id=uuid4(), user=person or session.person, machine=session.machine, mode=ConsoleSession.Mode.CONTROL
    )
    ConsoleSession.objects.filter(pk=screen.pk).update(started_at=ago(seconds_ago))
    return screen


def kept(session: Session) -> Session:
    keeping_time.keep()
    session.refresh_from_db()
    return session


def test_without_times_nothing_ever_ends(start: Start) -> None:
    session = start()
    open_screen(session, seconds_ago=3599)
    assert kept(session).state == SessionState.ACTIVE and session.warned_at is None
    ConsoleSession.objects.update(ended_at=ago(3000))
    assert kept(session).state == SessionState.DISCONNECTED
    Session.objects.update(disconnected_at=ago(10**6))
    assert kept(session).is_live


def test_idle_warned_disconnected_signed_out(start: Start) -> None:
    session = start(idle_warn_s=600, idle_disconnect_s=120, idle_sign_out_s=900)
    screen = open_screen(session, seconds_ago=3599)
    Session.objects.update(last_active_at=ago(540))
    assert kept(session).warned_at is None
    Session.objects.update(last_active_at=ago(601))
    assert kept(session).warned_at is not None
    assert kept(session).state == SessionState.ACTIVE, "they have two minutes"
    Session.objects.update(warned_at=ago(121))
    assert kept(session).state == SessionState.DISCONNECTED
    screen.refresh_from_db()
    assert screen.end_ordered_by == session.pool.title
    assert kept(session).state == SessionState.DISCONNECTED
    Session.objects.update(disconnected_at=ago(901))
    assert kept(session).end_reason == EndReason.IDLE


def test_what_is_typed_takes_the_warning_back(start: Start) -> None:
    session = start(idle_warn_s=600, idle_disconnect_s=120)
    open_screen(session, seconds_ago=3599)
    assert kept(session).warned_at is not None
    ConsoleSession.objects.update(last_input_at=ago(3))
    assert kept(session).warned_at is None
    assert (timezone.now() - session.last_active_at).total_seconds() < 60
    Session.objects.update(last_active_at=ago(700), warned_at=ago(60))
    session.refresh_from_db()
    broker.touch(session)
    session.refresh_from_db()
    assert session.warned_at is None and kept(session).state == SessionState.ACTIVE


def test_somebody_elses_typing_is_no_sign_of_life(start: Start, operator: User) -> None:
    session = start(idle_warn_s=600)
    open_screen(session, seconds_ago=3599)
    theirs = open_screen(session, seconds_ago=3599, person=operator)
    ConsoleSession.objects.filter(pk=theirs.pk).update(last_input_at=timezone.now())
    assert kept(session).warned_at is not None


def test_without_a_warning_the_disconnect_counts_from_the_last_sign_of_life(start: Start) -> None:
    session = start(idle_disconnect_s=300)
    open_screen(session, seconds_ago=3599)
    Session.objects.update(last_active_at=ago(240))
    assert kept(session).state == SessionState.ACTIVE
    Session.objects.update(last_active_at=ago(301))
    assert kept(session).state == SessionState.DISCONNECTED


def test_closing_the_tab_disconnects_and_coming_back_is_the_same_session(start: Start) -> None:
    session = start(idle_sign_out_s=900)
    screen = open_screen(session, seconds_ago=600)
    assert kept(session).state == SessionState.ACTIVE
    ConsoleSession.objects.filter(pk=screen.pk).update(ended_at=ago(1))
    assert kept(session).state == SessionState.ACTIVE, "the page may only be loaded anew"
    ConsoleSession.objects.filter(pk=screen.pk).update(ended_at=ago(15))
    assert kept(session).state == SessionState.DISCONNECTED
    open_screen(session)
    assert kept(session).state == SessionState.ACTIVE and session.disconnected_at is None


def test_who_never_came_is_not_there(start: Start) -> None:
    assert kept(start()).state == SessionState.DISCONNECTED


def test_the_longest_session_ends_whatever_is_done_in_it(start: Start) -> None:
    session = start(limit_s=3700)
    open_screen(session, seconds_ago=3599)
    assert kept(session).is_live
    Session.objects.update(started_at=ago(3701))
    assert kept(session).end_reason == EndReason.TIME_LIMIT


def test_the_time_to_the_screen_is_that_of_the_first(start: Start) -> None:
    session = start()
    for after in (4, 3580):
        screen = open_screen(session)
        ConsoleSession.objects.filter(pk=screen.pk).update(started_at=session.asked_at + dt.timedelta(seconds=after))
    assert kept(session).on_screen_at is not None
    assert selectors.pool_page(session.pool).screen_p50_s == pytest.approx(4)
    before = session.on_screen_at
    broker.shown(session)
    session.refresh_from_db()
    assert session.on_screen_at == before


def test_the_pool_page_tells_of_memory_what_each_has_and_what_they_share(
    make_pool: MakePool, look: Look, redis_db: str
) -> None:
    pool = look(make_pool(spare=3, maximum=3))
    assert selectors.pool_page(pool).memory_own_mib is None
    first, second, third = Machine.objects.filter(desktop__pool=pool)
    Machine.objects.filter(pk=third.pk).update(parent=None)
    parent = Parent.objects.get()
    Machine.objects.exclude(pk=third.pk).update(parent=parent)
    told = {first.pk: Memory(100 << 20, 600 << 20), second.pk: Memory(120 << 20, 500 << 20)}
    record_memory(first.host_id, told)
    page = selectors.pool_page(pool)
    assert (page.memory_own_mib, page.memory_each_mib, page.memory_shared_mib) == (220, 110, 600)
    # One that was booted shares what its program is read from, and nothing that counts.
    record_memory(first.host_id, {**told, third.pk: Memory(1000 << 20, 30 << 20)})
    page = selectors.pool_page(pool)
    assert (page.memory_own_mib, page.memory_shared_mib) == (1220, 600)


# --- inside ----------------------------------------------------------------------------------------------------------

SIGNED_IN = b"/run/systemd/sessions/c1:SEAT=seat0\n/run/systemd/sessions/c1:CLASS=user\n"
GREETER = b"/run/systemd/sessions/c2:SEAT=seat0\n"
BY_SSH = b"/run/systemd/sessions/7:CLASS=user\n"
IN_AGAIN = b"/run/systemd/sessions/c3:CLASS=user\n/run/systemd/sessions/c3:SEAT=seat0\n"


def say(session: Session, printed: bytes, exit_code: int = 0) -> Session:
    machine = session.machine
    assert machine is not None

    def run(argv: tuple[str, ...], _stdin: bytes) -> CommandResult:
        assert argv == look_inside.ASK
        return CommandResult(exit_code, printed, b"")

    fake_of(machine.host).guest(machine.pk).run = run
    assert inside.hosts_to_ask() == [machine.host_id]
    look_inside.look_on_host(machine.host_id)
    session.refresh_from_db()
    return session


@pytest.mark.parametrize("afterwards", [b"", GREETER, GREETER + BY_SSH, IN_AGAIN])
def test_signing_out_inside_ends_the_session(start: Start, afterwards: bytes) -> None:
    session = start()
    assert say(session, SIGNED_IN + BY_SSH).is_live
    assert say(session, BY_SSH + SIGNED_IN).is_live
    assert say(session, afterwards, int(not afterwards)).end_reason == EndReason.SIGNED_OUT_INSIDE


def test_where_nobody_was_seen_nothing_ends(start: Start) -> None:
    session = start()
    assert say(session, b"", 1).is_live
    assert say(session, GREETER).is_live
    assert say(session, b"grep: no such thing", 2).is_live
    assert say(session, SIGNED_IN).is_live
    assert say(session, b"", 2).is_live, "it could not be told"


def test_a_guest_or_host_that_is_silent_has_said_nothing(start: Start) -> None:
    session = start()
    say(session, SIGNED_IN)
    assert session.machine is not None
    fake = fake_of(session.machine.host)
    fake.guest(session.machine.pk).has_agent = False
    look_inside.look_on_host(session.machine.host_id)
    fake.fail_next("run_in_guest", HostUnreachableError("It is away."))
    look_inside.look_on_host(session.machine.host_id)
    session.refresh_from_db()
    assert session.is_live and session.seen_inside == "c1"
