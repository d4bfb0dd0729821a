"""Desktops that are handed out, for the people who use them: which there are, one of them, its session, the line."""

import datetime as dt
from typing import Annotated, Final, Self
from uuid import UUID

from django.http import HttpRequest
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.api.auth import token_in
from portal.api.core import Guard, operation
from portal.api.paging import Listed
from portal.api.schemas import Input, Named, spelled_out
from portal.console import browsers
from portal.console.tickets import credential_of, session_hash
from portal.errors import ConflictError, NotFoundError
from portal.pools import broker
from portal.pools.models import Place, Pool, Session
from portal.pools.selectors import places_of, pools_for, session_for, sessions_of
from portal.pools.states import EndReason, PoolKind, SessionState
from portal.pools.words import about_pool, how_it_ended

TAG: Final = "Desktops"
Kind = Annotated[PoolKind, spelled_out(PoolKind)]
State = Annotated[SessionState, spelled_out(SessionState)]


class DesktopSessionOut(BaseModel):
    """A person on a desktop, from being handed it to signing out, through any number of screens. Its screen is that of
    `machine`. `ends_at` is when its time is over, `warned_at` when it was asked whether somebody is there."""

    id: UUID
    pool: Named
    desktop: str
    machine: Named | None
    person: str
    state: State
    asked_at: dt.datetime
    started_at: dt.datetime
    on_screen_at: dt.datetime | None
    last_active_at: dt.datetime
    warned_at: dt.datetime | None
    disconnected_at: dt.datetime | None
    ends_at: dt.datetime | None
    ended_at: dt.datetime | None
    end_reason: str
    ended_how: str = Field(description="What ended it, in words; empty while it lasts.")

    @classmethod
    def of(cls, session: Session) -> Self:
        machine, limit = session.machine, session.pool.limit_s
        return cls(
            id=session.pk,
            pool=Named(id=session.pool_id, name=session.pool.name),
            desktop=str(session.desktop),
            machine=Named(id=machine.pk, name=machine.name) if machine else None,
            person=session.person.get_username(),
            state=SessionState(session.state),
            asked_at=session.asked_at,
            started_at=session.started_at,
            on_screen_at=session.on_screen_at,
            last_active_at=session.last_active_at,
            warned_at=session.warned_at,
            disconnected_at=session.disconnected_at,
            ends_at=session.started_at + dt.timedelta(seconds=limit) if limit else None,
            ended_at=session.ended_at,
            end_reason=session.end_reason,
            ended_how="" if session.is_live else how_it_ended(session).text,
        )


class PlaceOut(BaseModel):
    """A place in the line for a pool. It is kept as long as it is asked for again every few seconds. `position` counts
    from 1; `estimate_s` is null where nothing tells."""

    id: UUID
    pool: Named
    position: int
    estimate_s: float | None
    asked_at: dt.datetime

    @classmethod
    def of(cls, place: Place) -> Self:
        position, estimate = broker.position(place)
        return cls(
            id=place.pk,
            pool=Named(id=place.pool_id, name=place.pool.name),
            position=position,
            estimate_s=estimate,
            asked_at=place.asked_at,
        )


class OfferOut(BaseModel):
    """A pool that you may use. `open`: it hands desktops out now; else `message` may say why not."""

    id: UUID
    name: str
    title: str
    about: str
    kind: Kind
    open: bool
    message: str
    desktops_per_person: int
    sessions: list[UUID] = Field(description="Yours that run.")
    waiting: bool

    @classmethod
    def of(cls, pool: Pool, sessions: list[UUID], *, waiting: bool) -> Self:
        return cls(
            id=pool.pk,
            name=pool.name,
            title=pool.title,
            about=about_pool(pool),
            kind=PoolKind(pool.kind),
            open=pool.hands_out,
            message=pool.message,
            desktops_per_person=pool.desktops_per_person,
            sessions=sessions,
            waiting=waiting,
        )


@operation(
    "GET",
    "desktops",
    tag=TAG,
    answers=Listed[OfferOut],
    pages=("desktops:list", "desktops:tiles"),
    links={"ask_for_desktop": {"pk": "items/0/id"}},
)
def list_desktops(request: HttpRequest) -> Listed[OfferOut]:
    """Pools of desktops that you may use, with what you have of each."""
    user = person(request)
    mine: dict[UUID, list[UUID]] = {}
    for session in sessions_of(user):
        mine.setdefault(session.pool_id, []).append(session.pk)
    waits = set(places_of(user).values_list("pool_id", flat=True))
    found = [OfferOut.of(pool, mine.get(pool.pk, []), waiting=pool.pk in waits) for pool in pools_for(user)]
    return Listed[OfferOut](items=found, next=None)


class AskIn(Input):
    another: bool = Field(default=False, description="One more than you have, where the pool allows several.")


class AnswerOut(BaseModel):
    """Exactly one of the two: a desktop, or a place in line. Ask again every few seconds until it is a desktop."""

    session: DesktopSessionOut | None
    place: PlaceOut | None


