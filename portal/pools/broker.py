"""Hands desktops out: each who asks gets exactly one desktop or exactly one place in line, however many ask at once.

A desktop is handed out by a conditional UPDATE in the transaction that writes its session; two constraints (one live
session of a desktop, one of a person in each slot) hold whatever else goes wrong. `ask` is a handful of indexed
queries: twenty thousand desktops answer as quickly as fifty.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final, NamedTuple
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Case, Q, QuerySet, When
from django.utils import timezone

from portal.accounts.models import User
from portal.audit import services as audit
from portal.console import services as console
from portal.errors import ForbiddenError, NotFoundError
from portal.lib import bus, prepared
from portal.machines.models import Grant, Machine
from portal.machines.states import PowerState, Status, Task
from portal.pools import estimates, events, files
from portal.pools.entitlement import is_entitled
from portal.pools.models import Desktop, Place, Pool, Session
from portal.pools.querysets import SEEN_FOR
from portal.pools.states import (
    LIVE_DESKTOP,
    DesktopState,
    EndReason,
    PlaceState,
    PoolKind,
    Recompose,
    SessionState,
)

TEND_TASK: Final = "pools.tend_one"
QUEUE: Final = "default"
# Another tab of the person's may still be waiting: it has so long to say so.
LEFT_BEHIND: Final = dt.timedelta(seconds=15)
SERVED_AT_ONCE: Final = 50
TOLD_AT_ONCE: Final = 100
TOUCHED_EVERY: Final = dt.timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the two."""

    session: Session | None = None
    place: Place | None = None


def ask(pool: Pool, person: User, *, another: bool = False, browser: str = "", request_ip: str | None = None) -> Answer:
    """The person's running session if they have one, else a desktop, else a place in line; asked again by each tab that
    waits, every few seconds, which is what keeps the place.

    `another` asks for one more where the pool allows several. NotFoundError for those who are not entitled.
    """
    mine = _running(pool, person)
    if mine and not (another and len(mine) < pool.desktops_per_person):
        return Answer(session=_come_back(mine[0].pk))
    if not is_entitled(person, pool) or not pool.enabled:
        raise NotFoundError
    try:
        answer = _take_or_wait(pool, person, mine, browser=browser, request_ip=request_ip)
    except IntegrityError:
        # Another tab of theirs was a moment faster.
        mine = _running(pool, person)
        answer = Answer(session=_come_back(mine[0].pk)) if mine else Answer(place=_line_up(pool, person, browser))
    if answer.place is not None and serve(pool):
        return _answer_now(answer.place)
    return answer


class _Running(NamedTuple):
    pk: UUID
    slot: int


def _running(pool: Pool, person: User) -> list[_Running]:
    """The person's live sessions, the newest first; no more of each than is needed, since every answer begins so."""
    return [_Running(pk, slot) for pk, slot in _live_sessions(pool.pk, person.pk)]


@prepared.rows
def _live_sessions(pool: UUID, person: int) -> QuerySet[Session, tuple[UUID, int]]:
    sessions = Session.objects.live().filter(pool=pool, person=person).order_by("-started_at", "pk")
    return sessions.values_list("pk", "slot")


def _answer_now(place: Place) -> Answer:
    """What became of a place."""
    place.refresh_from_db()
    mine = _running(place.pool, place.person) if place.state == PlaceState.SERVED else []
    return Answer(session=_come_back(mine[0].pk)) if mine else Answer(place=place)


@transaction.atomic
def _take_or_wait(pool: Pool, person: User, mine: list[_Running], *, browser: str, request_ip: str | None) -> Answer:
    """Who comes when nobody waits gets a free one; else they wait like everybody, in order."""
    if pool.hands_out and not _first_in_line(pool.pk, timezone.now() - SEEN_FOR):
        desktop = _free_desktop(pool, person)
        if desktop is not None:
            slot = _free_slot(mine)
            session = _begin(pool, person, desktop, slot=slot, asked_at=timezone.now(), request_ip=request_ip)
            if session is not None:
                return Answer(session=session)
    return Answer(place=_line_up(pool, person, browser))


@prepared.rows
def _first_in_line(pool: UUID, seen_after: dt.datetime) -> QuerySet[Place, UUID]:
    """One of those who wait, if there is any."""
    return Place.objects.waiting(seen_after=seen_after).filter(pool=pool).order_by().values_list("pk", flat=True)[:1]


def _free_slot(mine: list[_Running]) -> int:
    taken = {one.slot for one in mine}
    return next(slot for slot in range(len(taken) + 1) if slot not in taken)


_Columns = tuple[UUID, UUID, str]


class _Free(NamedTuple):
    """A desktop that may be handed out."""

    pk: UUID
    machine_id: UUID
    machine_name: str


