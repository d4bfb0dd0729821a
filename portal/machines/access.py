"""A new password, or another key, for the user inside: through the guest agent, while the machine runs.

The password waits sealed in the machine's row, never in the job's, and is shown like the first one.
"""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.errors import ConflictError, InvalidError
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.lib.secrets import new_password, seal
from portal.lib.ssh import clean_ssh_key, key_fingerprint
from portal.machines import services
from portal.machines.models import Machine
from portal.machines.states import PowerState, Task

MOST_KEY_CHARACTERS = 8192


def request_password(machine: Machine, *, actor: User, request_ip: str | None = None) -> Job:
    """Have a new password, which the portal makes, set for the user in the guest."""
    _known_user_only(machine)
    return services.claim(
        machine,
        JobName.MACHINE_PASSWORD,
        Task.ACCESS,
        (PowerState.RUNNING,),
        actor=actor,
        request_ip=request_ip,
        permission=Permission.MACHINE_SECRET,
        then=lambda claimed: _set(claimed, next_password=seal(new_password())),
    )


def request_ssh_key(machine: Machine, *, actor: User, public_key: str, request_ip: str | None = None) -> Job:
    """Have a public key let in as the user in the guest."""
    _known_user_only(machine)
    line = _checked(public_key)
    return services.claim(
        machine,
        JobName.MACHINE_SSH_KEY,
        Task.ACCESS,
        (PowerState.RUNNING,),
        actor=actor,
        request_ip=request_ip,
        permission=Permission.MACHINE_SECRET,
        then=lambda claimed: _set(claimed, next_ssh_key=line),
        detail={"key": key_fingerprint(line)},
    )


def _set(machine: Machine, **values: object) -> None:
    Machine.objects.filter(pk=machine.pk, task=Task.ACCESS).update(**values)


def _known_user_only(machine: Machine) -> None:
    if not machine.login_user:
        raise ConflictError(_("The user inside is not known: the machine was found on its host and taken over."))


def _checked(public_key: str) -> str:
    if len(public_key) > MOST_KEY_CHARACTERS:
        raise InvalidError(_("This is too long for a public key."), field="public_key")
    try:
        line = clean_ssh_key(public_key)
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="public_key") from error
    if not line:
        raise InvalidError(_("Paste the public key."), field="public_key")
    return line


# --- what workers found out ---------------------------------------------------------------------------------------


def record_password_set(machine: Machine, *, sealed: str) -> None:
    """The guest has this password now. A job that lost the machine meanwhile writes nothing."""
    rows = Machine.objects.filter(pk=machine.pk, task=Task.ACCESS, next_password=sealed)
    if rows.update(login_password=sealed, next_password="", password_changed_at=timezone.now()):
        services.tell(machine.pk)


def record_access_ended(machine: Machine, *, message: str = "") -> None:
    rows = Machine.objects.filter(Q(next_password__gt="") | Q(next_ssh_key__gt=""), pk=machine.pk)
    rows.filter(task__in=[Task.ACCESS, Task.NONE]).update(next_password="", next_ssh_key="")
    services.record_task_ended(machine, Task.ACCESS, message=message)
