"""Reads for the console: may this person see this screen now, and where is it?"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.models import Session
from django.db.models import Count, F, Q, QuerySet
from django.utils import timezone

from portal.accounts.models import ApiToken, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_of
from portal.accounts.tokens import living_tokens, person_of
from portal.audit.selectors import is_address
from portal.console.errors import HostSilentError, KickedError, MachineOffError, NoSerialPortError
from portal.console.models import ConsoleGrant, ConsoleLink, ConsoleSession, ScreenBan, ScreenControl
from portal.console.tickets import TOKEN_CREDENTIAL, Kind, Mode, credential_of
from portal.errors import ForbiddenError, NotFoundError
from portal.lib.secrets import unseal
from portal.machines.models import Machine
from portal.machines.selectors import grants_of, machine_for, permissions_on
from portal.machines.states import PowerState

PERMISSIONS = {Mode.CONTROL: Permission.MACHINE_CONSOLE, Mode.VIEW: Permission.MACHINE_CONSOLE_VIEW}
SHOWN_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class Target:
    """A screen that may be opened now: for whom, of which machine, and where QEMU listens."""

    user: User
    machine: Machine
    socket_path: str
    secret: str = field(repr=False)
    # The person's role would let them watch only; a share link lets them control.
    by_grant: bool = False
    # Where the serial port listens, where that is what was asked for.
    serial_path: str = ""


def users_of_sessions(session_keys: Collection[str]) -> dict[str, User]:
    """Whose sessions these are at this moment. Missing: logged out, expired, password changed, account disabled.

    Asked anew each time, since a WebSocket's own idea of its user is as old as the WebSocket. Credentials of API tokens
    are among the keys.
    """
    return _users_of_tokens(session_keys) | _users_of_browsers(session_keys)


def _users_of_tokens(credentials: Collection[str]) -> dict[str, User]:
    hashes = [one.removeprefix(TOKEN_CREDENTIAL) for one in credentials if one.startswith(TOKEN_CREDENTIAL)]
    if not hashes:
        return {}
    tokens = living_tokens().filter(token_hash__in=hashes, scope=ApiToken.Scope.WRITE)
    return {credential_of(token.token_hash): person_of(token) for token in tokens}


def _users_of_browsers(session_keys: Collection[str]) -> dict[str, User]:
    alive = Session.objects.filter(session_key__in=session_keys, expire_date__gt=timezone.now())
    stores = {session.session_key: session.get_decoded() for session in alive}
    users = User.objects.filter(is_active=True).in_bulk(
        {store[SESSION_KEY] for store in stores.values() if SESSION_KEY in store}
    )
    found = {key: users.get(int(store.get(SESSION_KEY, 0))) for key, store in stores.items()}
    return {key: user for key, user in found.items() if user is not None and _is_proven(stores[key], user)}


def _is_proven(store: Mapping[str, Any], user: User) -> bool:
    proof = store.get(HASH_SESSION_KEY, "")
    accepted = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return any(hmac.compare_digest(proof, good) for good in accepted)


def mode_for(user: User, machine_id: UUID, wanted: Mode) -> Mode:
    """Control if it is wanted and allowed, else watching. Raises when the person may not even watch, or not know."""
    machine, granted = _watched(user, machine_id)
    return _mode(user, machine, granted, wanted)


def target_for(user: User, machine_id: UUID, mode: Mode, kind: Kind = Kind.SCREEN) -> Target:
    """The screen or serial port, if the person may have it in this mode and the machine shows one."""
    machine, granted = _watched(user, machine_id)
    return _target(user, machine, granted, mode, kind)


def best_target_for(user: User, machine_id: UUID, wanted: Mode, kind: Kind) -> tuple[Mode, Target]:
    """As `target_for`, in the mode that `mode_for` finds."""
    machine, granted = _watched(user, machine_id)
    mode = _mode(user, machine, granted, wanted)
    return mode, _target(user, machine, granted, mode, kind)


def _watched(user: User, machine_id: UUID) -> tuple[Machine, frozenset[Permission]]:
    """With everything that the person may do with it, which is watching at least."""
    machine = machine_for(user, machine_id, related=("project", "owner", "host"))
    granted = permissions_on(user, machine)
    if Permission.MACHINE_CONSOLE_VIEW not in granted:
        raise ForbiddenError
    return machine, granted


def _mode(user: User, machine: Machine, granted: frozenset[Permission], wanted: Mode) -> Mode:
    may = wanted is Mode.CONTROL and _may_control(user, machine, granted)
    return Mode.CONTROL if may else Mode.VIEW


def _target(user: User, machine: Machine, granted: frozenset[Permission], mode: Mode, kind: Kind) -> Target:
    by_role = PERMISSIONS[mode] in granted
    if not by_role and not control_grants([(user.pk, machine.pk)]):
        raise ForbiddenError
    if ban := bans_of([user.pk], [machine.pk]).get((user.pk, machine.pk)):
        raise KickedError(ban.by_name, ban.until)
    if machine.power_state == PowerState.UNKNOWN:
        raise HostSilentError
    if not machine.has_screen:
        raise MachineOffError
    if kind is Kind.SERIAL and not machine.serial_socket:
        raise NoSerialPortError
    serial_path = machine.serial_socket if kind is Kind.SERIAL else ""
    secret = unseal(machine.console_secret)
    return Target(user, machine, machine.console_socket, secret, by_grant=not by_role, serial_path=serial_path)


def may_control(user: User, machine: Machine) -> bool:
    """By role or grant, or by a share link for this one screen."""
    return _may_control(user, machine, permissions_on(user, machine))


def _may_control(user: User, machine: Machine, granted: frozenset[Permission]) -> bool:
    return Permission.MACHINE_CONSOLE in granted or bool(control_grants([(user.pk, machine.pk)]))


def may_moderate(user: User, machine: Machine) -> bool:
    """Take control from others and remove people: the machine's owner, owners of its project, and operators."""
    granted = permissions_on(user, machine)
    return Permission.PROJECT_MANAGE in granted or (
        machine.owner_id == user.pk and Permission.MACHINE_CONSOLE in granted
    )