def _free_desktop(pool: Pool, person: User) -> _Free | None:
    """One that the person may have now, locked where the database can. It runs: a dead machine is nobody's desktop."""
    if pool.kind != PoolKind.FLOATING:
        own = _first_ready(pool, person=person)
        if own is not None or pool.kind == PoolKind.NAMED:
            return own
        theirs = Desktop.objects.filter(pool=pool, person=person, state__in=LIVE_DESKTOP).count()
        if theirs >= pool.desktops_per_person:
            return None
    host = files.host_with_files(pool, person)
    if host is None:
        found = _first_of_version(pool.pk, pool.image_version_id)
        newest = _Free(*found[0]) if found else None
    else:
        newest = _first_ready(pool, rather_on=host, person=None, image_version=pool.image_version_id)
    if newest is not None or pool.recompose != Recompose.ROLLING:
        return newest
    return _first_ready(pool, rather_on=host, person=None)


def _first_ready(pool: Pool, *, rather_on: UUID | None = None, **values: object) -> _Free | None:
    """Of those that run, the one that has been free for longest, `rather_on` that host if there is one: what was only
    just forked is still busy with itself. What another transaction is just handing out is passed over.
    """
    ready = _ready(pool.pk).filter(**values)
    if rather_on is not None:
        ready = ready.order_by(Case(When(machine__host=rather_on, then=0), default=1), "state_since")
    found = ready.first()
    return _Free(*found) if found else None


@prepared.rows
def _first_of_version(pool: UUID, version: UUID) -> QuerySet[Desktop, _Columns]:
    """Nobody's, of that version: what nearly everybody gets."""
    return _ready(pool).filter(person=None, image_version=version)[:1]


def _ready(pool: UUID) -> QuerySet[Desktop, _Columns]:
    runs = {"machine__status": Status.READY, "machine__power_state": PowerState.RUNNING, "machine__task": Task.NONE}
    ready = Desktop.objects.filter(pool=pool, state=DesktopState.SPARE, **runs)
    ready = ready.select_for_update(skip_locked=True, of=("self",)).order_by("state_since")
    return ready.values_list("pk", "machine__id", "machine__name")


def _begin(
    pool: Pool, person: User, free: _Free, *, slot: int, asked_at: dt.datetime, request_ip: str | None = None
) -> Session | None:
    """The desktop is the person's from here on. None if somebody else has it by now."""
    now = timezone.now()
    if _take(free.pk, person.pk, now) != 1:
        return None
    session = Session(
        pool=pool,
        desktop_id=free.pk,
        machine_id=free.machine_id,
        person=person,
        slot=slot,
        asked_at=asked_at,
        started_at=now,
        last_active_at=now,
    )
    session.save(force_insert=True)
    Grant.objects.bulk_create([Grant(machine_id=free.machine_id, user=person)], ignore_conflicts=True)
    _own(free.machine_id, person.pk)
    audit.record(person, "desktop.taken", pool, detail={"desktop": free.machine_name}, request_ip=request_ip)
    events.record_taken(session, machine_name=free.machine_name)
    events.session_changed(session)
    events.served(session)
    if pool.keeps_files:
        wake(pool)
    return session


@prepared.update
def _take(desktop: UUID, person: int, now: dt.datetime) -> tuple[QuerySet[Desktop], dict[str, object]]:
    free = Desktop.objects.filter(Q(person=None) | Q(person=person), pk=desktop, state=DesktopState.SPARE)
    return free, {"state": DesktopState.TAKEN, "person": person, "state_since": now}


@prepared.update
def _own(machine: UUID, person: int) -> tuple[QuerySet[Machine], dict[str, object]]:
    return Machine.objects.filter(pk=machine), {"owner": person}


def come_back(session: Session) -> Session:
    """From another browser, or after a while: the same running session."""
    return _come_back(session.pk)


def _come_back(pk: UUID) -> Session:
    session = Session.objects.select_related("pool", "desktop__pool", "machine", "person").get(pk=pk)
    if session.state == SessionState.DISCONNECTED:
        now = timezone.now()
        rows = Session.objects.filter(pk=pk, state=SessionState.DISCONNECTED)
        if rows.update(state=SessionState.ACTIVE, disconnected_at=None, warned_at=None, last_active_at=now):
            session.state, session.disconnected_at, session.warned_at = SessionState.ACTIVE, None, None
            session.last_active_at = now
            events.session_changed(session)
    return session


# --- the line -----------------------------------------------------------------------------------------------------


