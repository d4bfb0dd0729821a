"""The serial console through both doors: one line for everybody, the rights and the ends of a screen."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portal.accounts.models import User
from portal.audit.models import Event
from portal.console import control, tickets
from portal.console.models import ConsoleSession
from portal.console.serial_line import PIECE
from portal.console.services import end_all_sessions
from portal.console.tickets import SUBPROTOCOL_PREFIX, Claim, Kind, Mode
from portal.machines.models import Machine
from tests.integration.console.doors.causes import LOSSES
from tests.integration.console.doors.conftest import (
    Door,
    Person,
    copy_of,
    environment_with,
    eventually,
    session_key,
    within,
)
from tests.integration.console.doors.wire import Closed, Wire
from tests.integration.console.serial_port import SerialPort, serial_port
from tests.support.web import web_processes

pytestmark = pytest.mark.django_db(transaction=True)

SitDown = Callable[[User], Person]
HEAD = 4
CAUSES = ("signed out", "made a viewer", "left with a stopped machine", "ended by an operator")


@pytest.fixture
def server(screen: Machine, socket_paths: Callable[[], str]) -> Machine:
    """Alice's machine, with a serial port."""
    Machine.objects.filter(pk=screen.pk).update(serial_socket=socket_paths())
    screen.refresh_from_db()
    return screen


@pytest.fixture
def port(server: Machine) -> Iterator[SerialPort]:
    with serial_port(server.serial_socket) as port:
        yield port


def ticket(door: Door, person: Person, machine: Machine, *, mode: str = "control", web: int = 0) -> str:
    form: dict[str, object] = {"mode": mode, "kind": "serial"}
    answer = door.ask(person, f"/machines/{machine.pk}/console/ticket", form, web=web)
    assert answer.status == 200, answer.text
    return SUBPROTOCOL_PREFIX + str(json.loads(answer.text)["ticket"])


def enter(door: Door, person: Person, machine: Machine, *, mode: str = "control", web: int = 0) -> Wire:
    """A serial console that is open: its first word, how much was printed before, has come."""
    at = door.ports[web % len(door.ports)]
    wire = door.knock(person.cookie, ticket(door, person, machine, mode=mode), port=at)
    assert wire.status == 101
    wire.until(HEAD)
    return wire


def sees(wire: Wire, words: bytes) -> None:
    """Read on until the words have come."""
    while words not in wire.received:
        wire.until(len(wire.received) + 1)


def is_told(port: SerialPort, wire: Wire, words: bytes) -> None:
    """Said until it is seen: what is said while nobody has taken the port, or while it changes hands, is lost."""

    def is_seen() -> bool:
        port.say(words)
        while wire._buffer or select.select([wire.socket], [], [], 0.1)[0]:
            assert wire._take() is None
        return words in wire.received

    eventually(is_seen)


def test_all_see_the_same_and_who_controls_types(
    door: Door, alice: User, bob: User, vera: User, server: Machine, port: SerialPort, sit_down: SitDown
) -> None:
    """Also at two web processes; who comes late gets what was there. Row 15: a watcher's words stop at the relay."""
    bobs = enter(door, sit_down(bob), server)
    assert bytes(bobs.received) == bytes(HEAD)
    bobs.send(b"uname\r")
    eventually(lambda: bytes(port.heard) == b"uname\r")
    port.say(b"Linux\r\n\x1b[31m\0<b>\xff")
    sees(bobs, b"Linux\r\n\x1b[31m\0<b>\xff")
    veras = enter(door, sit_down(vera), server, mode="view", web=1)
    alices = enter(door, sit_down(alice), server, web=1)
    for wire in (veras, alices):
        sees(wire, b"\0<b>\xff")
        length = int.from_bytes(wire.received[:HEAD])
        assert wire.received[HEAD:].startswith(b"Linux")
        assert length == len(wire.received) - HEAD
    for wire in (veras, alices):
        wire.send(b"rm -rf /\r")
    port.say(b"for all")
    for wire in (bobs, veras, alices):
        sees(wire, b"for all")
    bobs.send(b"ls\r")
    eventually(lambda: bytes(port.heard) == b"uname\rls\r")
    control.take(server, actor=alice)

    def alice_types() -> bool:
        alices.send(b"a")
        return port.heard.endswith(b"a")

    eventually(alice_types)
    _stops_typing(bobs, alices, port)
    bobs.send(b"bob")
    alices.send(b"END")
    eventually(lambda: port.heard.endswith(b"END"))
    assert b"bob" not in port.heard
    assert b"rm" not in port.heard
    assert port.visits == 1
    assert set(ConsoleSession.objects.values_list("kind", "door")) == {("serial", door.name)}
    assert set(Event.objects.filter(action__startswith="console.open").values_list("action", flat=True)) == {
        "console.open_serial"
    }
    for wire in (bobs, veras, alices):
        wire.leave()


