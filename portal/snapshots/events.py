"""Tell the browser, after commit, that a machine's snapshots changed; and write down what happened to one."""

from typing import Any

from portal.accounts.models import User
from portal.events import services
from portal.events.kinds import Kind
from portal.machines import events as machines
from portal.machines.models import Machine
from portal.snapshots.models import Snapshot


def snapshots_changed(machine: Machine) -> None:
    """They are shown on the machine's page, to whoever sees the machine."""
    machines.machine_changed(machine)


def record(kind: Kind, snapshot: Snapshot, *, actor: User | None = None, **data: Any) -> None:
    """`data` always names the machine."""
    machine = snapshot.machine
    about = {"machine": {"id": str(machine.pk), "name": machine.name}, **data}
    services.record(kind, snapshot, project=machine.project_id, actor=actor, data=about)
