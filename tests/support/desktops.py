"""Pools whose desktops are there at once: rows in bulk, as if workers had built them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from django.contrib.auth.hashers import make_password
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.machines.models import Flavour, Machine
from portal.machines.states import PowerState, Status
from portal.pools.models import Desktop, Entitlement, Pool, Session
from portal.pools.states import DesktopState

BATCH = 2000


def stocked_pool(
    name: str,
    *,
    project: Project,
    version: ImageVersion,
    flavour: Flavour,
    hosts: Sequence[Host],
    desktops: int,
    first_mac: int = 0,
    **values: Any,
) -> Pool:
    """With so many desktops, all ready."""
    settings = {"maximum": desktops, "spare": 0, "minimum": desktops, **values}
    pool = Pool.objects.create(
        name=name, title=name.title(), project=project, image_version=version, flavour=flavour,
        name_pattern=f"{name}-{{n}}", **settings,
    )  # fmt: skip
    now = timezone.now()
    machines = [
        Machine(
            project=project,
            name=f"{name}-{number}",
            kind=version.image.kind,
            image_version=version,
            flavour=flavour,
            vcpus=flavour.vcpus,
            memory_mib=flavour.memory_mib,
            disk_gib=flavour.disk_gib,
            host=hosts[number % len(hosts)],
            status=Status.READY,
            power_state=PowerState.RUNNING,
            power_state_at=now,
            ready_at=now,
            login_user="user",
            mac="52:54:" + (first_mac + number).to_bytes(4, "big").hex(":"),
            console_socket="/nowhere/vnc.sock",
        )
        for number in range(1, desktops + 1)
    ]
    Machine.objects.bulk_create(machines, BATCH)
    Desktop.objects.bulk_create(
        [
            Desktop(
                pool=pool,
                number=number,
                machine=machine,
                image_version=version,
                state=DesktopState.SPARE,
                state_since=now,
            )
            for number, machine in enumerate(machines, 1)
        ],
        BATCH,
    )
    return pool


def people(count: int, *, pool: Pool | None = None, prefix: str = "person") -> list[User]:
    """So many, entitled to the pool if there is one."""
    unusable = make_password(None)
    users = [User(username=f"{prefix}-{number:05}", password=unusable) for number in range(count)]
    User.objects.bulk_create(users, BATCH)
    if pool is not None:
        Entitlement.objects.bulk_create([Entitlement(pool=pool, user=user) for user in users], BATCH)
    return users


def handed_out_twice(pool: Pool) -> list[str]:
    """What must never be: a desktop with two sessions, a person with more than they may have, a row that lies."""
    live = list(Session.objects.live().filter(pool=pool).select_related("desktop", "person"))
    wrong = []
    for what, keys in (
        ("desktop", [session.desktop_id for session in live]),
        ("machine", [session.machine_id for session in live]),
        ("person", [session.person_id for session in live]),
    ):
        wrong += [f"{what} {key} has {number} sessions" for key, number in Counter(keys).items() if number > 1]
    wrong += [
        f"{session} is on a desktop that is {session.desktop.state} of {session.desktop.person}"
        for session in live
        if session.desktop.state != DesktopState.TAKEN or session.desktop.person_id != session.person_id
    ]
    with_session = {session.desktop_id for session in live}
    taken = Desktop.objects.filter(pool=pool, state=DesktopState.TAKEN).values_list("pk", flat=True)
    wrong += [f"desktop {pk} is taken by nobody" for pk in set(taken) - with_session]
    return wrong