def _stops_typing(lost: Wire, won: Wire, port: SerialPort) -> None:
    """Each process looks by itself who types, and that of who lost it may be later: until nothing of it comes, while
    the other's words do.
    """
    silent = 0
    deadline = time.monotonic() + 60
    while silent < 20:
        assert time.monotonic() < deadline, "both of them type"
        before, length = port.heard.count(b"?"), len(port.heard)
        lost.send(b"?")
        won.send(b"+")
        eventually(lambda length=length: b"+" in port.heard[length:])  # type: ignore[misc]  # the default binds the loop's value
        time.sleep(0.1)
        silent = silent + 1 if port.heard.count(b"?") == before else 0


@pytest.mark.parametrize("loss", CAUSES)
def test_a_serial_console_ends_within_two_seconds(
    door: Door, bob: User, server: Machine, port: SerialPort, sit_down: SitDown, loss: str
) -> None:
    """Row 6, while the guest prints on and on."""
    person = sit_down(bob)

    def ends() -> float:
        wire = enter(door, person, server)
        with printing(port):
            wire.until(50_000)
            LOSSES[loss].happen(door, person, server)
            lost_at = time.monotonic()
            closed = wire.closed()
            took = time.monotonic() - lost_at
        assert (closed.step, 4000 <= closed.code < 5000) == (LOSSES[loss].inside, True)
        # The port is free for the next one.
        eventually(lambda: not port.has_visitor)
        eventually(lambda: ConsoleSession.objects.exclude(ended_at=None).exists())
        assert ConsoleSession.objects.get().ended_reason == closed.reason
        return took

    within(2, ends)


def test_the_line_passes_on_when_its_holder_leaves_and_ends_with_the_machine(
    door: Door, alice: User, bob: User, server: Machine, port: SerialPort, sit_down: SitDown
) -> None:
    first, second = enter(door, sit_down(bob), server), enter(door, sit_down(alice), server, web=1)
    is_told(port, second, b"one")
    first.leave()
    eventually(lambda: port.visits == 2)
    is_told(port, second, b"two")
    eventually(lambda: control.holds(server.pk, alice.pk))

    def types() -> bool:
        second.send(b"x")
        return bool(port.heard)

    eventually(types)
    port.close()
    assert second.closed() == Closed(4000, "ended", "display-closed")


def test_who_does_not_read_holds_up_nobody(
    door: Door, alice: User, bob: User, server: Machine, port: SerialPort, sit_down: SitDown
) -> None:
    """Row 8: not the guest, and not the other viewer, even where the deaf one's session holds the port."""
    deaf, other = enter(door, sit_down(bob), server), enter(door, sit_down(alice), server, web=1)
    before = door.memory_kib()
    # A connection stands before QEMU, or its double, has taken it.
    eventually(lambda: port.has_visitor)
    for _ in range(300):  # One giant line, which is none to the relay.
        port.say(b"x" * PIECE)
    port.say(b"THE END")
    sees(other, b"THE END")
    assert door.memory_kib() - before < 16 * 1024
    deaf.socket.close()
    other.leave()


