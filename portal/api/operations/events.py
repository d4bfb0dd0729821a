"""What happened in a project, as webhooks tell it."""

import datetime as dt
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import AwareDatetime, BaseModel

from portal.accounts.http import person
from portal.accounts.selectors import project_for
from portal.api.core import operation
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import TargetOut, Text, spelled_out
from portal.errors import InvalidError
from portal.events.kinds import Kind
from portal.events.models import Event
from portal.events.selectors import find_events

TAG: Final = "Events"
EventKind = Annotated[Kind, spelled_out(Kind)]
Area = Literal["", "machine", "job", "console", "image", "webhook"]


class HappenedOut(BaseModel):
    """`kind` is such as machine.state; what `detail` holds depends on it."""

    id: UUID
    at: dt.datetime
    kind: str
    subject: TargetOut
    project: UUID | None
    actor: str | None
    detail: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        return cls(
            id=event.uid,
            at=event.at,
            kind=event.kind,
            subject=TargetOut(type=event.subject_type, id=str(event.subject_id), name=event.subject_name),
            project=event.project_id,
            actor=event.actor_name or None,
            detail=event.data,
        )


@operation("GET", "projects/{uuid:pk}/events", tag=TAG, answers=Listed[HappenedOut], pages=("events:list",))
def list_project_events(
    request: HttpRequest,
    pk: UUID,
    *,
    page: Query[PageQuery],
    kind: EventKind | Area = "",
    q: Text = "",
    since: AwareDatetime | None = None,
    sort: Literal["-id", "id"] = "-id",
) -> Listed[HappenedOut]:
    """Events of a project, newest first, or with `sort=id` as they came. `kind` may be an area, such as machine; `q`
    looks in what they are about and who did it; `since` is a moment."""
    events = find_events(project_for(person(request), pk), kind=str(kind), search=q)
    if since is not None:
        events = events.filter(at__gte=_in_utc(since))
    return page_of(events, page, sort.replace("id", "pk")).shown(HappenedOut.of)


def _in_utc(moment: dt.datetime) -> dt.datetime:
    """Some moments of the years 1 and 9999 lie in no year elsewhere."""
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as error:
        raise InvalidError(_("This is no moment that anything could have happened at."), field="since") from error
