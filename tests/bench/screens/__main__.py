"""`python -m tests.bench.screens FILE`: measure and write the rows there."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import django

django.setup()

from django.core.management import call_command
from django.db import connections

from portal.console import tickets
from portal.console.tickets import Claim, Mode
from portal.lib.secrets import seal
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from tests.bench.rows import to_json
from tests.bench.screens import click, doors
from tests.bench.screens.doors import Door, stage
from tests.bench.screens.measure import compare, idle, many, whole
from tests.support.estate import build_estate
from tests.support.web import cookie_of

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SCALE = float(os.environ.get("BENCH_SCALE", "1"))


def main(out: Path) -> None:
    call_command("migrate", verbosity=0)
    operator = build_estate(hosts=1, machines=1, projects=1).operator
    cookie = cookie_of(operator)
    key = cookie.partition(";")[0].partition("=")[2]
    machine = Machine.objects.live().first()
    assert machine is not None

    def admissions(count: int) -> list[str]:
        claim = Claim(operator.pk, tickets.session_hash(key), machine.pk, Mode.CONTROL)
        return [f"Cookie: {cookie}|{line}" for line in doors.with_tickets(place.redis_url, count, claim)]

    with stage(admissions) as place, contextlib.ExitStack() as stack:
        Machine.objects.filter(pk=machine.pk).update(
            status=Status.READY,
            task="",
            power_state=PowerState.RUNNING,
            console_socket=str(place.display),
            console_secret=seal(doors.SECRET),
        )
        connections.close_all()
        found: dict[str, Door] = {
            name: stack.enter_context(doors.in_both_widths(opens, place)) for name, opens in doors.DOORS.items()
        }
        portal = stack.enter_context(doors.whole_door_one(place))
        gateway = stack.enter_context(doors.in_both_widths(doors.whole_door_two, place))
        rows = compare({**found, "door 2": gateway}, ROUNDS, SCALE)
        rows += many(found["door 1"], portal, ROUNDS, SCALE)
        rows += whole(portal, gateway, ROUNDS, SCALE)
    # New processes, because those that have had many sessions keep room for as many.
    with stage() as place, doors.door_one(place) as one, doors.websockify(place) as other:
        rows += idle(one, other, SCALE)
    if click.is_possible():
        rows += click.measure(machine, cookie, place.folder.parent, ROUNDS)
    out.write_text(to_json(rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
