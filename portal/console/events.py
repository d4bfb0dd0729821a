"""Tell the browser, after commit, that somebody came to a screen or left it, or that another person controls it."""

from uuid import UUID

from portal.lib import live
from portal.machines.models import Grant


def people_changed(machine_id: UUID, project_id: UUID) -> None:
    """Everyone in the project, whoever has the one machine by a grant, and the operators look at its people again."""
    granted = Grant.objects.alive().filter(machine=machine_id).values_list("user_id", flat=True)
    groups = [live.project_group(project_id), live.OPERATORS, *(live.user_group(user) for user in granted)]
    live.publish_on_commit(groups, [f"console:{machine_id}", "sessions"])
