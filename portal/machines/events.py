"""Tell the browser, after commit, that a machine changed."""

from portal.lib import live
from portal.machines.models import Machine


def machine_changed(machine: Machine) -> None:
    """Everyone in the project, and the operators, look at this machine again."""
    live.publish_on_commit(
        [live.project_group(machine.project_id), live.OPERATORS],
        [f"machine:{machine.pk}", "machines", f"project:{machine.project_id}"],
    )
