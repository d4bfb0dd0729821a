"""Tell the browser, after commit, that a volume changed."""

from portal.lib import live
from portal.volumes.models import Volume


def volume_changed(volume: Volume) -> None:
    """Everyone in the project, and the operators, look at this volume again."""
    live.publish_on_commit(
        [live.project_group(volume.project_id), live.OPERATORS],
        [f"volume:{volume.pk}", "volumes", f"project:{volume.project_id}"],
    )
