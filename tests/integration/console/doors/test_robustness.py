"""Clients and displays that break the protocol, dawdle, flood or fall silent; their neighbours notice nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import pytest

from portal.accounts.models import User
from portal.console.models import ConsoleSession
from portal.console.tickets import SUBPROTOCOL_PREFIX
from portal.machines.models import Machine
from tests.integration.console.doors.conftest import HANDSHAKE, Door, Person, copy_of, eventually
from tests.integration.console.doors.screens import SECRET, display, flood, qemu
from tests.integration.console.doors.wire import GREETING, PING, TEXT, Closed, Wire, frame
from tests.portal.console.displays import greet, server_init
from tests.portal.console.test_client_stream import KEY, UPDATE

pytestmark = pytest.mark.django_db(transaction=True)

SitDown = Callable[[User], Person]
MIB_KIB = 1024
STILL_S = 10
HEADROOM_KIB = 16 * MIB_KIB


@pytest.fixture
def other(screen: Machine, socket_paths: Callable[[], str]) -> Machine:
    """A second machine of Alice's with a display of its own."""
    return copy_of(screen, 1, name="beakon", console_socket=socket_paths())


def ended(machine: Machine) -> str:
    """The reason in the row of this machine's only session; "" while it goes on."""
    return ConsoleSession.objects.get(machine=machine).ended_reason


