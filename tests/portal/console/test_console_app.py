"""The WebSocket's door, attacked: foreign pages, stolen tickets, lost rights, full houses, hostile displays."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Role
from portal.audit.models import Event
from portal.console import control, services, tickets
from portal.console import watch as watch_module
from portal.console.admission import Admitted, Standing, standings
from portal.console.consumers import console_app
from portal.console.models import ConsoleLink, ConsoleSession, ScreenControl
from portal.console.tickets import SUBPROTOCOL_PREFIX, Claim, Mode
from portal.console.watch import WATCH_S
from portal.lib.secrets import seal
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from tests.portal.console.displays import display_at, greet, server_init
from tests.portal.console.test_client_stream import KEY, KEY_UP, UPDATE
from tests.support.websocket import WebsocketCommunicator

# Channels closes connections around its database work, which a test inside a transaction would not survive.
pytestmark = [pytest.mark.usefixtures("redis_db"), pytest.mark.django_db(transaction=True)]

HOST = b"localhost:8000"
ORIGIN = b"http://localhost:8000"
SECRET = "s3cr3t"
UNTIL_S = 60
HANDSHAKE = 12 + 2 + 4 + 24 + len("beacon")


@dataclass
class Person:
    """Somebody with a browser: who it is, and the session that the browser's cookie names."""

    user: User
    session_key: str

    def ticket(self, machine: Machine, mode: Mode = Mode.CONTROL) -> str:
        return tickets.issue(Claim(self.user.pk, tickets.session_hash(self.session_key), machine.pk, mode))


@pytest.fixture
def sit_down() -> Callable[[User], Person]:
    def sit_down(user: User) -> Person:
        client = Client()
        client.force_login(user)
        return Person(user, client.session.session_key or "")

    return sit_down


@pytest.fixture
def screen(machine: Machine, socket_path: str) -> Machine:
    """Alice's machine, with a display behind it that counts as QEMU's."""
    machine.console_socket, machine.console_secret = socket_path, seal(SECRET)
    machine.save()
    return machine


class Heard(bytearray):
    """What the display was told after its handshake."""


@asynccontextmanager
async def qemu(path: str) -> AsyncIterator[Heard]:
    heard = Heard()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=SECRET)
        writer.write(server_init(b"<b>guest</b>"))
        while data := await reader.read(4096):
            heard.extend(data)
            writer.write(b"!")

    async with display_at(path, talk):
        yield heard


class Tab:
    """A browser tab: `open` knocks, the rest talks RFB."""

    def __init__(self, person: Person | None, *subprotocols: str, origin: bytes | None = ORIGIN) -> None:
        headers = [(b"host", HOST)] + ([(b"origin", origin)] if origin is not None else [])
        self.socket = WebsocketCommunicator(console_app, "/ws/console/", headers, ["binary", *subprotocols])
        self.socket.scope["session"] = _Cookie(person.session_key if person else None)
        self.socket.scope["client"] = ["192.0.2.7", 4711]
        self.received = bytearray()

    async def open(self) -> bool:
        accepted, chosen = await self.socket.connect(timeout=UNTIL_S)
        assert not accepted or chosen == "binary", "the ticket must not be echoed as the chosen subprotocol"
        return accepted

    async def greet(self) -> None:
        await self.socket.send_to(bytes_data=b"RFB 003.008\n\x01\x01")
        await self.until(HANDSHAKE)

    async def until(self, size: int) -> None:
        while len(self.received) < size:
            self.received += (await self._output())["bytes"]

    async def closed(self, seconds: float = UNTIL_S) -> dict[str, str]:
        """The step and reason of the close that must come."""
        while (message := await self._output(seconds))["type"] == "websocket.send":
            self.received += message["bytes"]
        assert 4000 <= message["code"] < 5000
        assert len(message["reason"].encode()) <= 123
        return {**json.loads(message["reason"]), "code": message["code"]}

    async def leave(self) -> None:
        await self.socket.disconnect()

    async def _output(self, seconds: float = UNTIL_S) -> dict[str, Any]:
        message: dict[str, Any] = await self.socket.receive_output(timeout=seconds)
        return message


