"""What happened in a project, as webhooks tell it."""

import datetime as dt
from typing import Annotated, Final, Literal
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import AwareDatetime

from portal.accounts.http import person
from portal.accounts.models import Project
from portal.accounts.selectors import project_for
from portal.api import follow
from portal.api.auth import token_in
from portal.api.core import operation
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import HappenedOut, Text, spelled_out
from portal.errors import InvalidError
from portal.events.kinds import Kind
from portal.events.selectors import find_events

TAG: Final = "Events"
EventKind = Annotated[Kind, spelled_out(Kind)]
Area = Literal["", "machine", "volume", "job", "console", "image", "webhook"]


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


@operation("GET", "projects/{uuid:pk}/events/follow", tag=TAG, pages=("events:list",))
def follow_project_events(request: HttpRequest, pk: UUID, since: AwareDatetime | None = None) -> HttpResponse:
    """Follow a project's events: server-sent events named `event`, from now on or since a moment. With Last-Event-ID
    it goes on after that one."""
    project = project_for(person(request), pk)
    start = _in_utc(since) if since else _moment_of(project, request.headers.get("Last-Event-ID"))
    return follow.stream_events(request, project, token_in(request), start)


def _moment_of(project: Project, event_id: str | None) -> dt.datetime | None:
    """What came at the same moment as the last one may come again: with the same id, rather than not at all."""
    try:
        event = find_events(project).filter(uid=UUID(event_id)).first() if event_id else None
    except ValueError:
        return None
    return event.at if event else None


def _in_utc(moment: dt.datetime) -> dt.datetime:
    """Some moments of the years 1 and 9999 lie in no year elsewhere."""
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError as error:
        raise InvalidError(_("This is no moment that anything could have happened at."), field="since") from error
