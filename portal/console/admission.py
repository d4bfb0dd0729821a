"""Who gets in to a screen, and whether those who are in may stay: what both doors ask, so that they cannot differ.

All of it is synchronous; the web process calls it in a thread, the gateway's processes call it directly.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from django.db import DatabaseError
from django.utils import timezone
from redis.exceptions import RedisError

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_of
from portal.console import limits, tickets
from portal.console.control import holds
from portal.console.errors import step_of
from portal.console.limits import Place
from portal.console.models import ConsoleSession, ScreenBan
from portal.console.relay import Ended, Step
from portal.console.selectors import (
    PERMISSIONS,
    Target,
    bans_of,
    control_grants,
    holder_of,
    target_for,
    users_of_sessions,
)
from portal.console.services import begin_session, end_session, lower_sessions
from portal.console.tickets import Claim, Mode
from portal.errors import PortalError
from portal.machines.models import Machine
from portal.machines.querysets import GRANTED
from portal.machines.selectors import grants_of
from portal.machines.states import PowerState

logger = logging.getLogger(__name__)


class Refused(Exception):
    """The session cannot begin; `ended` says where and why."""

    def __init__(self, step: Step, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.ended = Ended(step, reason)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A session that has begun: its row is written and its place is taken. It ends by `depart`."""

    session_key: str
    claim: Claim
    target: Target
    # What holds until the watch looks for the first time: nobody types who does not control the screen.
    view_only: bool = True

    @property
    def number(self) -> UUID:
        return self.claim.number

    @property
    def place(self) -> Place:
        return Place(str(self.number), self.claim.user_id, self.claim.machine_id)


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds for a running session at this moment: why it must end (None while it may go on), and who may type."""

    ended: Ended | None
    view_only: bool


def admit(
    token: str | None, session_key: str | None, *, request_ip: str | None, door: str = ConsoleSession.Door.PORTAL
) -> Admitted:
    """Spend the ticket, ask for the live permission, take a place, write the row. Raises Refused, leaving nothing."""
    try:
        claim = _redeem(token, session_key)
        target = _authorise(session_key, claim)
        admitted = Admitted(session_key or "", claim, target)
        full = limits.take(admitted.place)
        if full:
            raise Refused(Step.LIMIT, full)
        try:
            begin_session(
                target,
                number=claim.number,
                mode=claim.mode,
                request_ip=request_ip,
                door=door,
                kind=claim.kind,
                browser=claim.session,
            )
            view_only = claim.mode is Mode.VIEW or not holds(claim.machine_id, claim.user_id)
        except BaseException:
            limits.give_back(admitted.place)
            raise
    except RedisError as error:
        logger.exception("console: Redis does not answer")
        raise Refused(Step.TICKET, "unavailable") from error
    except DatabaseError as error:
        logger.exception("console: the database does not answer")
        raise Refused(Step.PERMISSION, "unavailable") from error
    return replace(admitted, view_only=view_only)


def depart(admitted: Admitted, ended: Ended) -> None:
    """The session's row gets its end, and its place is free. What cannot be written now is ended by the clock."""
    try:
        limits.give_back(admitted.place)
        end_session(admitted.number, ended)
    except (DatabaseError, RedisError):
        logger.exception("console: the end of session %s could not be written", admitted.number)


def renew(sessions: Iterable[Admitted]) -> None:
    limits.renew(session.place for session in sessions)


def note_input(numbers: Collection[UUID]) -> None:
    """Something was typed or pointed at in these sessions since the last time."""
    if numbers:
        ConsoleSession.objects.filter(pk__in=numbers, ended_at=None).update(last_input_at=timezone.now())