def test_a_ticket_is_for_one_of_the_two_consoles(
    door: Door, alice: User, charlie: User, server: Machine, port: SerialPort, sit_down: SitDown
) -> None:
    """Rows 1 and 4: what the browser asks for when it spends the ticket does not count; a stranger's opens nothing."""
    person = sit_down(alice)
    refused = door.ask(sit_down(charlie), f"/machines/{server.pk}/console/ticket", {"kind": "serial"})
    assert refused.status == 404
    screens, serials = tickets.redeem(door.grant(person, server)["ticket"]), ticket(door, person, server)
    assert screens is not None
    assert screens.kind is Kind.SCREEN
    spent = tickets.redeem(serials.removeprefix(SUBPROTOCOL_PREFIX))
    assert spent is not None
    assert spent.kind is Kind.SERIAL
    stranger = sit_down(charlie)
    key = tickets.session_hash(session_key(stranger))
    claim = Claim(charlie.pk, key, server.pk, Mode.VIEW, kind=Kind.SERIAL)
    closed = door.refused(stranger, SUBPROTOCOL_PREFIX + tickets.issue(claim))
    assert (closed.code, closed.step) == (4403, "permission")
    assert port.visits == 0


def test_without_a_port_the_door_says_why(
    door: Door, alice: User, server: Machine, sit_down: SitDown, socket_paths: Callable[[], str]
) -> None:
    person = sit_down(alice)
    closed = door.refused(person, ticket(door, person, server))
    assert closed == Closed(4502, "host", "unreachable")
    other = copy_of(server, 1, name="beakon", serial_socket="")
    answer = door.ask(person, f"/machines/{other.pk}/console/ticket", {"kind": "serial"})
    problem = json.loads(answer.text)
    assert (answer.status, problem["code"], problem["step"]) == (409, "no-serial-port", "display")


@pytest.mark.parametrize("door", ["gateway"], indirect=True)
def test_another_session_takes_the_line_of_a_killed_gateway_process(
    door: Door, alice: User, bob: User, server: Machine, port: SerialPort, sit_down: SitDown
) -> None:
    enter(door, sit_down(bob), server)
    (child,) = door.processes()[1:]
    other = enter(door, sit_down(alice), server)
    os.kill(child, signal.SIGKILL)
    _goes_on(port, other)
    end_all_sessions()  # The clock would end the lost one's row when its lease has run out.


@pytest.mark.parametrize("door", ["portal"], indirect=True)
def test_another_session_takes_the_line_of_a_killed_web_process(
    door: Door,
    alice: User,
    bob: User,
    server: Machine,
    port: SerialPort,
    sit_down: SitDown,
    redis_url: str,
    tmp_path: Path,
) -> None:
    with web_processes(1, environment_with(redis_url), tmp_path) as (mortal,):
        doomed = Door("portal", mortal.port, "/ws/console/", [mortal], mortal.pid, tmp_path)
        lost = enter(doomed, sit_down(bob), server)
        other = enter(door, sit_down(alice), server)
        os.kill(mortal.pid, signal.SIGKILL)
        lost.socket.close()
        _goes_on(port, other)
        other.leave()
    end_all_sessions()  # The clock would end the lost one's row when its lease has run out.


def _goes_on(port: SerialPort, other: Wire) -> None:
    eventually(lambda: port.visits == 2)
    is_told(port, other, b"still here")


@contextmanager
def printing(port: SerialPort) -> Iterator[None]:
    """The guest prints while the block lasts."""
    over = threading.Event()

    def say() -> None:
        while not over.is_set() and port.has_visitor:
            port.say(b"on and on\r\n" * 100)

    # A connection stands before QEMU, or its double, has taken it.
    eventually(lambda: port.has_visitor)
    thread = threading.Thread(target=say)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