def control_grants(pairs: Collection[tuple[int, UUID]]) -> set[tuple[int, UUID]]:
    """Which of these people (ids) may control which of these machines by a link that is alive; one query, or none."""
    if not pairs:
        return set()
    people, machines = {user for user, _machine in pairs}, {machine for _user, machine in pairs}
    grants = ConsoleGrant.objects.filter(
        link__in=ConsoleLink.objects.alive().filter(mode=Mode.CONTROL, machine__in=machines),
        membership__user__in=people,
        membership__project=F("link__machine__project"),
    )
    return set(grants.values_list("membership__user_id", "link__machine_id")) & set(pairs)


def bans_of(people: Collection[int], machines: Collection[UUID]) -> dict[tuple[int, UUID], ScreenBan]:
    """Who of them is kept out of which screen now."""
    bans = ScreenBan.objects.filter(user__in=people, machine__in=machines, until__gt=timezone.now())
    return {(ban.user_id, ban.machine_id): ban for ban in bans}


# --- who is here ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Present:
    """A person at a screen, with all their tabs. `is_operator`: sees it by office, not as the machine's owner."""

    user_id: int
    name: str
    since: dt.datetime
    asked_at: dt.datetime | None
    sessions: list[UUID]
    controls: bool
    came_to_control: bool
    is_operator: bool
    may_be_removed: bool

    @property
    def tabs(self) -> int:
        return len(self.sessions)


@dataclass(frozen=True, slots=True)
class People:
    """Everybody at a screen as one of them sees it: the holder first, then who asks, then by arrival."""

    present: list[Present]
    me: int
    holder: Present | None
    moderates: bool
    banned: list[ScreenBan]
    own_ban: ScreenBan | None
    # The viewer has this one machine by a grant: it is their desktop, and whoever looks on is named to them.
    is_theirs: bool = False

    @property
    def own(self) -> Present | None:
        return next((one for one in self.present if one.user_id == self.me), None)

    @property
    def i_control(self) -> bool:
        return self.holder is not None and self.holder.user_id == self.me

    @property
    def asking(self) -> list[Present]:
        return [one for one in self.present if one.asked_at]

    @property
    def watching(self) -> list[Present]:
        """Whom to tell the viewer of: operators, and, on a desktop that was given to the viewer, everybody else."""
        others = [one for one in self.present if not one.controls and one.user_id != self.me]
        return [one for one in others if one.is_operator or self.is_theirs]


