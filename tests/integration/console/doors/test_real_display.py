"""A real QEMU's VNC through each door: its secret on our side, its picture on the browser's."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from portal.accounts.models import User
from portal.machines.models import Machine
from tests.integration.console.doors.conftest import Door, Person, eventually
from tests.integration.console.doors.screens import SECRET
from tests.integration.console.doors.wire import Wire
from tests.integration.console.qemu import running_qemu

pytestmark = [pytest.mark.real, pytest.mark.django_db(transaction=True)]

HEAD = 12 + 2 + 4
FULL_UPDATE = 3


def test_the_screen_of_a_real_qemu_comes_through_each_door(
    door: Door, alice: User, screen: Machine, sit_down: Callable[[User], Person]
) -> None:
    with running_qemu(screen.console_socket, SECRET):
        wire = door.enter(sit_down(alice), screen)
        size = struct.unpack_from(">HH", wire.received, HEAD)
        wire.send(struct.pack(">BxHi", 2, 1, 0))
        eventually(lambda: any(_picture(wire, *size)))
        wire.leave()


def _picture(wire: Wire, width: int, height: int) -> bytes:
    """Ask for the whole screen; the raw pixels of what comes, which is less where the guest has changed its mode."""
    at = len(wire.received)
    wire.send(struct.pack(">BBHHHH", FULL_UPDATE, 0, 0, 0, width, height))
    kind, rectangles = struct.unpack_from(">BxH", wire.until(at + 4), at)
    assert kind == 0
    at += 4
    pixels = b""
    for _ in range(rectangles):
        _x, _y, wide, high, encoding = struct.unpack_from(">HHHHi", wire.until(at + 12), at)
        assert encoding == 0
        at += 12 + wide * high * 4
        pixels += wire.until(at)[at - wide * high * 4 : at]
    return pixels
