"""`python -m tests.bench.pools FILE`: sign-ins at their times against large pools, and what becomes of the pools.

Real: the broker, the pools' looking after, audit and event rows, messages to browsers and workers through Redis, and
the database. Not real: hosts, and the workers' jobs on them, which `fleet.py` does in bulk; and nobody's files follow
them, which is such jobs too. People come at their times whether or not others have been answered, and an answer's time
counts from when its person came.
"""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from uuid import UUID

import django

django.setup()

from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import connection
from django.db.models import Count, Q
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.console.models import ConsoleSession, ScreenControl
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion, Kind, Source, VersionStatus
from portal.lib import live
from portal.machines.models import Flavour, Grant
from portal.pools.models import Desktop, Entitlement, Pool, Session, SpareHours
from portal.pools.states import DesktopState
from tests.bench.pools import crowd
from tests.bench.pools.fleet import Fleet
from tests.bench.rows import Row, to_json
from tests.support.desktops import handed_out_twice, people, stocked_pool

POOLS, EACH = map(int, os.environ.get("BENCH_SIZE", "40,500").split(","))
MINUTES = float(os.environ.get("BENCH_MINUTES", "2"))
PER_MINUTE = 2000
TAKEN = EACH * 7 // 10
SPARE = EACH - TAKEN
# What a plan for more wants besides.
MORE = 20
ANSWER_MS = 150
TENDED_EVERY_S = 3.0
SETTLED_S = 60
GIB = 1024**3


def main(out: Path) -> None:
    live.keep_loop()
    call_command("migrate", verbosity=0)
    pools = _site()
    _analyze()
    rows = _simulate(pools)
    out.write_text(to_json([replace(row, name=f"{connection.vendor}.{row.name}") for row in rows]), encoding="utf-8")


# --- the site ------------------------------------------------------------------------------------------------------


def _site() -> list[Pool]:
    many = 10**7
    project = Project.objects.create(
        name="Desktops", max_machines=many, max_vcpus=many, max_memory_mib=2**31 - 1, max_disk_gib=many
    )
    hosts = [
        Host(
            name=f"rack-{number:03}",
            uri=f"fake://rack-{number:03}",
            pool_dir="/nowhere",
            cpus=512,
            memory_mib=2**20,
            storage_total_bytes=10_000 * GIB,
            storage_free_bytes=9000 * GIB,
            last_seen_at=timezone.now(),
        )
        for number in range(200)
    ]
    Host.objects.bulk_create(hosts)
    image = Image.objects.create(
        slug="office", title="Office", kind=Kind.DESKTOP, source=Source.UPLOAD, min_memory_mib=512, has_agent=False
    )
    version = ImageVersion.objects.create(
        image=image, number=1, status=VersionStatus.READY, virtual_size_bytes=4 * GIB, sha256="0" * 64
    )
    flavour = Flavour.objects.create(name="desk", title="Desk", vcpus=2, memory_mib=2048, disk_gib=10)
    return [_pool(number, project, version, flavour, hosts) for number in range(POOLS)]


def _pool(number: int, project: Project, version: ImageVersion, flavour: Flavour, hosts: list[Host]) -> Pool:
    pool = stocked_pool(
        f"pool-{number:02}",
        project=project,
        version=version,
        flavour=flavour,
        hosts=hosts,
        desktops=EACH,
        first_mac=number * 100_000,
        spare=SPARE,
        minimum=0,
        maximum=EACH + SPARE,
        keeps_files=False,
    )
    group = Group.objects.create(name=pool.name)
    Entitlement.objects.create(pool=pool, group=group)
    users = people(EACH, prefix=f"{pool.name}-person")
    User.groups.through.objects.bulk_create([User.groups.through(user_id=user.pk, group_id=group.pk) for user in users])
    _sit_down(pool, users[:TAKEN])
    _count_quota(project, EACH, flavour)
    return pool


def _sit_down(pool: Pool, users: list[User]) -> None:
    """They have worked for a while."""
    now, there = timezone.now(), Desktop.objects.filter(pool=pool).select_related("machine").order_by("number")
    desktops = list(there[: len(users)])
    machines = [desktop.machine for desktop in desktops if desktop.machine is not None]
    for desktop, user in zip(desktops, users, strict=True):
        desktop.person, desktop.state = user, DesktopState.TAKEN
    Desktop.objects.bulk_update(desktops, ["person", "state"], 500)
    times = {"asked_at": now, "started_at": now, "last_active_at": now, "on_screen_at": now}
    Session.objects.bulk_create(
        [
            Session(pool=pool, desktop=desktop, machine=desktop.machine, person=user, **times)
            for desktop, user in zip(desktops, users, strict=True)
        ],
        500,
    )
    Grant.objects.bulk_create(
        [Grant(machine=machine, user=user) for machine, user in zip(machines, users, strict=True)], 500
    )
    ConsoleSession.objects.bulk_create(
        [
            ConsoleSession(
                user=user, user_name=user.username, machine=machine, machine_name=machine.name, mode="control"
            )
            for machine, user in zip(machines, users, strict=True)
        ],
        500,
    )
    ScreenControl.objects.bulk_create(
        [ScreenControl(machine=machine, user=user, since=now) for machine, user in zip(machines, users, strict=True)],
        500,
    )


def _count_quota(project: Project, number: int, flavour: Flavour) -> None:
    project.used_machines += number
    project.used_vcpus += number * flavour.vcpus
    project.used_memory_mib += number * flavour.memory_mib
    project.used_disk_gib += number * flavour.disk_gib
    project.save()
    per_host = number // 200 + 1
    Host.objects.update(
        reserved_vcpus=per_host * POOLS * flavour.vcpus,
        reserved_memory_mib=per_host * POOLS * flavour.memory_mib,
        reserved_disk_gib=per_host * POOLS * flavour.disk_gib,
    )