def standings(sessions: Sequence[Admitted]) -> dict[UUID, Standing]:
    """How each of them stands now, by its number; the same few queries for one session and for five hundred."""
    facts = _facts_of(sessions)
    lowered = [one.number for one in sessions if facts.has_lost_its_grant(one)]
    if lowered:
        lower_sessions(lowered)
    return {session.number: _standing(session, facts) for session in sessions}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the database says at one moment about some sessions. `rows` has mode and who ended it, by number."""

    users: dict[str, User]
    machines: dict[UUID, Machine]
    granted: dict[tuple[int, UUID], frozenset[Permission]]
    granted_machines: set[tuple[int, UUID]]
    grants: set[tuple[int, UUID]]
    bans: dict[tuple[int, UUID], ScreenBan]
    rows: dict[UUID, tuple[str, str]]

    def permissions(self, session: Admitted) -> frozenset[Permission]:
        """By role, by a grant of the machine, and by a share link where there is one."""
        claim = session.claim
        by_role = self.granted.get((claim.user_id, session.target.machine.project_id), frozenset())
        if (claim.user_id, claim.machine_id) in self.granted_machines:
            by_role |= GRANTED
        linked = (claim.user_id, claim.machine_id) in self.grants
        return by_role | {Permission.MACHINE_CONSOLE} if linked else by_role

    def has_lost_its_grant(self, session: Admitted) -> bool:
        """It came to control by a link that has ended, and its role lets it watch."""
        mode, _by = self.rows.get(session.number, (session.claim.mode, ""))
        granted = self.permissions(session)
        return (
            session.target.by_grant
            and mode == Mode.CONTROL
            and Permission.MACHINE_CONSOLE not in granted
            and Permission.MACHINE_CONSOLE_VIEW in granted
        )


def _facts_of(sessions: Sequence[Admitted]) -> _Facts:
    users = users_of_sessions({session.session_key for session in sessions})
    people = {session.claim.user_id for session in sessions}
    live = Machine.objects.live().select_related("screen_control")
    machines = live.in_bulk({session.claim.machine_id for session in sessions})
    found = [(users.get(one.session_key), machines.get(one.claim.machine_id)) for one in sessions]
    there = [(user, machine) for user, machine in found if user and machine]
    granted = permissions_of([(user, machine.project_id) for user, machine in there])
    lacking = [(user, machine) for user, machine in there if not granted[user.pk, machine.project_id] >= GRANTED]
    rows = ConsoleSession.objects.filter(pk__in=[session.number for session in sessions])
    by_grant = [(one.claim.user_id, one.claim.machine_id) for one in sessions if one.target.by_grant]
    return _Facts(
        users,
        machines,
        granted,
        grants_of(lacking),
        control_grants(by_grant),
        bans_of(people, machines),
        {pk: (mode, by) for pk, mode, by in rows.values_list("pk", "mode", "end_ordered_by")},
    )


def _standing(session: Admitted, facts: _Facts) -> Standing:
    machine = facts.machines.get(session.claim.machine_id)
    user = facts.users.get(session.session_key)
    if user is None or user.pk != session.claim.user_id:
        return _over(Step.REVOKED, "signed-out")
    if machine is None:
        return _over(Step.REVOKED, "not-found")
    mode, _by = facts.rows.get(session.number, (session.claim.mode, ""))
    if facts.has_lost_its_grant(session):
        mode = Mode.VIEW
    over = _revoked(session, facts, Mode(mode)) or _cut_off(session, machine)
    if over is not None:
        return over
    return Standing(None, view_only=mode != Mode.CONTROL or holder_of(machine) != user.pk)


def _revoked(session: Admitted, facts: _Facts, mode: Mode) -> Standing | None:
    """Somebody took the right to see this away."""
    claim = session.claim
    granted = facts.permissions(session)
    _mode, ended_by = facts.rows.get(session.number, ("", ""))
    if PERMISSIONS[mode] not in granted:
        return _over(Step.REVOKED, "forbidden" if Permission.MACHINE_VIEW in granted else "not-found")
    if (claim.user_id, claim.machine_id) in facts.bans:
        return _over(Step.REVOKED, "kicked")
    if ended_by and ended_by == facts.users[session.session_key].get_username():
        return _over(Step.REVOKED, "taken-over")
    return _over(Step.REVOKED, "ended-by-operator") if ended_by else None


def _cut_off(session: Admitted, machine: Machine) -> Standing | None:
    """The display behind it is not there any more."""
    # The screen may well be alive while the host's management is not: its connection will tell.
    if machine.power_state == PowerState.UNKNOWN:
        return None
    if not machine.has_screen:
        return _over(Step.MACHINE_OFF, "stopped")
    # Stopped and started again, or moved: another QEMU, which this connection has nothing to do with.
    moved = machine.console_socket != session.target.socket_path
    return _over(Step.ENDED, "display-moved") if moved else None


def _over(step: Step, reason: str) -> Standing:
    return Standing(Ended(step, reason), view_only=True)


def _redeem(token: str | None, session_key: str | None) -> Claim:
    """Spend the ticket. It must have been given to this very session: a stolen one is worth nothing without cookies."""
    claim = tickets.redeem(token) if token else None
    if claim is None:
        raise Refused(Step.TICKET, "unknown" if token else "missing")
    own = tickets.session_hash(session_key)
    if not own or own != claim.session:
        raise Refused(Step.TICKET, "foreign")
    return claim


def _authorise(session_key: str | None, claim: Claim) -> Target:
    """The live permission of the session's user, who must be the ticket's user."""
    user: User | None = users_of_sessions({session_key or ""}).get(session_key or "")
    if user is None or user.pk != claim.user_id:
        raise Refused(Step.REVOKED, "signed-out")
    try:
        return target_for(user, claim.machine_id, claim.mode, claim.kind)
    except PortalError as error:
        raise Refused(step_of(error), error.code) from error