def _line_up(pool: Pool, person: User, browser: str) -> Place:
    """The person's place. One that was lost meanwhile is at the end again."""
    now = timezone.now()
    values = {"asked_at": now, "seen_at": now, "browser": browser[:64]}
    place, created = Place.objects.get_or_create(pool=pool, person=person, state=PlaceState.WAITING, defaults=values)
    if created:
        events.pool_changed(pool)
        return place
    is_lost = place.seen_at <= now - SEEN_FOR
    again = values if is_lost else {"seen_at": now}
    Place.objects.filter(pk=place.pk, state=PlaceState.WAITING).update(**again)
    place.asked_at, place.seen_at = (now if is_lost else place.asked_at), now
    return place


def leave(place: Place) -> None:
    """The person does not want to wait any longer. Those behind move up."""
    if Place.objects.filter(pk=place.pk, state=PlaceState.WAITING).update(state=PlaceState.GONE):
        _tell_the_line(place.pool)


def let_go(place: Place) -> None:
    """A waiting tab was closed: the place is free in a moment, unless another tab of the person's goes on asking."""
    at = timezone.now() - SEEN_FOR + LEFT_BEHIND
    Place.objects.filter(pk=place.pk, state=PlaceState.WAITING, seen_at__gt=at).update(seen_at=at)


def drop_lost(pool: Pool) -> int:
    """Places of tabs that are not heard of any more."""
    dropped = Place.objects.lost().filter(pool=pool).update(state=PlaceState.GONE)
    if dropped:
        _tell_the_line(pool)
    return dropped


def position(place: Place) -> tuple[int, float | None]:
    """Which in line the person is, from 1 (0: not in line any more), and in how many seconds they may expect a desktop,
    where that can be told.
    """
    if place.state != PlaceState.WAITING:
        return 0, None
    ahead = Place.objects.waiting().filter(pool=place.pool_id).exclude(pk=place.pk)
    before = ahead.filter(Q(asked_at__lt=place.asked_at) | Q(asked_at=place.asked_at, pk__lt=place.pk))
    in_line = before.count() + 1
    return in_line, estimates.seconds_until(place.pool, in_line)


def serve(pool: Pool) -> int:
    """Give what is free to those who wait, in order. Returns how many got one.

    Mostly nobody waits, and nothing is locked to find that out.
    """
    return _serve_line(pool) if _first_in_line(pool.pk, timezone.now() - SEEN_FOR) else 0


@transaction.atomic
def _serve_line(pool: Pool) -> int:
    """One server at a time for each pool, or who waits longer might be passed by."""
    locked = Pool.objects.select_for_update(no_key=True).select_related(None).get(pk=pool.pk)
    if not locked.hands_out:
        return 0
    waiting = Place.objects.waiting().filter(pool=locked).select_related("person").order_by("asked_at", "pk")
    served = 0
    for place in waiting[:SERVED_AT_ONCE]:
        outcome = _serve_one(locked, place)
        served += outcome is True
        if outcome is None and locked.kind == PoolKind.FLOATING:
            break
    if served:
        _tell_the_line(locked)
    return served


def _serve_one(pool: Pool, place: Place) -> bool | None:
    """True if the person has a desktop now; False if they need none any more; None if there is none for them."""
    mine = _running(pool, place.person)
    has_enough = len(mine) >= pool.desktops_per_person
    if has_enough or not is_entitled(place.person, pool):
        state = PlaceState.SERVED if has_enough else PlaceState.GONE
        Place.objects.filter(pk=place.pk, state=PlaceState.WAITING).update(state=state)
        events.line_changed(pool, [place.person_id])
        return False
    desktop = _free_desktop(pool, place.person)
    if desktop is None:
        return None
    try:
        with transaction.atomic():
            waits = Place.objects.filter(pk=place.pk, state=PlaceState.WAITING)
            if waits.update(state=PlaceState.SERVED, served_at=timezone.now()) != 1:
                return False
            slot = _free_slot(mine)
            if _begin(pool, place.person, desktop, slot=slot, asked_at=place.asked_at) is None:
                transaction.set_rollback(True)
                return None
    except IntegrityError:
        return False  # They got another one this very moment.
    return True


def _tell_the_line(pool: Pool) -> None:
    waiting = Place.objects.waiting().filter(pool=pool).order_by("asked_at", "pk")
    events.line_changed(pool, waiting.values_list("person_id", flat=True)[:TOLD_AT_ONCE])
    events.pool_changed(pool)


# --- a session's life ---------------------------------------------------------------------------------------------


def touch(session: Session) -> None:
    """A sign of life: the warning is forgotten. Cheap to call often."""
    now = timezone.now()
    rows = Session.objects.live().filter(Q(last_active_at__lt=now - TOUCHED_EVERY) | Q(warned_at__isnull=False))
    warned = session.warned_at is not None
    if rows.filter(pk=session.pk).update(last_active_at=now, warned_at=None) and warned:
        events.session_changed(session)


