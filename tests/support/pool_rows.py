"""A pool with desktops that run, as far as the rows say: nothing is built."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from portal.accounts.models import User
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from portal.pools.models import Desktop, Entitlement, Pool
from portal.pools.states import DesktopState


def pool_of(
    machine: Machine, *, name: str = "lab", desktops: int = 2, entitled: tuple[User, ...] = (), **values: Any
) -> Pool:
    """Of the machine's project, image and size; its desktops' machines are like this one."""
    version, flavour = machine.image_version, machine.flavour
    assert version is not None and flavour is not None
    given: dict[str, Any] = {"title": "Lab desktop", "name_pattern": f"{name}-{{n}}", "maximum": 5} | values
    pool = Pool.objects.create(name=name, project=machine.project, image_version=version, flavour=flavour, **given)
    for number in range(1, desktops + 1):
        add_desktop(pool, machine, number)
    for person in entitled:
        Entitlement.objects.create(pool=pool, user=person)
    return pool


def add_desktop(pool: Pool, like: Machine, number: int, **values: Any) -> Desktop:
    """A free one that runs."""
    made = Machine.objects.create(
        project=pool.project,
        name=pool.name_pattern.replace("{n}", str(number)),
        kind="desktop",
        image_version=pool.image_version,
        flavour=pool.flavour,
        vcpus=1,
        memory_mib=1024,
        disk_gib=10,
        host=like.host,
        status=Status.READY,
        power_state=PowerState.RUNNING,
        power_state_at=timezone.now(),
        login_user="casement",
        mac=_mac(pool, number),
        console_socket="/nowhere/vnc.sock",
    )
    given: dict[str, Any] = {"state": DesktopState.SPARE, "image_version": pool.image_version} | values
    return Desktop.objects.create(pool=pool, number=number, machine=made, state_since=timezone.now(), **given)


def _mac(pool: Pool, number: int) -> str:
    own = pool.pk.bytes[:3]
    return ":".join(f"{byte:02x}" for byte in (0x56, *own, number >> 8, number & 255))
