"""Screens: tickets, who is at one and who controls it, share links, the small picture."""

import datetime as dt
from typing import Annotated, Final, Self
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import get_script_prefix, reverse
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.api.auth import token_in
from portal.api.core import Guard, operation
from portal.api.operations.parts import person_named
from portal.api.paging import Listed
from portal.api.schemas import (
    LinkIn,
    LinkOut,
    NewLinkOut,
    OpenedOut,
    OpenLinkIn,
    PeopleOut,
    PersonIn,
    SelftestOut,
    StepTriedOut,
    Text,
    TicketIn,
    TicketOut,
)
from portal.console import control, serial_log, services, tickets
from portal.console.models import ConsoleLink, ConsoleSession
from portal.console.selectors import best_target_for, links_on, people_on
from portal.console.selftest import run_steps
from portal.console.thumbnails import look_at
from portal.console.tickets import Claim, Mode
from portal.errors import ForbiddenError, NotFoundError
from portal.machines.models import Machine
from portal.machines.selectors import machine_for

TAG: Final = "Screens"
LogWords = Annotated[Text, Field(max_length=200)]


def _machine(request: HttpRequest, pk: UUID) -> Machine:
    return machine_for(person(request), pk, Permission.MACHINE_CONSOLE_VIEW)


@operation(
    "POST",
    "machines/{uuid:pk}/screen/ticket",
    tag=TAG,
    answers=TicketOut,
    status=201,
    pages=("console:ticket", "console:screen", "console:serial"),
)
def make_ticket(request: HttpRequest, pk: UUID, body: TicketIn) -> TicketOut:
    """What opens the screen's WebSocket, or the serial line's, once, within half a minute. Who may only watch gets one
    to watch."""
    user = person(request)
    mode, _target = best_target_for(user, pk, Mode(body.mode), body.kind)
    credential = tickets.credential_of(token_in(request).token_hash)
    claim = Claim(user.pk, tickets.session_hash(credential), pk, mode, kind=body.kind)
    door = settings.CONSOLE_GATEWAY_URL or f"{get_script_prefix()}ws/console/"
    return TicketOut(ticket=tickets.issue(claim), path=door, mode=ConsoleSession.Mode(str(mode)), session=claim.number)


@operation(
    "GET",
    "machines/{uuid:pk}/screen/test",
    tag=TAG,
    answers=SelftestOut,
    pages=("console:selftest", "console:selftest-steps"),
)
def try_screen(request: HttpRequest, pk: UUID) -> SelftestOut:
    """Try each step of the way to a screen, up to the display's own greeting."""
    user = person(request)
    machine_for(user, pk)
    results = run_steps(user, tickets.credential_of(token_in(request).token_hash), pk)
    return SelftestOut(
        steps=[
            StepTriedOut(name=one.name, ok=one.ok, ms=round(one.ms, 1), step=one.step, reason=one.reason)
            for one in results
        ]
    )


@operation("GET", "machines/{uuid:pk}/screen/thumbnail", tag=TAG, pages=("console:thumbnail",))
def show_thumbnail(request: HttpRequest, pk: UUID) -> HttpResponseBase:
    """The screen in small, as WebP; 204 when there is none, 202 while the first is being taken."""
    look = look_at(_machine(request, pk))
    if look.thumbnail is None:
        return HttpResponse(status=202 if look.is_coming else 204)
    found = look.thumbnail
    return HttpResponse(found.data, content_type="image/webp", headers={"ETag": f'"{found.etag}"'})


# --- the console log ----------------------------------------------------------------------------------------------


class LogLineOut(BaseModel):
    number: int
    text: str
    more: int = Field(description="So many characters of the line are left out.")