@dataclass
class _Cookie:
    """What Channels' session middleware makes of the cookie; the application reads its key and nothing else."""

    session_key: str | None


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a scene so that its database work happens in this thread, where the test's fixtures did theirs."""
    async_to_sync(scene)()


async def in_db(work: Callable[[], Any]) -> Any:
    return await database_sync_to_async(work)()


@pytest.fixture
def watch_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """The seconds that the watch has slept, which are the portal's doing; how busy this machine is is not."""
    looks = 0

    def counted(admitted: Sequence[Admitted]) -> dict[UUID, Standing]:
        nonlocal looks
        looks += 1
        return standings(admitted)

    monkeypatch.setattr(watch_module, "standings", counted)
    return lambda: looks * WATCH_S


async def refused(person: Person | None, *subprotocols: str) -> dict[str, str]:
    tab = Tab(person, *subprotocols)
    assert await tab.open()
    return await tab.closed()


# --- getting in ----------------------------------------------------------------------------------------------------


def test_alice_works_on_her_screen_and_it_is_on_record(
    alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    person = sit_down(alice)

    async def scene() -> None:
        async with qemu(screen.console_socket) as heard:
            tab = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            assert await tab.open()
            await tab.greet()
            await tab.socket.send_to(bytes_data=UPDATE + KEY)
            await tab.until(HANDSHAKE + 1)
            await tab.leave()
        assert bytes(heard) == UPDATE + KEY + KEY_UP, "what she holds down is let go when she leaves"
        assert b"guest" not in tab.received
        assert tab.received[18 + 24 :].startswith(b"beacon")

    play(scene)
    session = ConsoleSession.objects.get()
    assert (session.user, session.machine, session.mode) == (alice, screen, "control")
    assert (session.request_ip, session.bytes_up) == ("192.0.2.7", len(UPDATE + KEY))
    assert (session.ended_step, session.ended_reason) == ("ended", "browser-gone")
    assert session.ended_at is not None
    event = Event.objects.get(action="console.open")
    assert (event.actor, event.target_id, event.request_ip) == (alice, str(screen.pk), "192.0.2.7")


def test_a_watcher_s_keys_stop_at_the_relay(vera: User, screen: Machine, sit_down: Callable[[User], Person]) -> None:
    """Row 15: whatever her browser sends, the machine hears nothing but requests for pictures."""
    person = sit_down(vera)

    async def scene() -> None:
        async with qemu(screen.console_socket) as heard:
            tab = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen, Mode.VIEW))
            assert await tab.open()
            await tab.greet()
            await tab.socket.send_to(bytes_data=KEY * 20 + UPDATE + KEY * 20)
            await tab.until(HANDSHAKE + 1)
            await tab.leave()
        assert bytes(heard) == UPDATE

    play(scene)


# --- row 5: pages of other sites -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin",
    [
        None,
        b"null",
        b"",
        b"http://evil.example",
        b"http://localhost:8000.evil.example",
        b"http://localhost:8001",
        b"http://localhost",
        b"http://evil.example/http://localhost:8000",
        b"http://localhost:8000@evil.example",
        b"file://localhost:8000",
    ],
)
def test_a_page_of_another_site_is_turned_away_and_its_ticket_is_not_even_spent(
    alice: User, screen: Machine, sit_down: Callable[[User], Person], origin: bytes | None
) -> None:
    person = sit_down(alice)
    ticket = SUBPROTOCOL_PREFIX + person.ticket(screen)

    async def scene() -> None:
        assert not await Tab(person, ticket, origin=origin).open()
        async with qemu(screen.console_socket):
            own = Tab(person, ticket)
            assert await own.open()
            await own.greet()
            await own.leave()

    play(scene)