@operation(
    "POST",
    "desktops/{uuid:pk}/ask",
    tag=TAG,
    answers=AnswerOut,
    pages=("desktops:enter", "desktops:place"),
    links={"show_desktop_session": {"pk": "session/id"}, "leave_desktop_session": {"pk": "session/id"}},
)
def ask_for_desktop(request: HttpRequest, pk: UUID, body: AskIn) -> AnswerOut:
    """Your running desktop of a pool, a free one, or a place in the line. Asked again it is the same."""
    answer = broker.ask(
        _offered(request, pk),
        person(request),
        another=body.another,
        browser=_program(request),
        request_ip=client_ip(request),
    )
    return AnswerOut(
        session=DesktopSessionOut.of(answer.session) if answer.session else None,
        place=PlaceOut.of(answer.place) if answer.place else None,
    )


def _offered(request: HttpRequest, pk: UUID) -> Pool:
    pool = pools_for(person(request)).filter(pk=pk).first()
    if pool is None:
        raise NotFoundError
    return pool


def _program(request: HttpRequest) -> str:
    """As the console knows the device that asks: by the hash of what lets it in."""
    return session_hash(credential_of(token_in(request).token_hash))


@operation("DELETE", "desktops/{uuid:pk}/place", tag=TAG, status=204, pages=("desktops:leave",))
def leave_line(request: HttpRequest, pk: UUID) -> None:
    """Wait no longer. Those behind move up."""
    place = places_of(person(request)).filter(pool=_offered(request, pk)).first()
    if place is not None:
        broker.leave(place)


# --- sessions -------------------------------------------------------------------------------------------------------


@operation(
    "GET",
    "desktop-sessions",
    tag=TAG,
    answers=Listed[DesktopSessionOut],
    pages=("desktops:list",),
    links={
        name: {"pk": "items/0/id"}
        for name in ("show_desktop_session", "stay_on_desktop", "take_desktop_over", "leave_desktop_session")
    },
)
def list_desktop_sessions(request: HttpRequest) -> Listed[DesktopSessionOut]:
    """Your running sessions, the newest first. Operators find a pool's in that pool's list."""
    found = sessions_of(person(request)).select_related("desktop__pool")
    return Listed[DesktopSessionOut](items=[DesktopSessionOut.of(session) for session in found], next=None)


@operation(
    "GET",
    "desktop-sessions/{uuid:pk}",
    tag=TAG,
    answers=DesktopSessionOut,
    pages=("desktops:session", "desktops:session-desk"),
)
def show_desktop_session(request: HttpRequest, pk: UUID) -> DesktopSessionOut:
    """One of yours, running or ended; for operators anybody's."""
    return DesktopSessionOut.of(session_for(person(request), pk))


GUARD: Final = Guard(Session, show_desktop_session)


def _mine(request: HttpRequest, pk: UUID) -> Session:
    session = session_for(person(request), pk)
    if session.person_id != request.user.pk:
        raise NotFoundError
    return session


@operation(
    "POST",
    "desktop-sessions/{uuid:pk}/stay",
    tag=TAG,
    answers=DesktopSessionOut,
    pages=("desktops:session-here",),
    guards=GUARD,
)
def stay_on_desktop(request: HttpRequest, pk: UUID) -> DesktopSessionOut:
    """Say that you are there. The warning, if there was one, is gone."""
    session = _mine(request, pk)
    if session.is_live:
        broker.touch(session)
    return show_desktop_session(request, pk)


@operation(
    "POST",
    "desktop-sessions/{uuid:pk}/take-over",
    tag=TAG,
    answers=DesktopSessionOut,
    pages=("desktops:session-open",),
    guards=GUARD,
)
def take_desktop_over(request: HttpRequest, pk: UUID) -> DesktopSessionOut:
    """Have your screens of it on other devices ended. Without this they and yours show the same."""
    session = _mine(request, pk)
    if not session.is_live or session.machine is None:
        raise ConflictError(how_it_ended(session).title)
    browsers.take_over(session.machine, actor=person(request), browser=_program(request), request_ip=client_ip(request))
    return show_desktop_session(request, pk)


@operation(
    "DELETE",
    "desktop-sessions/{uuid:pk}",
    tag=TAG,
    answers=DesktopSessionOut,
    pages=("desktops:session-sign-out", "pools:session-sign-off"),
    guards=GUARD,
)
def leave_desktop_session(request: HttpRequest, pk: UUID) -> DesktopSessionOut:
    """Sign out; for operators anybody. A floating desktop is made new. One that has ended stays as it is."""
    user, session = person(request), session_for(person(request), pk)
    reason = EndReason.SIGNED_OUT if session.person_id == user.pk else EndReason.OPERATOR
    broker.sign_out(session, reason, actor=user, request_ip=client_ip(request))
    return show_desktop_session(request, pk)
