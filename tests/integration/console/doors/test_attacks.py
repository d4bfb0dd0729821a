"""Security rows 1 to 11, 14 and 15, tried at each door."""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest
from django.urls import reverse

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Role
from portal.audit.models import Event
from portal.console import tickets, urls
from portal.console.models import ConsoleSession
from portal.console.tickets import SUBPROTOCOL_PREFIX, Claim, Mode
from portal.lib.secrets import seal
from portal.machines.models import Machine
from tests.integration.console.doors.causes import LOSSES
from tests.integration.console.doors.conftest import HANDSHAKE, LIMITS, Door, Person, copy_of, eventually, session_key
from tests.integration.console.doors.screens import SECRET, display, qemu
from tests.integration.console.doors.wire import GREETING, Closed, Wire
from tests.portal.console.displays import PIXEL_FORMAT
from tests.portal.console.test_client_stream import KEY, KEY_UP, UPDATE
from tests.support.together import at_once

pytestmark = pytest.mark.django_db(transaction=True)

SitDown = Callable[[User], Person]


def test_alice_works_on_her_screen_and_it_is_on_record(
    door: Door, alice: User, screen: Machine, sit_down: SitDown
) -> None:
    with qemu(screen.console_socket) as heard:
        wire = door.enter(sit_down(alice), screen)
        assert wire.headers["sec-websocket-protocol"] == "binary"
        wire.send(UPDATE + KEY)
        wire.until(HANDSHAKE + 1)
        wire.leave()
        eventually(lambda: ConsoleSession.objects.exclude(ended_at=None).exists())
        # She held a key down when she left.
        eventually(lambda: bytes(heard) == UPDATE + KEY + KEY_UP)
    assert bytes(wire.received[42:48]) == b"beacon"
    assert b"guest" not in wire.received
    session = ConsoleSession.objects.get()
    assert (session.user, session.machine, session.mode) == (alice, screen, "control")
    assert (session.request_ip, session.bytes_up) == ("127.0.0.1", len(UPDATE + KEY))
    assert session.bytes_down >= 1
    assert (session.ended_step, session.ended_reason) == ("ended", "browser-gone")
    assert Event.objects.get(action="console.open").detail["session"] == str(session.pk)