def test_a_host_that_is_not_ours_is_no_host_even_if_the_origin_agrees(settings: Settings) -> None:
    """DNS rebinding: the attacker's name points to the portal, so Origin and Host are equal."""
    settings.ALLOWED_HOSTS = ["desktops.example.org"]
    settings.CSRF_TRUSTED_ORIGINS = []

    async def scene() -> None:
        assert not await Tab(None).open()

    play(scene)


def test_a_page_without_tls_does_not_reach_a_socket_with_it(settings: Settings) -> None:
    settings.CSRF_TRUSTED_ORIGINS = []

    async def scene() -> None:
        tab = Tab(None)
        tab.socket.scope["scheme"] = "wss"
        assert not await tab.open()

    play(scene)


# --- rows 1, 3, 4, 7: tickets that do not fit ----------------------------------------------------------------------


def test_no_ticket_or_a_made_up_one_opens_nothing(
    alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    person = sit_down(alice)

    async def scene() -> None:
        assert await refused(person) == {"step": "ticket", "reason": "missing", "code": 4401}
        made_up = await refused(person, f"{SUBPROTOCOL_PREFIX}{screen.pk}")
        assert made_up == {"step": "ticket", "reason": "unknown", "code": 4401}

    play(scene)
    assert not ConsoleSession.objects.exists()


def test_a_ticket_works_once(alice: User, screen: Machine, sit_down: Callable[[User], Person]) -> None:
    person = sit_down(alice)
    ticket = SUBPROTOCOL_PREFIX + person.ticket(screen)

    async def scene() -> None:
        async with qemu(screen.console_socket):
            tab = Tab(person, ticket)
            await tab.open()
            await tab.greet()
            assert (await refused(person, ticket))["reason"] == "unknown"
            await tab.leave()

    play(scene)


def test_a_stolen_ticket_is_worth_nothing_in_another_session(
    alice: User, bob: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    """Not even in another session of the same person, nor without any."""
    person = sit_down(alice)

    async def scene() -> None:
        for thief in (await in_db(lambda: sit_down(bob)), await in_db(lambda: sit_down(alice)), None):
            stolen = SUBPROTOCOL_PREFIX + person.ticket(screen)
            assert (await refused(thief, stolen))["reason"] == "foreign"

    play(scene)


LOSSES: dict[str, tuple[Callable[[User], object], str]] = {
    "signed out": (lambda _user: Session.objects.all().delete(), "revoked"),
    "disabled": (lambda user: User.objects.filter(pk=user.pk).update(is_active=False), "revoked"),
    "given another password": (lambda user: User.objects.filter(pk=user.pk).update(password="!"), "revoked"),
    "put out of the project": (lambda user: Membership.objects.filter(user=user).delete(), "permission"),
    "made a viewer": (lambda user: Membership.objects.filter(user=user).update(role=Role.VIEWER), "permission"),
    "left with a deleted machine": (lambda _user: Machine.objects.update(status=Status.DELETED), "permission"),
    "left with a stopped machine": (
        lambda _user: Machine.objects.update(power_state=PowerState.SHUT_OFF, console_socket=""),
        "machine-off",
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_was_lost_since_the_ticket_was_given_counts(
    bob: User, screen: Machine, sit_down: Callable[[User], Person], loss: str
) -> None:
    """Row 4: the ticket alone opens nothing; the live permission is asked at the door."""
    person = sit_down(bob)
    ticket = person.ticket(screen)
    lose, step = LOSSES[loss]
    lose(bob)

    async def scene() -> None:
        assert (await refused(person, SUBPROTOCOL_PREFIX + ticket))["step"] == step

    play(scene)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_live_session_ends_within_two_seconds_of_the_loss(
    bob: User, screen: Machine, sit_down: Callable[[User], Person], watch_clock: Callable[[], float], loss: str
) -> None:
    """Row 6."""
    person = sit_down(bob)
    lose, step = LOSSES[loss]

    async def scene() -> None:
        async with qemu(screen.console_socket):
            tab = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            await tab.open()
            await tab.greet()
            lost_at = watch_clock()
            await in_db(lambda: lose(bob))
            closed = await tab.closed()
            assert watch_clock() - lost_at < 2
            assert closed["step"] == ("revoked" if step == "permission" else step)

    play(scene)
    assert ConsoleSession.objects.get().ended_at is not None


ORDERS: dict[str, tuple[Callable[[Machine, User, User], object], str]] = {
    "removed by an owner": (
        lambda machine, alice, bob: services.remove_person(machine, actor=alice, person=bob),
        "kicked",
    ),
    "ended by an operator": (
        lambda _machine, alice, _bob: services.order_end(ConsoleSession.objects.get(), actor=alice),
        "ended-by-operator",
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_live_session_ends_within_two_seconds_when_somebody_says_so(
    alice: User,
    bob: User,
    screen: Machine,
    sit_down: Callable[[User], Person],
    watch_clock: Callable[[], float],
    order: str,
) -> None:
    person = sit_down(bob)
    give, reason = ORDERS[order]

    async def scene() -> None:
        async with qemu(screen.console_socket):
            tab = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            await tab.open()
            await tab.greet()
            told_at = watch_clock()
            await in_db(lambda: give(screen, alice, bob))
            assert await tab.closed() == {"step": "revoked", "reason": reason, "code": 4408}
            assert watch_clock() - told_at < 2

    play(scene)
    assert ConsoleSession.objects.get().ended_reason == reason


# What ends a link's grant, and what then becomes of a viewer who controls by it: the reason, or None for watching on.
GRANT_ENDS: dict[str, tuple[Callable[[User], object], str | None]] = {
    "revoked": (lambda _vera: ConsoleLink.objects.update(revoked_at=timezone.now()), None),
    "expired": (lambda _vera: ConsoleLink.objects.update(expires_at=timezone.now()), None),
    "membership lost": (lambda vera: Membership.objects.filter(user=vera).delete(), "not-found"),
}


@pytest.mark.parametrize("end", GRANT_ENDS)
def test_who_controls_by_a_link_types_no_more_within_two_seconds_of_its_end(
    alice: User,
    vera: User,
    screen: Machine,
    sit_down: Callable[[User], Person],
    watch_clock: Callable[[], float],
    end: str,
) -> None:
    person = sit_down(vera)
    end_it, reason = GRANT_ENDS[end]
    _link, token = services.share(screen, actor=alice, mode=Mode.CONTROL, lifetime=dt.timedelta(hours=1))
    services.open_link(token, actor=vera)

    async def scene() -> None:
        async with qemu(screen.console_socket) as heard:
            tab = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            await tab.open()
            await tab.greet()
            await tab.socket.send_to(bytes_data=KEY)
            await tab.until(HANDSHAKE + 1)
            assert bytes(heard) == KEY
            ended_at = watch_clock()
            await in_db(lambda: end_it(vera))
            if reason:
                assert (await tab.closed())["reason"] == reason
                assert watch_clock() - ended_at < 2
            else:
                while await in_db(lambda: ConsoleSession.objects.get().mode) != Mode.VIEW:
                    assert watch_clock() - ended_at < 2
                    await asyncio.sleep(0.05)
                # What was held down is let go, which the display answers as well.
                await tab.until(HANDSHAKE + 2)
                assert bytes(heard) == KEY + KEY_UP
                await tab.socket.send_to(bytes_data=KEY * 20 + UPDATE)
                await tab.until(HANDSHAKE + 3)
                assert bytes(heard) == KEY + KEY_UP + UPDATE
                await tab.leave()

    play(scene)
    assert ScreenControl.objects.get().user is None


def test_of_two_people_only_who_controls_types_and_handing_over_turns_it_round(
    alice: User, bob: User, screen: Machine, sit_down: Callable[[User], Person], watch_clock: Callable[[], float]
) -> None:
    """From the first message on: the second person's keys never reach the machine, not even in the first second."""
    first, second = sit_down(alice), sit_down(bob)

    async def scene() -> None:
        async with qemu(screen.console_socket) as heard:
            alices, bobs = (Tab(one, SUBPROTOCOL_PREFIX + one.ticket(screen)) for one in (first, second))
            for tab in (alices, bobs):
                await tab.open()
                await tab.greet()
            await bobs.socket.send_to(bytes_data=KEY * 20 + UPDATE)
            await bobs.until(HANDSHAKE + 1)
            assert bytes(heard) == UPDATE
            handed_at = watch_clock()
            await in_db(lambda: control.give(screen, actor=alice, person=bob))
            while KEY not in bytes(heard):
                assert watch_clock() - handed_at < 2
                await bobs.socket.send_to(bytes_data=KEY)
                await asyncio.sleep(0.05)
            heard.clear()
            await alices.socket.send_to(bytes_data=KEY * 20 + UPDATE)
            await alices.until(HANDSHAKE + 1)
            assert UPDATE in bytes(heard)
            assert heard.count(KEY) < 20, "only bob's last keys may be among them"
            await alices.leave()
            await bobs.leave()

    play(scene)


def test_a_machine_that_was_stopped_and_started_has_another_display(
    alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    """Row 7: the session must not hang on to the old one, whoever listens there next."""
    person = sit_down(alice)

    async def scene() -> None:
        async with qemu(screen.console_socket):
            tab = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            await tab.open()
            await tab.greet()
            await in_db(lambda: Machine.objects.update(console_socket="/nowhere/else.sock"))
            assert await tab.closed() == {"step": "ended", "reason": "display-moved", "code": 4000}

    play(scene)


def test_a_socket_that_another_machine_took_over_is_not_shown(
    alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    """Row 7: each machine has a secret of its own, so the wrong QEMU refuses us before it shows anything."""
    Machine.objects.update(console_secret=seal("another"))
    person = sit_down(alice)

    async def scene() -> None:
        async with qemu(screen.console_socket):
            closed = await refused(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            assert closed == {"step": "display", "reason": "password", "code": 4503}

    play(scene)


# --- rows 8, 10, 11: what else can be wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["USER", "MACHINE", "PROCESS"])
def test_one_screen_too_many_is_refused_in_words(
    alice: User, screen: Machine, sit_down: Callable[[User], Person], settings: Settings, limit: str
) -> None:
    setattr(settings, f"CONSOLE_MAX_SESSIONS_PER_{limit}", 1)
    person = sit_down(alice)

    async def scene() -> None:
        async with qemu(screen.console_socket):
            first = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            await first.open()
            await first.greet()
            second = await refused(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            assert second == {"step": "limit", "reason": limit.lower(), "code": 4429}
            await first.leave()
            third = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            await third.open()
            await third.greet()
            await third.leave()

    play(scene)


def test_a_machine_without_a_secret_is_not_shown(
    alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    """Row 10: an empty password means "no password" to QEMU, so we would show whatever listens there."""
    Machine.objects.update(console_secret="")
    person = sit_down(alice)

    async def scene() -> None:
        closed = await refused(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
        assert (closed["step"], closed["reason"]) == ("display", "secret-empty")

    play(scene)


def test_a_display_that_is_not_there_is_the_hosts_fault(
    alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    person = sit_down(alice)

    async def scene() -> None:
        closed = await refused(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
        assert closed == {"step": "host", "reason": "unreachable", "code": 4502}

    play(scene)
    session = ConsoleSession.objects.get()
    assert (session.ended_step, session.ended_reason) == ("host", "unreachable")


def test_a_hostile_display_gets_no_word_through_to_the_browser(
    alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    """Row 11: its reasons are its own; the browser gets a slug of ours."""
    person = sit_down(alice)

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n\x00\0\0\0\x19<script>alert(1)</script>")
        await writer.drain()
        await asyncio.sleep(1)

    async def scene() -> None:
        async with display_at(screen.console_socket, talk):
            tab = Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
            await tab.open()
            assert await tab.closed() == {"step": "display", "reason": "refused", "code": 4503}
            assert not tab.received

    play(scene)


def test_three_tabs_share_the_screen_and_none_puts_out_another(
    alice: User, bob: User, vera: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    """F07: one of them claims the screen for itself, and nobody notices."""
    people = [(sit_down(alice), Mode.CONTROL), (sit_down(bob), Mode.CONTROL), (sit_down(vera), Mode.VIEW)]

    async def scene() -> None:
        async with qemu(screen.console_socket):
            tabs = [Tab(person, SUBPROTOCOL_PREFIX + person.ticket(screen, mode)) for person, mode in people]
            for tab in tabs:
                await tab.open()
            await tabs[0].socket.send_to(bytes_data=b"RFB 003.008\n\x01\x00")
            await asyncio.gather(tabs[0].until(HANDSHAKE), tabs[1].greet(), tabs[2].greet())
            await asyncio.sleep(1.2)
            for tab in tabs:
                await tab.socket.send_to(bytes_data=UPDATE)
                await tab.until(HANDSHAKE + 1)
                await tab.leave()

    play(scene)


def test_nothing_that_is_logged_holds_a_ticket_a_secret_or_a_session(
    alice: User, screen: Machine, sit_down: Callable[[User], Person], caplog: pytest.LogCaptureFixture
) -> None:
    """Row 2, for the good way and for a bad one."""
    person = sit_down(alice)
    issued = [person.ticket(screen), person.ticket(screen)]

    async def scene() -> None:
        async with qemu(screen.console_socket):
            tab = Tab(person, SUBPROTOCOL_PREFIX + issued[0])
            await tab.open()
            await tab.greet()
            await tab.leave()
        await refused(person, SUBPROTOCOL_PREFIX + issued[1])

    with caplog.at_level(logging.DEBUG, logger="portal"):
        play(scene)
    assert caplog.messages
    assert not [secret for secret in (*issued, SECRET, person.session_key) if secret in caplog.text]


def test_a_ticket_for_a_machine_that_is_not_there_is_a_404_like_a_foreign_one(
    alice: User, charlie: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    """Row 14, at the second door: even a ticket that somehow exists shows Charlie nothing."""
    person = sit_down(charlie)

    async def scene() -> None:
        foreign = await refused(person, SUBPROTOCOL_PREFIX + person.ticket(screen))
        missing = await refused(person, SUBPROTOCOL_PREFIX + person.ticket(Machine(pk=uuid4(), name="nothing")))
        assert foreign == missing == {"step": "permission", "reason": "not-found", "code": 4403}

    play(scene)


def test_the_whole_portal_lets_in_by_cookie_and_turns_foreign_pages_away(
    alice: User, screen: Machine, sit_down: Callable[[User], Person], settings: Settings
) -> None:
    """Through portal.asgi, with the session from a real cookie."""
    from portal.asgi import application  # noqa: PLC0415 - it sets Django up, which must be this test's doing

    person = sit_down(alice)
    cookie = (b"cookie", f"{settings.SESSION_COOKIE_NAME}={person.session_key}".encode())

    async def knock(origin: bytes) -> tuple[bool, Any]:
        headers = [(b"host", HOST), (b"origin", origin), cookie]
        ticket = SUBPROTOCOL_PREFIX + person.ticket(screen)
        tab = WebsocketCommunicator(application, "/ws/console/", headers, ["binary", ticket])
        answer = await tab.connect(timeout=UNTIL_S)
        await tab.disconnect()
        return answer

    async def scene() -> None:
        async with qemu(screen.console_socket):
            assert await knock(ORIGIN) == (True, "binary")
            assert (await knock(b"http://evil.example"))[0] is False

    play(scene)
