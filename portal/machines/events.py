"""Tell the browser, after commit, that a machine changed; and write down, in the same transaction, what happened."""

from collections.abc import Collection
from typing import Any

from portal.accounts.models import User
from portal.events import services
from portal.events.kinds import Kind
from portal.lib import live
from portal.machines.models import Machine


def machine_changed(machine: Machine) -> None:
    """Everyone in the project, and the operators, look at this machine again."""
    live.publish_on_commit(
        [live.project_group(machine.project_id), live.OPERATORS],
        [f"machine:{machine.pk}", "machines", f"project:{machine.project_id}"],
    )


def screen_came(machine: Machine) -> None:
    """Whoever waits for it in front of the machine's page sees it at once."""
    live.publish_on_commit([live.project_group(machine.project_id), live.OPERATORS], [f"screen:{machine.pk}"], now=True)


def machines_changed(machines: Collection[Machine]) -> None:
    """As `machine_changed`, in one message for many of one project."""
    if machines:
        project_id = next(iter(machines)).project_id
        topics = [f"machine:{machine.pk}" for machine in machines]
        groups = [live.project_group(project_id), live.OPERATORS]
        live.publish_on_commit(groups, [*topics, "machines", f"project:{project_id}"])


def record_many(kind: Kind, machines: Collection[Machine], data: dict[str, Any]) -> None:
    if machines:
        project_id = next(iter(machines)).project_id
        services.record_many(kind, [(machine, data) for machine in machines], project=project_id)


def record(kind: Kind, machine: Machine, *, actor: User | None = None, **data: Any) -> None:
    services.record(kind, machine, project=machine.project_id, actor=actor, data=data)


def record_power(machine: Machine, power_state: str) -> None:
    record(Kind.MACHINE_STATE, machine, power_state=str(power_state))


def record_changed(machine: Machine, changed: Collection[str], *, actor: User) -> None:
    """What people set of it, in the words of README.md, "Events and webhooks"; what they set it to is not told."""
    record(Kind.MACHINE_CHANGED, machine, actor=actor, changed=sorted(changed))
