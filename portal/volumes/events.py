"""Tell the browser, after commit, that a volume changed; and write down, in the same transaction, what happened."""

from typing import Any

from portal.events import services
from portal.events.kinds import Kind
from portal.lib import live
from portal.volumes.models import Volume


def volume_changed(volume: Volume) -> None:
    """Everyone in the project, and the operators, look at this volume again."""
    live.publish_on_commit(
        [live.project_group(volume.project_id), live.OPERATORS],
        [f"volume:{volume.pk}", "volumes", f"project:{volume.project_id}"],
    )


def record(kind: Kind, volume: Volume, **data: Any) -> None:
    services.record(kind, volume, project=volume.project_id, data=data)