def test_a_session_byte_by_byte(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    """Each byte in a packet of its own, in the handshake and after it."""
    person = sit_down(alice)
    with qemu(screen.console_socket) as heard:
        wire = door.knock(person.cookie, SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"])
        for byte in frame(GREETING) + frame(KEY + UPDATE) + frame(b"") + frame(KEY):
            wire.socket.sendall(bytes([byte]))
        wire.until(HANDSHAKE + 1)
        eventually(lambda: bytes(heard) == KEY + UPDATE + KEY)
        wire.leave()


def test_messages_in_pieces_of_every_kind(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    """One message in three frames with a ping in between; three messages in one packet; RFB cut anywhere."""
    with qemu(screen.console_socket) as heard:
        wire = door.enter(sit_down(alice), screen)
        wire.socket.sendall(frame(KEY[:3], fin=False) + frame(b"hello", PING) + frame(KEY[3:7], 0, fin=False))
        wire.socket.sendall(frame(KEY[7:], 0))
        wire.socket.sendall(frame(UPDATE[:4]) + frame(UPDATE[4:] + KEY[:1]) + frame(KEY[1:]))
        eventually(lambda: bytes(heard) == KEY + UPDATE + KEY)
        wire.until(HANDSHAKE + 1)
        wire.leave()
    assert wire.pongs == 1


BREACHES = {
    "an unmasked frame": frame(KEY, masked=False),
    "a continuation of nothing": frame(KEY, 0),
    "a message within another": frame(KEY, fin=False) + frame(KEY),
    "a giant that is only announced": frame(KEY, length=2**62),
    "a message beyond the limit": frame(b"\x06\0\0\0" + (3 * 2**20).to_bytes(4) + b"x" * (3 * 2**20)),
    "frames without an end": frame(b"\x06\0\0\0\0\x10\0\0", fin=False) + frame(b"x" * 65536, 0, fin=False) * 300,
    "a ping beyond its limit": frame(b"x" * 5000, PING),
    "a message that RFB does not know": frame(b"\x7f" * 8),
    "a giant clipboard": frame(b"\x06\0\0\0\x7f\xff\xff\xff"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_browser_that_breaks_the_protocol_is_put_out_alone(
    door: Door, alice: User, screen: Machine, other: Machine, sit_down: SitDown, breach: str
) -> None:
    person = sit_down(alice)
    with qemu(screen.console_socket) as heard, qemu(other.console_socket):
        neighbour = _begin(door, person, other)
        wire = door.enter(person, screen)
        with contextlib.suppress(OSError):  # It may be put out before it could say all of that.
            wire.socket.sendall(BREACHES[breach])
        closed = wire.closed()
        assert closed.code in {1002, 1006, 1009, 4000}
        eventually(lambda: ended(screen).startswith("browser-"))
        assert not heard
        have = len(neighbour.received)
        neighbour.send(KEY)
        neighbour.until(have + 1)
        neighbour.leave()


def test_text_never_gets_to_the_machine(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    with qemu(screen.console_socket) as heard:
        wire = door.enter(sit_down(alice), screen)
        wire.socket.sendall(frame(KEY, TEXT) + frame(UPDATE))
        wire.until(HANDSHAKE + 1)
        assert bytes(heard) == UPDATE
        wire.leave()


def test_a_browser_that_vanishes_ends_its_session(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    """Closed without a word, in the middle of a frame."""
    with qemu(screen.console_socket):
        wire = door.enter(sit_down(alice), screen)
        wire.socket.sendall(frame(KEY)[:5])
        wire.socket.close()
        eventually(lambda: ConsoleSession.objects.exclude(ended_at=None).exists())
    assert ended(screen) == "browser-gone"


def test_a_flood_of_input_waits_for_the_machine(
    door: Door, alice: User, screen: Machine, other: Machine, sit_down: SitDown
) -> None:
    """A machine that reads nothing: what is sent piles up at the sender, not in the relay."""
    person = sit_down(alice)

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, secret=SECRET)
        writer.write(server_init())
        assert isinstance(writer.transport, asyncio.ReadTransport)
        writer.transport.pause_reading()
        await asyncio.sleep(3600)

    with display(screen.console_socket, deaf), qemu(other.console_socket):
        neighbour = _begin(door, person, other)
        wire = door.enter(person, screen)
        before = door.memory_kib()
        wire.socket.settimeout(1)
        piece, sent = frame(KEY * 8000), 0
        with pytest.raises(TimeoutError):
            while sent < 2**30:
                sent += wire.socket.send(piece)
        assert door.memory_kib() - before < HEADROOM_KIB
        have = len(neighbour.received)
        neighbour.send(KEY)
        neighbour.until(have + 1)
        neighbour.leave()
        wire.socket.close()
        screen_row = Machine.objects.filter(pk=screen.pk)
        screen_row.update(console_socket="/nowhere/else.sock")
        eventually(lambda: ConsoleSession.objects.filter(machine=screen).exclude(ended_at=None).exists())


def test_a_reader_that_stops_for_ten_seconds_costs_nothing_and_goes_on(
    door: Door, alice: User, screen: Machine, other: Machine, sit_down: SitDown
) -> None:
    """Row 8. The display has more than enough to say all the while; a neighbour works on, and its keys stay quick."""
    person = sit_down(alice)
    with qemu(screen.console_socket, flood), qemu(other.console_socket):
        neighbour = _begin(door, person, other)
        wire = door.enter(person, screen)
        wire.until(4_000_000)
        before = door.memory_kib()
        worst, rounds, until = 0, 0, time.monotonic() + STILL_S
        while time.monotonic() < until:
            have = len(neighbour.received)
            neighbour.send(KEY)
            neighbour.until(have + 1)
            rounds += 1
            worst = max(worst, door.memory_kib())
            time.sleep(0.1)
        assert rounds > 20
        assert worst - before < HEADROOM_KIB
        wire.until(len(wire.received) + 64_000_000)
        assert not ConsoleSession.objects.exclude(ended_at=None).exists()
        neighbour.leave()
        wire.socket.close()
        eventually(lambda: not ConsoleSession.objects.filter(ended_at=None).exists())


def test_a_display_that_closes_says_so(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    async def last_words(writer: asyncio.StreamWriter) -> None:
        writer.write(b"\2" * 300_000)
        await writer.drain()
        writer.close()

    with qemu(screen.console_socket, last_words):
        wire = door.enter(sit_down(alice), screen)
        assert wire.closed() == Closed(4000, "ended", "display-closed")
    assert wire.received.endswith(b"\2" * 300_000), "what it said before comes through"


def test_a_display_that_dies_says_so(door: Door, alice: User, screen: Machine, sit_down: SitDown) -> None:
    async def abort(writer: asyncio.StreamWriter) -> None:
        await writer.drain()
        writer.transport.abort()

    person = sit_down(alice)
    with qemu(screen.console_socket, abort):
        wire = door.knock(person.cookie, SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"])
        wire.send(GREETING)
        closed = wire.closed()
        assert (closed.step, closed.reason) in {("ended", "display-closed"), ("display", "closed-early")}


def test_a_display_that_says_nothing_is_given_up_and_holds_up_nobody(
    door: Door, alice: User, screen: Machine, other: Machine, sit_down: SitDown
) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    person = sit_down(alice)
    with display(screen.console_socket, silent), qemu(other.console_socket):
        stuck = door.knock(person.cookie, SUBPROTOCOL_PREFIX + door.grant(person, screen)["ticket"])
        neighbour = _begin(door, person, other)
        neighbour.leave()
        assert stuck.closed() == Closed(4503, "display", "timeout")


def _begin(door: Door, person: Person, machine: Machine) -> Wire:
    wire = door.knock(person.cookie, SUBPROTOCOL_PREFIX + door.grant(person, machine)["ticket"])
    wire.send(GREETING)
    wire.until(HANDSHAKE)
    return wire
