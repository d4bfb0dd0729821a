"""Tell the browser, after commit, that somebody came to a screen or left it, or that another person controls it."""

from uuid import UUID

from portal.lib import live


def people_changed(machine_id: UUID, project_id: UUID) -> None:
    """Everyone in the project and the operators look at the screen's people again."""
    live.publish_on_commit([live.project_group(project_id), live.OPERATORS], [f"console:{machine_id}", "sessions"])
