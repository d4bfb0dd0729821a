"""Writes of the console: sessions, who is removed from a screen, and share links. Who controls one is control.py's."""

import datetime as dt
import hashlib
import secrets
from collections.abc import Collection
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in, require
from portal.audit.services import record
from portal.console import control
from portal.console.events import people_changed
from portal.console.limits import LEASE_S, Place, is_held
from portal.console.models import ConsoleGrant, ConsoleLink, ConsoleSession, ScreenBan
from portal.console.relay import Ended, Step
from portal.console.selectors import Target, bans_of, may_moderate, may_remove
from portal.console.tickets import Kind, Mode
from portal.errors import ForbiddenError, NotFoundError
from portal.events import services as events
from portal.events.kinds import Kind as EventKind
from portal.lib import prepared
from portal.machines.models import Machine
from portal.machines.selectors import machine_for

KEPT_OUT: Final = dt.timedelta(minutes=5)


@transaction.atomic
def begin_session(
    target: Target,
    *,
    number: UUID,
    mode: Mode,
    request_ip: str | None,
    door: str = ConsoleSession.Door.PORTAL,
    kind: Kind = Kind.SCREEN,
    browser: str = "",
) -> ConsoleSession:
    """Its person controls the screen from now on if they came to and nobody else does."""
    session = ConsoleSession.objects.create(
        id=number,
        user=target.user,
        user_name=target.user.get_username(),
        machine=target.machine,
        machine_name=str(target.machine)[:150],
        kind=kind,
        mode=mode,
        door=door,
        browser=browser,
        request_ip=request_ip,
    )
    record(
        target.user,
        "console.open" if kind is Kind.SCREEN else "console.open_serial",
        target.machine,
        detail={"session": str(number), "mode": str(mode)},
        request_ip=request_ip,
    )
    _tell_of(EventKind.CONSOLE_BEGAN, session, mode=str(mode))
    control.settle(target.machine.pk)
    people_changed(target.machine.pk, target.machine.project_id)
    return session


def _tell_of(kind: EventKind, session: ConsoleSession, **data: object) -> None:
    """The event of somebody who came or left. Its subject is the machine, as long as there is a row of it."""
    machine = session.machine
    if machine is not None:
        data |= {"session": str(session.pk), "person": session.user_name}
        events.record(kind, machine, project=machine.project_id, actor=session.user, data=data)


@transaction.atomic
def end_session(number: UUID, ended: Ended) -> None:
    """Only the first end counts. What was cut off with its web process is ended by `end_lost_sessions`."""
    _lock_screens([number])
    changed = ConsoleSession.objects.filter(pk=number, ended_at=None).update(
        ended_at=timezone.now(),
        bytes_up=ended.bytes_up,
        bytes_down=ended.bytes_down,
        ended_step=ended.step,
        ended_reason=ended.reason[:60],
    )
    if changed:
        session = ConsoleSession.objects.select_related("machine", "user").get(pk=number)
        _tell_of(EventKind.CONSOLE_ENDED, session, reason=session.ended_reason, step=session.ended_step)
        _people_left([number])


@transaction.atomic
def lower_sessions(numbers: Collection[UUID]) -> None:
    """The link that let these control is no more: they go on watching, for as long as they last."""
    _lock_screens(numbers)
    rows = ConsoleSession.objects.filter(pk__in=numbers, mode=Mode.CONTROL, ended_at=None)
    lowered = list(rows.values_list("pk", flat=True))
    if lowered and rows.update(mode=Mode.VIEW, asked_at=None):
        _people_left(lowered)


def _lock_screens(numbers: Collection[UUID]) -> None:
    """Who changes sessions holds their screens first, as who hands control over does: else each waits for the other."""
    machines = ConsoleSession.objects.filter(pk__in=numbers).exclude(machine=None).values_list("machine_id", flat=True)
    for machine_id in sorted(set(machines)):
        control.lock(machine_id)


def _people_left(numbers: Collection[UUID]) -> None:
    """Control passes on where it has to, and everybody hears of it. A deleted machine's row is still there."""
    machines = Machine.objects.filter(console_sessions__in=numbers).distinct()
    for machine_id, project_id in machines.values_list("pk", "project_id"):
        control.settle(machine_id)
        people_changed(machine_id, project_id)


@transaction.atomic
def order_end(session: ConsoleSession, *, actor: User, request_ip: str | None = None) -> bool:
    """An operator ends one tab's session; the process that holds it sees that within a second. False: it had ended."""
    _lock_screens([session.pk])
    open_row = ConsoleSession.objects.filter(pk=session.pk, ended_at=None, end_ordered_by="")
    if not open_row.update(end_ordered_by=actor.get_username()):
        return False
    if session.machine is not None:
        detail = {"person": session.user_name, "session": str(session.pk)}
        record(actor, "console.end", session.machine, detail=detail, request_ip=request_ip)
        _people_left([session.pk])
    return True


@transaction.atomic
def order_end_of(machine_id: UUID, person_id: int, *, by: str, but: str = "") -> int:
    """End all sessions of a person at one machine, `but` those in one browser; `by` says what for. Returns how many
    were open."""
    open_rows = _open_of(machine_id, person_id)
    if but:
        open_rows = open_rows.exclude(browser=but)
    if not (open_rows.exists() if but else _first_open(machine_id, person_id)):
        return 0
    locked = control.lock(machine_id)
    ended = open_rows.update(end_ordered_by=by[:150])
    control.settle(machine_id, locked)
    [project_id] = _project_of(machine_id)
    people_changed(machine_id, project_id)
    return ended


def _open_of(machine: UUID, person: int) -> QuerySet[ConsoleSession]:
    return ConsoleSession.objects.filter(machine=machine, user=person, ended_at=None, end_ordered_by="")