def _analyze() -> None:
    """What PostgreSQL does by itself a minute after so much was written: it learns how the rows are spread."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


# --- the minutes ---------------------------------------------------------------------------------------------------


def _simulate(pools: list[Pool]) -> list[Row]:
    per_s = PER_MINUTE / 60
    number = round(PER_MINUTE * MINUTES)
    seconds = MINUTES * 60
    coming, leaving = _who_comes(pools, number), _who_leaves(number)
    fleet = Fleet()
    fleet.start()
    began = time.monotonic()
    tender = crowd.start(crowd.look_after, [pool.pk for pool in pools], seconds + SETTLED_S, TENDED_EVERY_S)
    leavers = crowd.start(crowd.sign_out, leaving, per_s)
    comers = crowd.start(crowd.sign_in, coming, per_s)
    lowest, followed_s = _watch(pools, until=began + seconds)
    signed_in = crowd.ended(*comers, within_s=600)
    signed_out = crowd.ended(*leavers, within_s=600)
    tended = crowd.ended(*tender, within_s=600)
    fleet.stopping.set()
    fleet.join(30)
    twice = [text for pool in pools for text in handed_out_twice(pool)]
    off_plan = _off_plan(pools)
    answers = [value * 1000 for value in signed_in.taken]
    p95 = quantiles(answers, n=20)[18]
    cycle_ms = 1000 * (signed_in.cpu_s + signed_out.cpu_s + tended.cpu_s) / number
    return [
        Row("broker.answer", p95, "ms p95", target=f"< {ANSWER_MS} ms", ok=p95 < ANSWER_MS),
        Row("broker.answer.median", median(answers), "ms"),
        Row("broker.answer.worst", max(answers), "ms"),
        Row("broker.ask.cpu", 1000 * signed_in.cpu_s / number, "ms each"),
        Row("broker.sign-out.cpu", 1000 * signed_out.cpu_s / number, "ms each"),
        Row("broker.whole-cycle.cpu", cycle_ms, "ms each"),
        Row("broker.sign-out", quantiles(signed_out.taken, n=20)[18] * 1000, "ms p95"),
        Row("broker.got-a-desktop", signed_in.outcomes.get("desktop", 0), f"of {number}"),
        Row("broker.handed-out-twice", len(twice), "desktops", target="0", ok=not twice),
        Row("pools.look", quantiles(tended.taken, n=20)[18] * 1000, "ms p95"),
        Row("pools.spare.lowest", lowest, f"of {SPARE} planned", ok=lowest > SPARE * 0.5, target=f"> {SPARE // 2}"),
        Row("pools.spare.plan-followed", followed_s, "s", target="< 30 s", ok=followed_s < 30),
        Row("pools.spare.off-plan-at-the-end", off_plan, "pools", target="0", ok=off_plan == 0),
        Row("pools.rebuilt", fleet.built, "machines"),
    ]


def _who_comes(pools: list[Pool], number: int) -> list[tuple[UUID, int]]:
    dice = random.Random(2)  # noqa: S311 - the same run each time
    on = set(Session.objects.live().values_list("person_id", flat=True))
    by_group = {pool.name: pool.pk for pool in pools}
    members = User.groups.through.objects.values_list("group__name", "user_id")
    free = [(by_group[name], user) for name, user in members if user not in on]
    dice.shuffle(free)
    assert len(free) >= number, "not so many people are left"
    return free[:number]


def _who_leaves(number: int) -> list[UUID]:
    dice = random.Random(3)  # noqa: S311 - as above
    sessions = list(Session.objects.live().values_list("pk", flat=True))
    dice.shuffle(sessions)
    return sessions[:number]


def _watch(pools: list[Pool], *, until: float) -> tuple[int, float]:
    """The lowest number of free desktops that any pool had; and, of a plan for more that begins half-way in a quarter
    of the pools, how long it took until the last of them had most of what it asks for.
    """
    lowest = SPARE
    more = {pool.pk for pool in pools[: max(POOLS // 4, 1)]}
    changes_at = time.monotonic() + (until - time.monotonic()) / 2
    changed_at = 0.0
    behind = set(more)
    followed_s = 999.0
    while time.monotonic() < until:
        free = _free(pools)
        lowest = min(lowest, *free.values())
        if not changed_at and time.monotonic() > changes_at:
            for weekday in range(7):
                SpareHours.objects.bulk_create(
                    SpareHours(pool_id=pk, weekday=weekday, from_minute=0, to_minute=1440, spare=SPARE + MORE)
                    for pk in more
                )
            changed_at = time.monotonic()
        # A few of each are always on their way, for people come and go meanwhile.
        elif changed_at and behind:
            behind = {pk for pk in behind if free[pk] < SPARE + MORE // 2}
            if not behind:
                followed_s = time.monotonic() - changed_at
        time.sleep(1)
    return lowest, followed_s


def _free(pools: list[Pool]) -> dict[UUID, int]:
    counted = Pool.objects.annotate(free=Count("desktops", filter=Q(desktops__state=DesktopState.SPARE)))
    return dict(counted.filter(pk__in=[pool.pk for pool in pools]).values_list("pk", "free"))


def _off_plan(pools: list[Pool]) -> int:
    """Pools that have, once all is quiet, not as many free ones as planned."""
    planned = dict(SpareHours.objects.values_list("pool_id", "spare"))
    return sum(number != planned.get(pk, SPARE) for pk, number in _free(pools).items())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
