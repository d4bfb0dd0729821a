"""Tell the browser, after commit, that an ISO changed; and write down, in the same transaction, what happened."""

from portal.events import services
from portal.events.kinds import Kind
from portal.isos.models import Iso
from portal.lib import live


def iso_changed(iso: Iso) -> None:
    """Everyone who sees it looks at it again."""
    group = live.project_group(iso.project_id) if iso.project_id else live.EVERYONE
    live.publish_on_commit([group, live.OPERATORS], [f"iso:{iso.pk}", "isos"])


def record(kind: Kind, iso: Iso, **data: object) -> None:
    services.record(kind, iso, project=iso.project_id, data=data)
