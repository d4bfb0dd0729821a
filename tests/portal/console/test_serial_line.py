"""One session's part of the serial line, with a real Redis and a socket that counts as QEMU's."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis

from portal.accounts.models import User
from portal.console import serial_line
from portal.console.relay import Step
from portal.console.selectors import Target
from portal.console.serial_line import SKIPPED, LineError, SerialInput, open_line
from portal.lib.store import store
from portal.machines.models import Machine
from tests.integration.console.serial_port import SerialPort, serial_port
from tests.support.redis import redis_db, redis_url

__all__ = ["redis_db", "redis_url"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_db")]


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody loses the port because this machine was busy for some seconds; tests take it away themselves."""
    monkeypatch.setattr(serial_line, "LEASE_MS", 30_000)


@pytest.fixture
def port(socket_path: str) -> Iterator[SerialPort]:
    with serial_port(socket_path) as port:
        yield port


@pytest.fixture
def attach(alice: User, machine: Machine, socket_path: str) -> Iterator[Callable[[], socket.socket]]:
    """Begin a session; its first word has not been read."""
    ends: list[socket.socket] = []

    def begin() -> socket.socket:
        ends.append(open_line(Target(alice, machine, "/run/1/vnc.sock", "", serial_path=socket_path)))
        ends[-1].settimeout(20)
        return ends[-1]

    yield begin
    for end in ends:
        end.close()
    # The threads notice; the next test has another Redis.
    eventually(lambda: not store().exists(*(store().keys("casement:serial:*:holder") or ["none"])))


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def until(end: socket.socket, words: bytes) -> bytes:
    heard, deadline = b"", time.monotonic() + 60
    while words not in heard:
        assert time.monotonic() < deadline, f"not heard, only signs of life since {heard[-80:]!r}"
        piece = end.recv(65536)
        assert piece, f"it ended after {heard[-80:]!r}"
        heard += piece
    return heard


def test_history_is_bounded_and_announced(
    port: SerialPort, attach: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_line, "HISTORY_BYTES", 100)
    first = attach()
    eventually(lambda: port.has_visitor)
    port.say(b"long ago " * 50 + b"lately")
    assert until(first, b"lately").startswith(bytes(4) + b"long ago")
    second = attach()
    port.say(b"now")
    heard = until(second, b"now")
    assert int.from_bytes(heard[:4]) == 100
    assert heard[4:].endswith(b"latelynow")
    assert len(heard) == 4 + 100 + 3


