"""One look at every host, as the watcher has it: when nothing differs, and when one machine in fifty does."""

from __future__ import annotations

import cProfile
import io
import pstats
import sys
import time
from uuid import UUID

from portal.machines.models import Machine
from portal.machines.states import PowerState, Status, Task
from tests.bench.rows import Row
from tests.support.estate import Estate
from workers.hypervisor.fake import fake_host
from workers.hypervisor.types import PowerState as HostPowerState
from workers.reconcile import reconcile_host

TARGET_S = 60
PROFILED = 100


def measure(estate: Estate) -> list[Row]:
    rows = [_row("reconcile.first", estate), _row("reconcile.nothing-differs", estate)]
    changed = _switch_off_some(estate)
    rows.append(_row("reconcile.one-in-fifty-differs", estate))
    wrong = Machine.objects.filter(pk__in=changed).exclude(power_state=PowerState.SHUT_OFF).count()
    assert wrong == 0, f"{wrong} of {len(changed)} machines were not brought up to date"
    _profile(estate)
    return rows


def _row(name: str, estate: Estate) -> Row:
    began = time.perf_counter()
    for host in estate.hosts:
        reconcile_host(host.pk)
    taken = time.perf_counter() - began
    return Row(name, taken, "s", target=f"< {TARGET_S} s", ok=taken < TARGET_S)


def _switch_off_some(estate: Estate) -> list[UUID]:
    """In the guests, so that nobody told the portal."""
    running = Machine.objects.filter(status=Status.READY, task=Task.NONE, power_state=PowerState.RUNNING)
    some = list(running.select_related("host").order_by("pk")[::50])
    for machine in some:
        fake_host(machine.host.uri.removeprefix("fake://")).set_power(machine.pk, HostPowerState.SHUT_OFF)
    return [machine.pk for machine in some]


def _profile(estate: Estate) -> None:
    """Where the time goes, for whoever watches."""
    profile = cProfile.Profile()
    profile.enable()
    for host in estate.hosts[:PROFILED]:
        reconcile_host(host.pk)
    profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(r"(portal|workers|execute|channels)", 25)
    sys.stderr.write(text.getvalue())
