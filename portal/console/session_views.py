"""The operators' list of sessions: which screens are open, and which were; end one, watch one."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, operators_only, person
from portal.console import services
from portal.console.models import ConsoleSession
from portal.console.selectors import SHOWN_DAYS, find_sessions, holder_of, session_for
from portal.console.tickets import Kind, Mode
from portal.console.words import how_it_ended
from portal.lib.paging import page_of, text_of
from portal.machines.selectors import machine_for


@dataclass(frozen=True, slots=True)
class Line:
    session: ConsoleSession
    controls: bool
    machine_is_there: bool
    seconds: float | None
    how: str


@require_safe
@operators_only
def session_list(request: HttpRequest) -> HttpResponse:
    search, state, mode = text_of(request, "q"), text_of(request, "state"), text_of(request, "mode")
    page = page_of(request, find_sessions(ended=state == "ended", search=search, mode=mode))
    context = {
        "page": page,
        "lines": [_line(session) for session in page],
        "search": search,
        "state": state,
        "mode": mode,
        "modes": ConsoleSession.Mode.choices,
        "ended": state == "ended",
        "days": SHOWN_DAYS,
        "filtered": bool(search or mode),
    }
    return render(request, "console/_sessions.html" if is_live(request) else "console/sessions.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@operators_only
def session_end(request: HttpRequest, pk: UUID) -> HttpResponse:
    session = session_for(pk)
    if request.method != "POST":
        template = "console/_session_end.html" if is_live(request) else "console/session_end.html"
        return render(request, template, {"session": session})
    if services.order_end(session, actor=person(request), request_ip=client_ip(request)):
        messages.success(request, _("%(person)s's session has been ended.") % {"person": session.user_name})
    else:
        messages.info(request, _("%(person)s's session had ended already.") % {"person": session.user_name})
    return redirect("sessions:list")


@require_POST
@operators_only
def session_watch(request: HttpRequest, pk: UUID) -> HttpResponse:
    session = session_for(pk)
    machine = machine_for(request.user, session.machine_id or "")
    services.record_watching(session, actor=person(request), request_ip=client_ip(request))
    page = "console:serial" if session.kind == Kind.SERIAL else "console:screen"
    return redirect(reverse(page, args=[machine.pk]) + "?watch=1")


def _line(session: ConsoleSession) -> Line:
    machine = session.machine
    controls = machine is not None and session.mode == Mode.CONTROL and holder_of(machine) == session.user_id
    return Line(
        session,
        controls and session.ended_at is None,
        machine is not None and machine.status != "deleted",
        (session.ended_at - session.started_at).total_seconds() if session.ended_at else None,
        how_it_ended(session),
    )
