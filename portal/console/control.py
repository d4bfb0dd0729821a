"""Who controls a screen: one person at a time. Every change is one conditional UPDATE of the machine's ScreenControl.

Nobody's input but the holder's reaches the machine; `admission.standings` sees to that within a second.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.audit.services import record
from portal.console.events import people_changed
from portal.console.models import ConsoleSession, ScreenControl
from portal.console.selectors import may_moderate
from portal.console.tickets import Mode
from portal.errors import ConflictError, ForbiddenError
from portal.lib import prepared
from portal.machines.models import Machine


@transaction.atomic
def settle(machine_id: UUID, locked: ScreenControl | None = None) -> None:
    """Where nobody present holds control, it goes to who asked first, else to who has been here longest, else to none.

    Called after a session began or ended, in the same transaction. The row is locked first: of two that settle at once
    the second sees what the first one's session did. Who has `locked` it gives it.
    """
    control = locked or lock(machine_id)
    present = _present(machine_id)
    if control.user_id in present or (control.user_id is None and not present):
        return
    heir = present[0] if present else None
    _pass(machine_id, held_by=control.user_id, to=heir)
    if control.user_id is not None and heir is not None:
        machine = Machine.objects.get(pk=machine_id)
        record(None, "console.control", machine, detail={"to": User.objects.get(pk=heir).get_username()})


@prepared.rows
def _present(machine: UUID) -> QuerySet[ConsoleSession, int | None]:
    """Who asked first, and who has been here longest, first."""
    waiting = _controlling(machine).order_by(F("asked_at").asc(nulls_last=True), "started_at")
    return waiting.values_list("user_id", flat=True)


@transaction.atomic
def take(machine: Machine, *, actor: User, request_ip: str | None = None) -> None:
    """At once where nobody holds it; from somebody else for those who moderate. ConflictError says who holds it."""
    _require_present(machine, actor.pk, _("Open the screen first, not only to watch it."))
    control = lock(machine.pk)
    if control.user_id == actor.pk:
        return
    if control.user_id is not None and not may_moderate(actor, machine):
        raise ConflictError(_held_by(control))
    _handed(machine, control, to=actor, actor=actor, request_ip=request_ip)


@transaction.atomic
def ask(machine: Machine, *, actor: User) -> None:
    """Let the holder know; where there is none it is taken at once. Asking again changes nothing."""
    _require_present(machine, actor.pk, _("Open the screen first, not only to watch it."))
    control = lock(machine.pk)
    if control.user_id is None:
        _handed(machine, control, to=actor, actor=actor)
    elif control.user_id != actor.pk:
        mine = _controlling(machine.pk).filter(user=actor)
        if not mine.exclude(asked_at=None).exists() and mine.update(asked_at=timezone.now()):
            record(actor, "console.ask", machine)
            people_changed(machine.pk, machine.project_id)


@transaction.atomic
def give(machine: Machine, *, actor: User, person: User, request_ip: str | None = None) -> None:
    """Hand over to a person who is here to control. For the holder, and for those who moderate."""
    control = lock(machine.pk)
    if control.user_id != actor.pk and not may_moderate(actor, machine):
        raise ForbiddenError(_("Only who controls the screen can hand it over."))
    _require_present(machine, person.pk, _("%(person)s is not here to control the screen.") % {"person": person})
    if control.user_id != person.pk:
        _handed(machine, control, to=person, actor=actor, request_ip=request_ip)


@transaction.atomic
def release(machine: Machine, *, actor: User) -> None:
    """Let go: to who asked first, else to nobody. Nothing happens when it is somebody else's already."""
    if not holds(machine.pk, actor.pk):
        return
    control = lock(machine.pk)
    if control.user_id != actor.pk:
        return
    asking = _controlling(machine.pk).exclude(asked_at=None).exclude(user=actor).order_by("asked_at").first()
    _handed(machine, control, to=asking.user if asking else None, actor=actor)


def let_go_of_all() -> None:
    """For a database that was brought back: nobody is at any screen."""
    ScreenControl.objects.exclude(user=None).update(user=None, since=timezone.now())


def holds(machine_id: UUID, user_id: int) -> bool:
    return ScreenControl.objects.filter(machine=machine_id, user=user_id).exists()


def lock(machine_id: UUID) -> ScreenControl:
    """The row as it is now; until the transaction's end nobody else changes who controls this screen."""
    rows = ScreenControl.objects.select_for_update().filter(machine=machine_id)
    try:
        return rows.get()
    except ScreenControl.DoesNotExist:
        ScreenControl.objects.get_or_create(machine_id=machine_id, defaults={"since": timezone.now()})
        return rows.get()


def _controlling(machine: UUID) -> QuerySet[ConsoleSession]:
    """Open sessions of people who came to control and were not told to go."""
    here = ConsoleSession.objects.filter(machine=machine, ended_at=None, mode=Mode.CONTROL, end_ordered_by="")
    return here.exclude(user=None)


def _require_present(machine: Machine, user_id: int, otherwise: str) -> None:
    if not _controlling(machine.pk).filter(user=user_id).exists():
        raise ConflictError(otherwise)


def _handed(
    machine: Machine, control: ScreenControl, *, to: User | None, actor: User, request_ip: str | None = None
) -> None:
    if not _pass(machine.pk, held_by=control.user_id, to=to.pk if to else None):
        raise ConflictError(_held_by(ScreenControl.objects.select_related("user").get(pk=control.pk)))
    detail = {name: user.get_username() for name, user in (("from", control.user), ("to", to)) if user}
    record(actor, "console.control", machine, detail=detail, request_ip=request_ip)
    people_changed(machine.pk, machine.project_id)


def _pass(machine_id: UUID, *, held_by: int | None, to: int | None) -> bool:
    """True if it was still `held_by`'s. Who has control asks for it no more."""
    row = ScreenControl.objects.filter(machine=machine_id, user=held_by)
    if row.update(user=to, since=timezone.now()) != 1:
        return False
    if to is not None:
        ConsoleSession.objects.filter(machine=machine_id, user=to, ended_at=None).update(asked_at=None)
    return True


def _held_by(control: ScreenControl) -> str:
    if control.user is None:
        return _("Nobody controls the screen now. Try again.")
    return _("%(person)s controls the screen. Ask for control instead.") % {"person": control.user.get_username()}
