"""A real QEMU's VNC through each door: its secret on our side, its picture on the browser's."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from portal.accounts.models import User
from portal.machines.models import Machine
from tests.integration.console.doors.conftest import Door, Person
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
        width, height = struct.unpack_from(">HH", wire.received, HEAD)
        wire.send(struct.pack(">BxHi", 2, 1, 0))
        _has_a_picture(wire, width, height)
        wire.leave()


def _has_a_picture(wire: Wire, width: int, height: int) -> None:
    """Ask for the whole screen, in raw pixels, until the firmware has painted something."""
    start = len(wire.received)
    size = 4 + 12 + width * height * 4
    wire.send(struct.pack(">BBHHHH", FULL_UPDATE, 0, 0, 0, width, height))
    wire.until(start + size)
    kind, rectangles, x, y, wide, high, encoding = struct.unpack_from(">BxHHHHHi", wire.received, start)
    assert (kind, rectangles, x, y, wide, high, encoding) == (0, 1, 0, 0, width, height, 0)