@prepared.rows
def _first_open(machine: UUID, person: int) -> QuerySet[ConsoleSession, UUID]:
    return _open_of(machine, person).order_by().values_list("pk", flat=True)[:1]


@prepared.rows
def _project_of(machine: UUID) -> QuerySet[Machine, UUID]:
    return Machine.objects.filter(pk=machine).values_list("project_id", flat=True)


@transaction.atomic
def remove_person(machine: Machine, *, actor: User, person: User, request_ip: str | None = None) -> None:
    """Their sessions end within 2 s, and for KEPT_OUT they get no new one, unless `let_in` lets them."""
    persons = permissions_in(person, machine.project_id)
    if not may_moderate(actor, machine) or not may_remove(actor, person, persons):
        raise ForbiddenError(_("You may not remove this person from the screen."))
    if (person.pk, machine.pk) in bans_of([person.pk], [machine.pk]):
        return
    until = timezone.now() + KEPT_OUT
    ScreenBan.objects.update_or_create(
        machine=machine, user=person, defaults={"by_name": actor.get_username(), "until": until}
    )
    record(actor, "console.kick", machine, detail={"person": person.get_username()}, request_ip=request_ip)
    people_changed(machine.pk, machine.project_id)


@transaction.atomic
def let_in(machine: Machine, *, actor: User, person: User, request_ip: str | None = None) -> None:
    if not may_moderate(actor, machine) or actor.pk == person.pk:
        raise ForbiddenError(_("You may not let this person back in."))
    if ScreenBan.objects.filter(machine=machine, user=person).delete()[0]:
        record(actor, "console.let_in", machine, detail={"person": person.get_username()}, request_ip=request_ip)
        people_changed(machine.pk, machine.project_id)


def record_watching(session: ConsoleSession, *, actor: User, request_ip: str | None = None) -> None:
    """An operator looks over somebody's shoulder."""
    if session.machine is not None:
        detail = {"person": session.user_name}
        record(actor, "console.watch", session.machine, detail=detail, request_ip=request_ip)


# --- share links ---------------------------------------------------------------------------------------------------


@transaction.atomic
def share(
    machine: Machine, *, actor: User, mode: Mode, lifetime: dt.timedelta, request_ip: str | None = None
) -> tuple[ConsoleLink, str]:
    """A link and its token (256 bits), which nobody can see again. For those whose role lets them control."""
    require(actor, machine.project_id, Permission.MACHINE_CONSOLE)
    token = secrets.token_urlsafe(32)
    link = ConsoleLink.objects.create(
        machine=machine,
        created_by=actor,
        created_by_name=actor.get_username(),
        token_hash=hash_of(token),
        mode=mode,
        expires_at=timezone.now() + lifetime,
    )
    detail = {"link": str(link.pk), "mode": str(mode), "until": link.expires_at.isoformat(timespec="seconds")}
    record(actor, "console.share", machine, detail=detail, request_ip=request_ip)
    people_changed(machine.pk, machine.project_id)
    return link, token


@transaction.atomic
def open_link(token: str, *, actor: User, request_ip: str | None = None) -> ConsoleLink:
    """The link, for people of its machine's project and operators; for all others there is none (NotFoundError)."""
    link = ConsoleLink.objects.alive().select_related("machine").filter(token_hash=hash_of(token)).first()
    if link is None:
        raise NotFoundError
    machine = machine_for(actor, link.machine_id, Permission.MACHINE_CONSOLE_VIEW)
    membership = Membership.objects.filter(user=actor, project=machine.project_id).first()
    if membership is not None:
        _grant, is_new = ConsoleGrant.objects.get_or_create(link=link, membership=membership)
        if is_new:
            detail = {"link": str(link.pk), "mode": link.mode}
            record(actor, "console.link_opened", machine, detail=detail, request_ip=request_ip)
            people_changed(machine.pk, machine.project_id)
    return link


@transaction.atomic
def revoke_link(machine: Machine, link_id: UUID, *, actor: User, request_ip: str | None = None) -> None:
    """Who lives by it is left with their role within 2 s. For its maker, and for those who moderate."""
    link = ConsoleLink.objects.filter(pk=link_id, machine=machine).first()
    if link is None:
        raise NotFoundError
    if link.created_by_id != actor.pk and not may_moderate(actor, machine):
        raise ForbiddenError(_("Only who made the link, owners and operators can revoke it."))
    if ConsoleLink.objects.filter(pk=link.pk, revoked_at=None).update(revoked_at=timezone.now()):
        record(actor, "console.unshare", machine, detail={"link": str(link.pk)}, request_ip=request_ip)
        people_changed(machine.pk, machine.project_id)


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


# --- the clock -----------------------------------------------------------------------------------------------------


@transaction.atomic
def end_all_sessions() -> int:
    """For a database that was brought back: the screens that were open then are closed. Returns how many."""
    control.let_go_of_all()
    return ConsoleSession.objects.filter(ended_at=None).update(
        ended_at=timezone.now(), ended_step=Step.ENDED, ended_reason="portal-lost"
    )


def end_lost_sessions() -> int:
    """End the rows of sessions whose web process died with them; for a task that runs every minute or so.

    A session younger than a lease may not have taken its place yet, so it is left for the next time.
    """
    settled = timezone.now() - dt.timedelta(seconds=LEASE_S)
    open_rows = ConsoleSession.objects.filter(ended_at=None, started_at__lt=settled).values_list(
        "pk", "user_id", "machine_id"
    )
    lost = [pk for pk, user, machine in open_rows if not is_held(Place(str(pk), user, machine))]
    for pk in lost:
        end_session(pk, Ended(Step.ENDED, "portal-lost"))
    return len(lost)
