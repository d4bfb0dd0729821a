"""Screens that are or were open, for operators."""

from typing import Final, Literal
from uuid import UUID

from django.http import HttpRequest
from ninja import Query

from portal.accounts.http import client_ip
from portal.api.core import Guard, operation
from portal.api.operations.parts import operators_only
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import SessionOut, Text
from portal.console import services
from portal.console.models import ConsoleSession
from portal.console.selectors import find_sessions, session_for
from portal.machines.selectors import machine_for

TAG: Final = "Sessions"


@operation("GET", "sessions", tag=TAG, answers=Listed[SessionOut], pages=("sessions:list",))
def list_sessions(
    request: HttpRequest,
    *,
    page: Query[PageQuery],
    state: Literal["open", "ended"] = "open",
    mode: ConsoleSession.Mode | None = None,
    q: Text = "",
    sort: Literal["-started_at", "started_at"] = "-started_at",
) -> Listed[SessionOut]:
    """Screens that are open, or that ended in the last days. `q` looks in people, machines, projects, addresses."""
    operators_only(request)
    found = find_sessions(ended=state == "ended", search=q, mode=mode or "")
    return page_of(found, page, sort).shown(SessionOut.of)


@operation("GET", "sessions/{uuid:pk}", tag=TAG, answers=SessionOut, pages=("sessions:list",))
def show_session(request: HttpRequest, pk: UUID) -> SessionOut:
    """One of them."""
    operators_only(request)
    return SessionOut.of(session_for(pk))


@operation(
    "DELETE",
    "sessions/{uuid:pk}",
    tag=TAG,
    answers=SessionOut,
    pages=("sessions:end",),
    guards=Guard(ConsoleSession, show_session),
)
def end_session(request: HttpRequest, pk: UUID) -> SessionOut:
    """End somebody's screen; it closes within two seconds. One that has ended stays as it is."""
    user = operators_only(request)
    services.order_end(session_for(pk), actor=user, request_ip=client_ip(request))
    return show_session(request, pk)


@operation("POST", "sessions/{uuid:pk}/watch", tag=TAG, answers=SessionOut, pages=("sessions:watch",))
def watch_session(request: HttpRequest, pk: UUID) -> SessionOut:
    """Write down that you watch this screen, before you ask for a ticket with mode=view."""
    user = operators_only(request)
    session = session_for(pk)
    machine_for(user, session.machine_id or "")
    services.record_watching(session, actor=user, request_ip=client_ip(request))
    return SessionOut.of(session)
