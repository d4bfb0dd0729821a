"""Reads for the console: may this person see this screen now, and where is it?"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from uuid import UUID

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.utils.module_loading import import_string

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in
from portal.console.errors import HostSilentError, MachineOffError
from portal.console.models import ConsoleSession
from portal.console.relay import Ended, Step
from portal.console.tickets import Claim, Mode
from portal.errors import PortalError
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


def user_of_session(session_key: str | None) -> User | None:
    """Whose session this is at this moment: None after logout, expiry, a changed password, or a disabled account.

    Asked anew each time, since a WebSocket's own idea of its user is as old as the WebSocket.
    """
    if not session_key:
        return None
    store = import_string(f"{settings.SESSION_ENGINE}.SessionStore")(session_key)
    user = User.objects.filter(pk=store.get(SESSION_KEY), is_active=True).first()
    if user is None:
        return None
    proof = store.get(HASH_SESSION_KEY, "")
    accepted = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return user if any(hmac.compare_digest(proof, good) for good in accepted) else None


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


def verdict(session_key: str | None, claim: Claim, socket_path: str) -> Ended | None:
    """Why a running session must end now; None when it may go on."""
    user = user_of_session(session_key)
    if user is None or user.pk != claim.user_id:
        return Ended(Step.REVOKED, "signed-out")
    try:
        target = target_for(user, claim.machine_id, claim.mode)
    except MachineOffError:
        return Ended(Step.MACHINE_OFF, "stopped")
    except HostSilentError:
        # The screen may well be alive while the host's management is not: its connection will tell.
        return None
    except PortalError as error:
        return Ended(Step.REVOKED, error.code)
    # Stopped and started again, or moved: another QEMU, which this connection has nothing to do with.
    return None if target.socket_path == socket_path else Ended(Step.ENDED, "display-moved")


def open_sessions(*, limit: int = 20) -> list[ConsoleSession]:
    """Screens that are being looked at now, for the operator's overview; newest first."""
    return list(ConsoleSession.objects.filter(ended_at=None).select_related("machine__project", "user")[:limit])