def test_where_the_page_is_sent_to(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    """The ticket's answer names the door, and the page's policy lets it connect there."""
    person = sit_down(alice)
    path = door.grant(person, screen)["path"]
    assert path == {"portal": "/ws/console/", "gateway": f"ws://localhost:{door.port}/screens"}[door.name]
    policy = door.ask(person, reverse("console:screen", args=[screen.pk])).policy
    (allowed,) = [part.split()[1:] for part in policy.split("; ") if part.startswith("connect-src ")]
    assert allowed == {"portal": ["'self'"], "gateway": ["'self'", f"ws://localhost:{door.port}"]}[door.name]


# --- rows 1 to 4: tickets ------------------------------------------------------------------------------------------


def test_no_ticket_or_a_guessed_one_opens_nothing(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    """Row 1."""
    person = sit_down(alice)
    assert door.refused(person) == Closed(4401, "ticket", "missing")
    for guess in (str(screen.pk), f"{alice.pk}-{screen.pk}", session_key(person), "0" * 43):
        assert door.refused(person, SUBPROTOCOL_PREFIX + guess) == Closed(4401, "ticket", "unknown")
    both = [SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"] for _ in range(2)]
    assert door.refused(person, *both) == Closed(4401, "ticket", "missing")
    assert not ConsoleSession.objects.exists()
    issued = {door.grant(person, screen)["ticket"] for _ in range(20)}
    assert len(issued) == 20
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", one) for one in issued), "256 bits"


def test_no_log_address_or_answer_holds_a_ticket_or_a_secret(
    door: Door, alice: User, screen: Machine, sit_down: SitDown
) -> None:
    """Row 2, with both processes logging all that they can: a good way, a bad one, and a breach of the protocol."""
    person = sit_down(alice)
    issued = [door.grant(person, screen) for _ in range(4)]
    assert not [grant for grant in issued if grant["ticket"] in grant["path"] or "?" in grant["path"]]
    offered = [SUBPROTOCOL_PREFIX + grant["ticket"] for grant in issued]
    answers = []
    with qemu(screen.console_socket):
        good = door.knock(person.cookie, offered[0])
        good.send(GREETING)
        good.until(HANDSHAKE)
        good.leave()
        answers += [good.headers, door.knock("", offered[1]).headers]
        answers += [door.knock(person.cookie, offered[2], origins=("http://evil.example",)).headers]
        broken = door.knock(person.cookie, offered[3])
        broken.send(b"no RFB at all, for sure")
        broken.closed()
    eventually(lambda: "browser-version" in door.logs())
    secrets = [SECRET, session_key(person), *(grant["ticket"] for grant in issued)]
    assert not [secret for secret in secrets if secret in door.logs()]
    assert not [secret for secret in secrets if secret in str(answers)]


def test_of_forty_at_once_one_gets_in(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    """Row 3, over all processes that there are."""
    person = sit_down(alice)
    ticket = SUBPROTOCOL_PREFIX + door.grant(person, screen, web=1)["ticket"]
    numbers = iter(range(1000))
    lock = threading.Lock()

    def attempt() -> str:
        with lock:
            number = next(numbers)
        wire = door.knock(person.cookie, ticket, port=door.ports[number % len(door.ports)])
        wire.send(GREETING)
        closed = None
        while closed is None and len(wire.received) < HANDSHAKE:
            closed = wire._take()
        if closed is None:
            return "in"
        return f"{closed.step}: {closed.reason}"

    with qemu(screen.console_socket) as heard:
        outcomes = at_once([attempt] * 40)
        assert heard.visitors == 1
    counted = Counter(outcomes)
    # A gateway or web process that has no place left for the moment says so, and has not looked at the ticket.
    assert counted.pop("limit: process", 0) < 39
    assert counted.pop("in") == 1
    assert set(counted) == {"ticket: unknown"}
    assert ConsoleSession.objects.count() == 1


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.at_the_door])
def test_what_was_lost_since_the_ticket_was_given_counts(
    door: Door, bob: User, screen: Machine, sit_down: SitDown, loss: str
) -> None:
    """Row 4: the ticket alone opens nothing; the live permission is asked at the door."""
    person = sit_down(bob)
    ticket = door.grant(person, screen)["ticket"]
    LOSSES[loss].happen(door, person, screen)
    assert door.refused(person, SUBPROTOCOL_PREFIX + ticket).step in LOSSES[loss].at_the_door


def test_a_stolen_ticket_is_worth_nothing_in_another_session(
    door: Door, alice: User, bob: User, screen: Machine, sit_down: SitDown
) -> None:
    """Row 4: not even in another session of the same person, nor without any."""
    person = sit_down(alice)
    for thief in (sit_down(bob), sit_down(alice), None):
        stolen = SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"]
        assert door.refused(thief, stolen) == Closed(4401, "ticket", "foreign")


# --- row 5: pages of other sites -----------------------------------------------------------------------------------


def test_a_page_of_another_site_is_turned_away_and_its_ticket_is_not_spent(
    door: Door, alice: User, screen: Machine, sit_down: SitDown
) -> None:
    person = sit_down(alice)
    ticket = SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"]
    own = door.origin(door.port)
    foreign = ["null", "", "http://evil.example", f"{own}.evil.example", f"{own}0", "http://localhost"]
    foreign += [
        f"http://evil.example/{own}",
        f"{own}@evil.example",
        own.replace("http", "file"),
        "https://evil.example",
    ]
    for origins in [(), *((one,) for one in foreign), (own, own), (own, "http://evil.example")]:
        assert door.knock(person.cookie, ticket, origins=origins).status in {400, 403}, origins
    with qemu(screen.console_socket):
        wire = door.knock(person.cookie, ticket)
        wire.send(GREETING)
        wire.until(HANDSHAKE)
        wire.leave()


# --- row 7: another machine's screen -------------------------------------------------------------------------------


def test_a_socket_that_another_machine_took_over_is_not_shown(
    door: Door, alice: User, screen: Machine, sit_down: SitDown
) -> None:
    """Each machine has a secret of its own, so the wrong QEMU refuses us before it shows anything."""
    Machine.objects.update(console_secret=seal("another"))
    person = sit_down(alice)
    with qemu(screen.console_socket):
        closed = door.refused(person, SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"])
    assert closed == Closed(4503, "display", "password")


def test_a_display_that_is_not_there_is_the_hosts_fault(
    door: Door, alice: User, screen: Machine, sit_down: SitDown
) -> None:
    person = sit_down(alice)
    closed = door.refused(person, SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"])
    assert closed == Closed(4502, "host", "unreachable")
    session = ConsoleSession.objects.get()
    assert (session.ended_step, session.ended_reason) == ("host", "unreachable")


# --- row 8: how many -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", LIMITS)
def test_one_screen_too_many_is_refused_in_words(
    door: Door, alice: User, make_user: Callable[..., User], screen: Machine, sit_down: SitDown, limit: str
) -> None:
    machines = [screen, *(copy_of(screen, number) for number in range(9))]
    people = [alice]
    for number in range(9):
        people.append(make_user(f"person-{number}"))
        Membership.objects.create(user=people[-1], project=screen.project, role=Role.MEMBER)
    seats = [sit_down(user) for user in people]
    last = LIMITS[limit]
    pairs = {
        "USER": [(seats[0], machine) for machine in machines],
        "MACHINE": [(seat, screen) for seat in seats],
        "PROCESS": [(seats[n // 2], machines[n // 2]) for n in range(last)],
    }[limit]
    with qemu(screen.console_socket):
        wires = [_begun(door, *pairs[number]) for number in range(last)]
        extra = pairs[last] if last < len(pairs) else (seats[9], machines[9])
        closed = door.refused(extra[0], SUBPROTOCOL_PREFIX + door.grant(*extra)["ticket"])
        assert closed == Closed(4429, "limit", limit.lower())
        wires.pop().leave()
        eventually(lambda: ConsoleSession.objects.filter(ended_at=None).count() == last - 1)
        _let_in(door, *extra)
        for wire in wires:
            wire.socket.close()
        eventually(lambda: not ConsoleSession.objects.filter(ended_at=None).exists())


def _begun(door: Door, person: Person, machine: Machine) -> Wire:
    """A session whose display has answered, whatever its machine is called."""
    wire = door.knock(person.cookie, SUBPROTOCOL_PREFIX + door.grant(person, machine)["ticket"])
    wire.send(GREETING)
    wire.until(12 + 2 + 4 + 24)
    return wire


def _let_in(door: Door, person: Person, machine: Machine) -> None:
    """A place is free a moment after its session's row has ended."""

    def is_in() -> bool:
        wire = door.knock(person.cookie, SUBPROTOCOL_PREFIX + door.grant(person, machine)["ticket"])
        wire.send(GREETING)
        while len(wire.received) < 42:
            if wire._take() is not None:
                return False
        wire.socket.close()
        return True

    eventually(is_in)


# --- row 9: nothing else is there ----------------------------------------------------------------------------------

PROBES = [
    "/",
    "//evil.example/%2F..",
    "//evil.example/%2e%2e",
    "///evil.example",
    "/..%2f..%2fetc/passwd",
    "/../../../../etc/passwd",
    "/static",
    "/portal",
    "/vnc.html",
    "/?token=x",
    "/%0d%0aLocation:%20http://evil.example",
    "http://evil.example/",
]


@pytest.mark.parametrize("probe", PROBES)
def test_there_are_no_files_no_listings_and_no_way_to_another_site(door: Door, probe: str) -> None:
    """The gateway has nothing but the console; the portal's pages lead to its own sign-in at most."""
    for method in ("GET", "HEAD", "POST"):
        wire = door.wire()
        status = wire.ask(probe, [("Host", f"localhost:{door.port}"), ("Content-Length", "0")], method=method)
        where = wire.headers.get("location", "")
        if door.name == "gateway":
            assert status == 404
            assert "location" not in wire.headers
            assert "server" not in wire.headers
        else:
            assert status in {302, 400, 403, 404, 405}
            assert not where or (where.startswith("/") and not where.startswith("//")), where
    websocket = door.knock(target=probe)
    assert websocket.status in ({404} if door.name == "gateway" else {400, 403, 404, 500})


# --- row 10: no password is not "no password" ----------------------------------------------------------------------


def test_a_machine_without_a_secret_is_not_shown(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    Machine.objects.update(console_secret="")
    person = sit_down(alice)

    async def open_to_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"RFB 003.008\n\x01\x01")
        await reader.read(65536)

    with display(screen.console_socket, open_to_all):
        closed = door.refused(person, SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"])
    assert closed == Closed(4503, "display", "secret-empty")


# --- row 11: hostile displays --------------------------------------------------------------------------------------

SCRIPT = b"<script>alert(1)</script>"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a reason": (b"RFB 003.008\n\x00\0\0\0\x19" + SCRIPT, "refused"),
    "a reason without an end": (b"RFB 003.008\n\x00\xff\xff\xff\xff" + SCRIPT, "reason-too-long"),
    "another protocol": (b"HTTP/1.1 200 OK\r\n\r\n" + SCRIPT, "version"),
    "no password check": (b"RFB 003.008\n\x01\x01", "security-type"),
    "a kind of check that nobody knows": (b"RFB 003.008\n\x01\x63", "security-type"),
    "a wrong password's reason": (b"RFB 003.008\n\x01\x02" + b"c" * 16 + b"\0\0\0\1\0\0\0\x19" + SCRIPT, "password"),
    "a giant name": (
        b"RFB 003.008\n\x01\x02" + b"c" * 16 + b"\0\0\0\0" + b"\0\1\0\1" + PIXEL_FORMAT + b"\xff\xff\xff\xff" + SCRIPT,
        "name-too-long",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_display_gets_no_word_through_to_the_browser(
    door: Door, alice: User, screen: Machine, sit_down: SitDown, kind: str
) -> None:
    words, reason = HOSTILE[kind]
    person = sit_down(alice)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        while await reader.read(65536):
            pass

    with display(screen.console_socket, talk):
        wire = door.knock(person.cookie, SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"])
        assert wire.closed() == Closed(4503, "display", reason)
    assert not wire.received


# --- row 14: each address, by each kind of person ------------------------------------------------------------------

ADDRESSES = [pattern.name for pattern in urls.urlpatterns]
STAND_INS: dict[str, Any] = {"UUIDConverter": uuid4, "IntConverter": lambda: 1}


def _address(name: str, machine: Machine) -> str:
    (pattern,) = [one for one in urls.urlpatterns if one.name == name]
    converters = pattern.pattern.converters
    others = {
        key: STAND_INS.get(type(value).__name__, lambda: "x")() for key, value in converters.items() if key != "pk"
    }
    return reverse(f"console:{name}", kwargs={**others, **({"pk": machine.pk} if "pk" in converters else {})})


@pytest.mark.parametrize("name", ADDRESSES)
def test_who_may_not_see_the_machine_gets_nothing_from_any_address_of_the_console(
    door: Door, charlie: User, screen: Machine, sit_down: SitDown, name: str
) -> None:
    address = _address(name, screen)
    nobody = Person(charlie, "")
    forms: tuple[dict[str, object] | None, ...] = (None, {})
    for form in forms:
        assert door.ask(sit_down(charlie), address, form).status in {403, 404, 405}
        answer = door.ask(nobody, address, form)
        assert answer.status in {401, 403, 404, 405} or answer.location.startswith("/login/")


def test_a_viewer_gets_a_watching_ticket_and_no_other(
    door: Door, vera: User, charlie: User, screen: Machine, sit_down: SitDown
) -> None:
    assert door.grant(sit_down(vera), screen, mode="control")["mode"] == "view"
    # A ticket that somehow exists shows neither a viewer nor a stranger more than they may see.
    for user, mode in ((vera, Mode.CONTROL), (charlie, Mode.VIEW)):
        person = sit_down(user)
        claim = Claim(user.pk, tickets.session_hash(session_key(person)), screen.pk, mode)
        closed = door.refused(person, SUBPROTOCOL_PREFIX + tickets.issue(claim))
        assert (closed.code, closed.step) == (4403, "permission")


# --- row 15: watching only -----------------------------------------------------------------------------------------


def test_a_watchers_keys_stop_at_the_relay(door: Door, vera: User, screen: Machine, sit_down: SitDown) -> None:
    """Whatever her browser sends, the machine hears nothing but requests for pictures."""
    with qemu(screen.console_socket) as heard:
        wire = door.enter(sit_down(vera), screen, mode="view")
        # Also in pieces that begin and end within a message.
        words = KEY * 20 + UPDATE + KEY * 20
        wire.send(*(words[at : at + 5] for at in range(0, len(words), 5)))
        wire.send(UPDATE)
        wire.until(HANDSHAKE + 1)
        eventually(lambda: len(heard) >= 2 * len(UPDATE))
        wire.leave()
    assert bytes(heard) == UPDATE * 2


# --- F07 -----------------------------------------------------------------------------------------------------------


def test_three_tabs_share_the_screen_and_none_puts_out_another(
    door: Door, alice: User, bob: User, vera: User, screen: Machine, sit_down: SitDown
) -> None:
    """One of them claims the screen for itself, and nobody notices, the display least of all."""
    with ExitStack() as stack:
        heard = stack.enter_context(qemu(screen.console_socket))
        wires = []
        for user, mode, greeting in (
            (bob, "control", GREETING),
            (vera, "view", GREETING),
            (alice, "control", GREETING[:-1] + b"\0"),
        ):
            person = sit_down(user)
            wire = door.knock(person.cookie, SUBPROTOCOL_PREFIX + door.grant(person, screen, mode=mode)["ticket"])
            wire.send(greeting)
            wire.until(HANDSHAKE)
            wires.append(wire)
        for turn in (1, 2):
            for wire in wires:
                wire.send(UPDATE)
                wire.until(HANDSHAKE + turn)
        assert ConsoleSession.objects.filter(ended_at=None).count() == 3
        assert heard.shared == b"\1\1\1"
        for wire in wires:
            wire.leave()