def people_on(machine: Machine, viewer: User) -> People:
    """The number of queries does not depend on how many they are."""
    bans = ScreenBan.objects.filter(machine=machine, until__gt=timezone.now())
    banned = list(bans.select_related("user").order_by("until"))
    # Whoever was removed a moment ago is on the way out.
    gone = {ban.user_id for ban in banned}
    open_here = ConsoleSession.objects.filter(machine=machine, ended_at=None, end_ordered_by="")
    tabs: dict[int, list[ConsoleSession]] = {}
    for session in open_here.select_related("user").order_by("started_at"):
        if session.user is not None and session.user_id not in gone:
            tabs.setdefault(session.user.pk, []).append(session)
    holder = ScreenControl.objects.filter(machine=machine).values_list("user_id", flat=True).first()
    users = {session.user for sessions in tabs.values() for session in sessions if session.user}
    granted = permissions_of([(user, machine.project_id) for user in users | {viewer}])
    moderates = may_moderate(viewer, machine)

    def present(user: User, sessions: list[ConsoleSession]) -> Present:
        return Present(
            user.pk,
            user.get_username(),
            sessions[0].started_at,
            min((one.asked_at for one in sessions if one.asked_at), default=None),
            [one.pk for one in sessions],
            controls=user.pk == holder,
            came_to_control=any(one.mode == Mode.CONTROL for one in sessions),
            is_operator=user.is_staff and machine.owner_id != user.pk,
            may_be_removed=moderates and may_remove(viewer, user, granted[user.pk, machine.project_id]),
        )

    everyone = [present(sessions[0].user, sessions) for sessions in tabs.values() if sessions[0].user]
    everyone.sort(key=lambda one: (not one.controls, one.asked_at is None, one.asked_at or one.since))
    return People(
        everyone,
        viewer.pk,
        next((one for one in everyone if one.controls), None),
        moderates,
        banned if moderates else [],
        next((ban for ban in banned if ban.user_id == viewer.pk), None),
        is_theirs=bool(grants_of([(viewer, machine)])),
    )


def may_remove(actor: User, person: User, persons: frozenset[Permission]) -> bool:
    """Of those who moderate: nobody removes themselves, an operator, or, without being one, an owner of the project."""
    if actor.pk == person.pk or (person.is_staff and not actor.is_staff):
        return False
    return actor.is_staff or Permission.PROJECT_MANAGE not in persons


def holder_of(machine: Machine) -> int | None:
    """The id of who controls the screen. Costs no query where `screen_control` was selected along."""
    try:
        return machine.screen_control.user_id
    except ScreenControl.DoesNotExist:
        return None


def links_on(machine: Machine) -> QuerySet[ConsoleLink]:
    """Share links that are alive, with how many people opened each."""
    return ConsoleLink.objects.alive().filter(machine=machine).annotate(opened=Count("grants"))


# --- for operators -------------------------------------------------------------------------------------------------


def open_sessions(*, limit: int = 20) -> list[ConsoleSession]:
    """Screens that are being looked at now, for the operator's overview; newest first."""
    return list(ConsoleSession.objects.filter(ended_at=None).select_related("machine__project", "user")[:limit])


def find_sessions(*, ended: bool = False, search: str = "", mode: str = "") -> QuerySet[ConsoleSession]:
    """For the operators' list, newest first: open ones, or those that ended within SHOWN_DAYS."""
    sessions = ConsoleSession.objects.select_related("machine__project", "machine__screen_control", "user")
    if ended:
        sessions = sessions.filter(ended_at__gt=timezone.now() - dt.timedelta(days=SHOWN_DAYS))
    else:
        sessions = sessions.filter(ended_at=None)
    if mode in ConsoleSession.Mode.values:
        sessions = sessions.filter(mode=mode)
    if search:
        match = Q(user_name__icontains=search) | Q(machine_name__icontains=search)
        match |= Q(machine__project__name__icontains=search)
        if is_address(search):
            match |= Q(request_ip=search)
        sessions = sessions.filter(match)
    return sessions


def session_for(pk: UUID) -> ConsoleSession:
    """For operators, who see all of them. NotFoundError if there is none."""
    session = ConsoleSession.objects.select_related("machine__project", "user").filter(pk=pk).first()
    if session is None:
        raise NotFoundError
    return session
