"""Reads for the console: may this person see this screen now, and where is it?"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.models import Session
from django.utils import timezone

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.console.errors import HostSilentError, MachineOffError
from portal.console.models import ConsoleSession
from portal.console.tickets import Mode
from portal.lib.secrets import unseal
from portal.machines.models import Machine
from portal.machines.selectors import machine_for
from portal.machines.states import PowerState

PERMISSIONS = {Mode.CONTROL: Permission.MACHINE_CONSOLE, Mode.VIEW: Permission.MACHINE_CONSOLE_VIEW}


@dataclass(frozen=True, slots=True)
class Target:
    """A screen that may be opened now: for whom, of which machine, and where QEMU listens."""

    user: User
    machine: Machine
    socket_path: str
    secret: str = field(repr=False)


def users_of_sessions(session_keys: Collection[str]) -> dict[str, User]:
    """Whose sessions these are at this moment. Missing: logged out, expired, password changed, account disabled.

    Asked anew each time, since a WebSocket's own idea of its user is as old as the WebSocket.
    """
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
    machine = machine_for(user, machine_id, Permission.MACHINE_CONSOLE_VIEW)
    may_control = Permission.MACHINE_CONSOLE in permissions_in(user, machine.project_id)
    return Mode.CONTROL if wanted is Mode.CONTROL and may_control else Mode.VIEW


def target_for(user: User, machine_id: UUID, mode: Mode) -> Target:
    """The screen, if the person may have it in this mode and the machine shows one."""
    machine = machine_for(user, machine_id, PERMISSIONS[mode])
    if machine.power_state == PowerState.UNKNOWN:
        raise HostSilentError
    if not machine.has_screen:
        raise MachineOffError
    return Target(user, machine, machine.console_socket, unseal(machine.console_secret))


def open_sessions(*, limit: int = 20) -> list[ConsoleSession]:
    """Screens that are being looked at now, for the operator's overview; newest first."""
    return list(ConsoleSession.objects.filter(ended_at=None).select_related("machine__project", "user")[:limit])