class LogOut(BaseModel):
    """`lines` are the newest of those that match; `matching` of `total` lines do. The log is brought from its host
    while somebody asks: until the first copy is there, `read_at` is null."""

    lines: list[LogLineOut]
    matching: int
    total: int
    read_at: dt.datetime | None
    problem: str

    @classmethod
    def of(cls, look: serial_log.Look, words: str) -> Self:
        found = serial_log.excerpt(look.text or "", words)
        lines = [
            LogLineOut(number=line.number, text="".join(text for text, _is_match in line.pieces), more=line.more)
            for line in found.lines
        ]
        return cls(
            lines=lines,
            matching=found.matching,
            total=found.total,
            read_at=look.read_at if look.text is not None else None,
            problem=look.problem,
        )


@operation("GET", "machines/{uuid:pk}/console-log", tag=TAG, answers=LogOut, pages=("console:serial-log",))
def show_console_log(request: HttpRequest, pk: UUID, q: LogWords = "") -> LogOut:
    """What the machine printed on its serial port, always as harmless text. `q` leaves lines with these words."""
    return LogOut.of(serial_log.look_at(_machine(request, pk)), q)


@operation("GET", "machines/{uuid:pk}/console-log/text", tag=TAG, pages=("console:serial-log-download",))
def download_console_log(request: HttpRequest, pk: UUID) -> HttpResponseBase:
    """All of the console log as plain text; 202 while it is on its way from the host: ask again in a moment."""
    machine = _machine(request, pk)
    look = serial_log.look_at(machine)
    if look.text is None:
        return HttpResponse(status=202, headers={"Retry-After": str(serial_log.EVERY_S)})
    disposition = content_disposition_header(True, f"{machine.name}-console.txt") or "attachment"
    headers = {"Content-Disposition": disposition, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return HttpResponse(look.text, content_type="text/plain; charset=utf-8", headers=headers)


# --- people -------------------------------------------------------------------------------------------------------


@operation("GET", "machines/{uuid:pk}/screen/people", tag=TAG, answers=PeopleOut, pages=("console:people",))
def list_people(request: HttpRequest, pk: UUID) -> PeopleOut:
    """Who is at a screen, and who controls it. Its ETag is what changes of control and people take as If-Match."""
    return PeopleOut.of(people_on(_machine(request, pk), person(request)))


PEOPLE: Final = Guard(Machine, list_people)


@operation(
    "POST",
    "machines/{uuid:pk}/screen/control/take",
    tag=TAG,
    answers=PeopleOut,
    pages=("console:take",),
    guards=PEOPLE,
)
def take_control(request: HttpRequest, pk: UUID) -> PeopleOut:
    """Control a screen that you have open; from somebody else only if you may moderate."""
    control.take(_machine(request, pk), actor=person(request), request_ip=client_ip(request))
    return list_people(request, pk)


@operation(
    "POST",
    "machines/{uuid:pk}/screen/control/ask",
    tag=TAG,
    answers=PeopleOut,
    pages=("console:ask",),
    guards=PEOPLE,
)
def ask_for_control(request: HttpRequest, pk: UUID) -> PeopleOut:
    """Let who controls the screen know that you want to."""
    control.ask(_machine(request, pk), actor=person(request))
    return list_people(request, pk)


@operation(
    "POST",
    "machines/{uuid:pk}/screen/control/give",
    tag=TAG,
    answers=PeopleOut,
    pages=("console:give",),
    guards=PEOPLE,
)
def give_control(request: HttpRequest, pk: UUID, body: PersonIn) -> PeopleOut:
    """Hand control over to somebody who is there."""
    machine = _machine(request, pk)
    somebody = person_named(body.username)
    control.give(machine, actor=person(request), person=somebody, request_ip=client_ip(request))
    return list_people(request, pk)


@operation(
    "POST",
    "machines/{uuid:pk}/screen/control/release",
    tag=TAG,
    answers=PeopleOut,
    pages=("console:release",),
    guards=PEOPLE,
)
def release_control(request: HttpRequest, pk: UUID) -> PeopleOut:
    """Let control go; nothing happens if it is not yours."""
    control.release(_machine(request, pk), actor=person(request))
    return list_people(request, pk)


@operation(
    "POST",
    "machines/{uuid:pk}/screen/people/remove",
    tag=TAG,
    answers=PeopleOut,
    pages=("console:remove",),
    guards=PEOPLE,
)
def remove_from_screen(request: HttpRequest, pk: UUID, body: PersonIn) -> PeopleOut:
    """Remove somebody from a screen, and keep them out of it for five minutes."""
    machine = _machine(request, pk)
    services.remove_person(
        machine, actor=person(request), person=person_named(body.username), request_ip=client_ip(request)
    )
    return list_people(request, pk)


@operation(
    "POST",
    "machines/{uuid:pk}/screen/people/let-in",
    tag=TAG,
    answers=PeopleOut,
    pages=("console:let-in",),
    guards=PEOPLE,
)
def let_in_to_screen(request: HttpRequest, pk: UUID, body: PersonIn) -> PeopleOut:
    """Let somebody back in who was removed."""
    machine = _machine(request, pk)
    services.let_in(machine, actor=person(request), person=person_named(body.username), request_ip=client_ip(request))
    return list_people(request, pk)


# --- share links --------------------------------------------------------------------------------------------------


@operation("GET", "machines/{uuid:pk}/screen/links", tag=TAG, answers=Listed[LinkOut], pages=("console:people",))
def list_links(request: HttpRequest, pk: UUID) -> Listed[LinkOut]:
    """Share links that are alive, for those who may make some."""
    machine = _machine(request, pk)
    if Permission.MACHINE_CONSOLE not in permissions_in(person(request), machine.project_id):
        raise ForbiddenError
    return Listed[LinkOut](items=[LinkOut.of(link) for link in links_on(machine)], next=None)


@operation(
    "POST",
    "machines/{uuid:pk}/screen/links",
    tag=TAG,
    answers=NewLinkOut,
    status=201,
    pages=("console:link-new",),
    links={"revoke_link": {"pk": "$request.path.pk", "link": "id"}},
)
def share_screen(request: HttpRequest, pk: UUID, body: LinkIn) -> NewLinkOut:
    """A link that lets people of the machine's project on to its screen. Its address is shown this once."""
    link, token = services.share(
        _machine(request, pk),
        actor=person(request),
        mode=Mode(body.mode),
        lifetime=dt.timedelta(seconds=body.lifetime_s),
        request_ip=client_ip(request),
    )
    url = f"{settings.CASEMENT_URL}{below_prefix(reverse('console:shared', args=[token]))}"
    return NewLinkOut(**LinkOut.of(link).model_dump(), url=url)


def below_prefix(path: str) -> str:
    """CASEMENT_URL has the prefix already."""
    return "/" + path.removeprefix(get_script_prefix())


@operation(
    "DELETE",
    "machines/{uuid:pk}/screen/links/{uuid:link}",
    tag=TAG,
    status=204,
    pages=("console:link-revoke",),
    guards=Guard(Machine, list_links),
)
def revoke_link(request: HttpRequest, pk: UUID, link: UUID) -> None:
    """Revoke a share link; who lives by it is left with their role within two seconds."""
    services.revoke_link(_machine(request, pk), link, actor=person(request), request_ip=client_ip(request))


@operation("POST", "screens/open-link", tag=TAG, answers=OpenedOut, pages=("console:shared",))
def open_link(request: HttpRequest, body: OpenLinkIn) -> OpenedOut:
    """Let yourself in by a share link of a project of yours. Its token goes in the body: addresses end up in logs."""
    link = services.open_link(body.token, actor=person(request), request_ip=client_ip(request))
    if link.machine_id is None:
        raise NotFoundError(_("There is nothing here, or it is not yours to see."))
    return OpenedOut(machine=link.machine_id, mode=ConsoleLink.Mode(link.mode))
