"""The audit trail, for operators."""

from typing import Final, Literal

from django.http import HttpRequest
from ninja import Query

from portal.api.core import operation
from portal.api.operations.parts import operators_only
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import EventOut, Text
from portal.audit.selectors import find_events

TAG: Final = "Audit"


@operation("GET", "audit", tag=TAG, answers=Listed[EventOut], pages=("audit:list",))
def list_events(
    request: HttpRequest,
    page: Query[PageQuery],
    q: Text = "",
    area: Text = "",
    sort: Literal["-at", "at"] = "-at",
) -> Listed[EventOut]:
    """Who did what, from where. `area` is what an action begins with, such as machine."""
    operators_only(request)
    events = page_of(find_events(search=q, area=area), page, sort)
    return events.shown(lambda event: EventOut.of(event, operator=True))
