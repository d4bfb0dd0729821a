"""What ends a running session, each done as it really happens, where it can: a new cause is a new line in LOSSES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.utils import timezone

from portal.accounts.models import Membership, User
from portal.accounts.permissions import Role
from portal.console import services
from portal.console.models import ConsoleSession
from portal.machines.models import Machine
from portal.machines.services import record_power_state
from portal.machines.states import PowerState, Status
from tests.integration.console.doors.conftest import Door, Person


@dataclass(frozen=True, slots=True)
class Loss:
    """`happen` brings it about; `at_the_door` and `inside` are the steps at which a session fails then.

    A ticket that was given to a session which is no more is nobody's, or its person is signed out: doors say either.
    """

    happen: Callable[[Door, Person, Machine], object]
    at_the_door: frozenset[str]
    inside: str


_NO_SESSION = frozenset({"revoked", "ticket"})
_NO_PERMISSION = frozenset({"permission"})


def _sign_out(door: Door, person: Person, _machine: Machine) -> None:
    assert door.ask(person, "/logout/", {}, web=1).status == 302


def _disable(_door: Door, person: Person, _machine: Machine) -> None:
    User.objects.filter(pk=person.user.pk).update(is_active=False)


def _change_password(_door: Door, person: Person, _machine: Machine) -> None:
    user = User.objects.get(pk=person.user.pk)
    user.set_password("another-horse-battery")
    user.save()


def _leave_project(_door: Door, person: Person, _machine: Machine) -> None:
    Membership.objects.filter(user=person.user).delete()


def _become_viewer(_door: Door, person: Person, _machine: Machine) -> None:
    Membership.objects.filter(user=person.user).update(role=Role.VIEWER)


def _stop(_door: Door, _person: Person, machine: Machine) -> None:
    assert record_power_state(machine.pk, PowerState.SHUT_OFF, at=timezone.now())


def _delete(_door: Door, _person: Person, machine: Machine) -> None:
    Machine.objects.filter(pk=machine.pk).update(status=Status.DELETED)


def _move(_door: Door, _person: Person, machine: Machine) -> None:
    Machine.objects.filter(pk=machine.pk).update(console_socket="/nowhere/else.sock")


def _be_removed(_door: Door, person: Person, machine: Machine) -> None:
    assert machine.owner is not None
    services.remove_person(machine, actor=machine.owner, person=person.user)


def _be_ended_by_an_operator(_door: Door, person: Person, machine: Machine) -> None:
    operator = User.objects.create_user("olga", password=None, is_staff=True)
    (session,) = ConsoleSession.objects.filter(machine=machine, user=person.user, ended_at=None)
    assert services.order_end(session, actor=operator)


LOSSES = {
    "signed out": Loss(_sign_out, _NO_SESSION, "revoked"),
    "disabled": Loss(_disable, _NO_SESSION, "revoked"),
    "given another password": Loss(_change_password, _NO_SESSION, "revoked"),
    "put out of the project": Loss(_leave_project, _NO_PERMISSION, "revoked"),
    "made a viewer": Loss(_become_viewer, _NO_PERMISSION, "revoked"),
    "left with a stopped machine": Loss(_stop, frozenset({"machine-off"}), "machine-off"),
    "left with a deleted machine": Loss(_delete, _NO_PERMISSION, "revoked"),
    "left with a machine that moved": Loss(_move, frozenset({"host"}), "ended"),
    "removed from the screen": Loss(_be_removed, frozenset({"revoked"}), "revoked"),
    # It ends the one session; the door stays open.
    "ended by an operator": Loss(_be_ended_by_an_operator, frozenset(), "revoked"),
}