def test_who_is_too_slow_misses_a_piece_and_is_told_so(
    port: SerialPort, attach: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept for them beyond the stream, and the guest waits for nobody."""
    monkeypatch.setattr(serial_line, "KEPT_PIECES", 8)
    monkeypatch.setattr(serial_line, "GATHER_S", 0)
    slow, quick = attach(), attach()
    eventually(lambda: port.has_visitor)
    for number in range(400):
        port.say(b"%04d" % number * 1024)
    port.say(b"THE END")
    heard = until(slow, b"THE END")
    assert SKIPPED in heard
    assert len(heard) < 400 * 4096
    until(quick, b"THE END")


def test_what_is_typed_faster_than_the_guest_takes_it_waits_in_order(
    port: SerialPort, attach: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis holds a few pieces at most; the rest waits in the socket pair, and so in the relay."""
    monkeypatch.setattr(serial_line, "WAITING_PIECES", 1)
    text = b"".join(b"%06d" % number for number in range(20_000))
    attach().sendall(text)
    eventually(lambda: len(port.heard) == len(text))
    assert bytes(port.heard) == text


@pytest.mark.parametrize("turn", range(5))
@pytest.mark.parametrize("has_port", [False, True])
def test_what_is_typed_while_the_port_changes_hands_keeps_its_order(
    port: SerialPort, attach: Callable[[], socket.socket], turn: int, has_port: bool
) -> None:
    """A page that is loaded anew: the old session has the port still, or has just given it away."""
    first = attach()
    eventually(lambda: port.has_visitor)
    second = attach()
    first.close()
    if has_port:
        eventually(lambda: port.visits == 2)
    text = bytes(range(1, 100))
    for number in text:
        second.sendall(bytes([number]))
        time.sleep(0.0001)  # So that they are several pieces, close behind each other.
    eventually(lambda: len(port.heard) == len(text))
    assert bytes(port.heard) == text
    heard = bytearray()

    def prompt_is_heard() -> bool:
        # Said again and again: the first may have typed all of it and go now, and what is said to nobody is lost.
        port.say(b"prompt")
        with contextlib.suppress(BlockingIOError):
            heard.extend(second.recv(65536, socket.MSG_DONTWAIT))
        return b"prompt" in heard

    eventually(prompt_is_heard)


def test_who_types_and_leaves_in_the_same_breath_has_typed(
    port: SerialPort, attach: Callable[[], socket.socket]
) -> None:
    """What different sessions type at the same moment has no order among them."""
    for number in range(1, 11):
        end = attach()
        end.sendall(bytes([number]))
        end.close()
    eventually(lambda: len(port.heard) >= 10)
    assert sorted(port.heard) == [*range(1, 11)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_redis_answer_was_lost_of_is_typed_once(
    port: SerialPort, attach: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A busy machine's Redis may answer too late: then nobody knows whether it has done what was asked for."""
    taken = redis.Redis.blmove
    lost = 0

    def late(client: redis.Redis, *arguments: Any) -> Any:
        nonlocal lost
        if moment == "before" and not lost:
            lost = 1
            raise redis.exceptions.TimeoutError
        piece = taken(client, *arguments)
        if moment == "after" and piece and not lost:
            lost = 1
            raise redis.exceptions.TimeoutError
        return piece

    monkeypatch.setattr(redis.Redis, "blmove", late)
    end = attach()
    end.sendall(b"one")
    eventually(lambda: lost)
    end.sendall(b"two")
    end.close()
    eventually(lambda: len(port.heard) >= 6)
    assert (bytes(port.heard), lost) == (b"onetwo", 1)


def test_a_holder_that_was_killed_with_a_piece_in_its_hands_has_left_it_to_the_next(
    port: SerialPort, attach: Callable[[], socket.socket]
) -> None:
    end = attach()
    (holder,) = store().keys("casement:serial:*:holder")
    store().rpush(cast(bytes, holder).replace(b":holder", b":taken"), b"half ")
    store().set(holder, "killed", px=1500)
    eventually(lambda: port.visits == 2)
    end.sendall(b"typed")
    eventually(lambda: len(port.heard) >= 10)
    assert bytes(port.heard) == b"half typed"


def test_the_port_of_a_machine_that_is_gone_cannot_be_opened_and_leaves_nothing(
    attach: Callable[[], socket.socket],
) -> None:
    for _ in range(2):
        with pytest.raises(LineError) as caught:
            attach()
        assert (caught.value.step, caught.value.reason) == (Step.HOST, "unreachable")
    assert not store().keys("casement:serial:*")


def test_the_end_of_the_machine_is_everybodys(port: SerialPort, attach: Callable[[], socket.socket]) -> None:
    ends = [attach(), attach()]
    eventually(lambda: port.has_visitor)
    port.say(b"bye")
    port.close()
    for end in ends:
        until(end, b"bye")
        assert end.recv(100) == b""


def test_a_lost_lease_is_taken_again_and_the_port_with_it(
    port: SerialPort, attach: Callable[[], socket.socket]
) -> None:
    """A process that was stopped for a while must not go on beside the next holder."""
    end = attach()
    eventually(lambda: port.has_visitor)
    (holder,) = store().keys("casement:serial:*:holder")
    store().set(holder, "somebody else")
    eventually(lambda: not port.has_visitor)
    store().delete(holder)
    eventually(lambda: port.has_visitor and port.visits == 2)
    port.say(b"again")
    until(end, b"again")


def test_a_silent_line_gives_a_sign_of_life_that_no_terminal_shows(
    port: SerialPort, attach: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial_line, "ALIVE_S", 0.1)
    assert not any(until(attach(), bytes(4) + b"\0")), "nothing was printed before, and there is nothing but signs"


def test_the_filter_lets_everything_through_or_nothing() -> None:
    typed = SerialInput(view_only=False)
    assert typed.feed(b"\x03\0\xff") == b"\x03\0\xff"
    typed.set_view_only(True)
    assert typed.feed(b"x") == typed.release() == b""