def shown(session: Session) -> None:
    """The desktop is on the person's screen. Only the first time counts."""
    if Session.objects.filter(pk=session.pk, on_screen_at=None).update(on_screen_at=timezone.now()):
        events.session_changed(session)


@transaction.atomic
def disconnect(session: Session, *, actor: User | None = None, request_ip: str | None = None) -> bool:
    """Close the person's screens; what runs in the desktop goes on. False if it was not active."""
    _require_own_or_operator(session, actor)
    now = timezone.now()
    rows = Session.objects.filter(pk=session.pk, state=SessionState.ACTIVE)
    if rows.update(state=SessionState.DISCONNECTED, disconnected_at=now) != 1:
        return False
    session.state, session.disconnected_at = SessionState.DISCONNECTED, now
    _close_screens(session)
    if actor is not None:
        detail = {"person": session.person.get_username(), "desktop": str(session.desktop)}
        audit.record(actor, "desktop.disconnect", session.pool, detail=detail, request_ip=request_ip)
    events.session_changed(session)
    return True


@transaction.atomic
def sign_out(session: Session, reason: EndReason, *, actor: User | None = None, request_ip: str | None = None) -> bool:
    """End the session: the right to the screen is gone at once, and a floating desktop is made new. False if it had
    ended. Without an actor it is the clock, or the desktop itself.
    """
    _require_own_or_operator(session, actor)
    now = timezone.now()
    if _end(session.pk, now, reason) != 1:
        return False
    session.state, session.ended_at, session.end_reason = SessionState.ENDED, now, reason
    _free(session, now)
    _close_screens(session)
    own = actor is not None and actor.pk == session.person_id
    action = "desktop.left" if own or actor is None else "desktop.ended"
    detail = {"person": session.person.get_username(), "desktop": str(session.desktop), "reason": str(reason)}
    audit.record(actor, action, session.pool, detail=detail, request_ip=request_ip)
    events.record_left(session, actor=actor)
    events.session_changed(session)
    wake(session.pool)
    return True


@prepared.update
def _end(session: UUID, now: dt.datetime, reason: str) -> tuple[QuerySet[Session], dict[str, object]]:
    values = {"state": SessionState.ENDED, "ended_at": now, "end_reason": reason}
    return Session.objects.live().filter(pk=session), values


def _free(session: Session, now: dt.datetime) -> None:
    """A floating desktop is nobody's; of another the machine goes on and waits for its person."""
    Grant.objects.filter(machine=session.machine_id, user=session.person_id).delete()
    if session.pool.kind == PoolKind.FLOATING:
        _make_new(session.desktop_id, now)
    else:
        taken = Desktop.objects.filter(pk=session.desktop_id, state=DesktopState.TAKEN)
        taken.update(state=DesktopState.SPARE, state_since=now)


@prepared.update
def _make_new(desktop: UUID, now: dt.datetime) -> tuple[QuerySet[Desktop], dict[str, object]]:
    taken = Desktop.objects.filter(pk=desktop, state=DesktopState.TAKEN)
    return taken, {"state": DesktopState.RECYCLING, "person": None, "state_since": now}


def _close_screens(session: Session) -> None:
    if session.machine_id is not None:
        console.order_end_of(session.machine_id, session.person_id, by=session.pool.title)


@transaction.atomic
def recycle(desktop: Desktop, *, actor: User | None = None, request_ip: str | None = None) -> bool:
    """Have a desktop made new, whatever it does: who is on it is signed out. False if that is under way already."""
    _operators_only(actor)
    there = Session.objects.live().filter(desktop=desktop).select_related("pool", "desktop__pool", "person")
    ended = [sign_out(session, EndReason.OPERATOR, actor=actor, request_ip=request_ip) for session in there]
    ready = Desktop.objects.filter(pk=desktop.pk, state__in=[DesktopState.SPARE, DesktopState.FAILED])
    now = timezone.now()
    changed = ready.update(state=DesktopState.RECYCLING, state_since=now, error="", tries=0, retry_at=None)
    if changed and actor is not None:
        detail = {"desktop": str(desktop)}
        audit.record(actor, "desktop.recycle", desktop.pool, detail=detail, request_ip=request_ip)
    if changed:
        events.pool_changed(desktop.pool)
        wake(desktop.pool)
    return changed == 1 or any(ended)


def wake(pool: Pool) -> None:
    """Have the pool looked after at once, rather than with the next beat. A message that is lost does no harm."""
    transaction.on_commit(lambda: bus.wake(TEND_TASK, pool.pk, queue=QUEUE))


def _require_own_or_operator(session: Session, actor: User | None) -> None:
    if actor is not None and actor.pk != session.person_id:
        _operators_only(actor)


def _operators_only(actor: User | None) -> None:
    if actor is not None and not (actor.is_active and actor.is_staff):
        raise ForbiddenError
