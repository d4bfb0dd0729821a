"""Tell the browser, after commit, that somebody came to a screen or left it, or that another person controls it."""

import datetime as dt
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from portal.lib import live, prepared
from portal.machines.models import Grant


def people_changed(machine_id: UUID, project_id: UUID) -> None:
    """Everyone in the project, whoever has the one machine by a grant, and the operators look at its people again."""
    granted = _granted(machine_id, timezone.now())
    groups = [live.project_group(project_id), live.OPERATORS, *(live.user_group(user) for user in granted)]
    live.publish_on_commit(groups, [f"console:{machine_id}", "sessions"])


@prepared.rows
def _granted(machine: UUID, now: dt.datetime) -> QuerySet[Grant, int]:
    return Grant.objects.alive(now).filter(machine=machine).values_list("user_id", flat=True)
