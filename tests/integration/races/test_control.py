"""Two and more who want the same screen at the same moment: one holds it, and everybody else is told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import uuid4

import pytest

from portal.accounts.models import Membership, User
from portal.audit.models import Event
from portal.console import control
from portal.console.models import ConsoleSession, ScreenControl
from portal.console.relay import Ended, Step
from portal.console.selectors import Target
from portal.console.services import begin_session, end_session
from portal.console.tickets import Mode
from portal.errors import ConflictError
from portal.machines.models import Machine
from tests.support.together import at_once

pytestmark = pytest.mark.django_db(transaction=True)

ROUNDS = range(5)


@pytest.fixture
def team(make_user: Callable[..., User], machine: Machine) -> list[User]:
    people = [make_user(f"member{number}") for number in range(4)]
    for person in people:
        Membership.objects.create(user=person, project=machine.project)
    return people


def come(user: User, machine: Machine) -> ConsoleSession:
    return begin_session(Target(user, machine, "", ""), number=uuid4(), mode=Mode.CONTROL, request_ip=None)


def go(session: ConsoleSession) -> None:
    end_session(session.pk, Ended(Step.ENDED, "browser-gone"))


def holder() -> User | None:
    return ScreenControl.objects.select_related("user").get().user


@pytest.mark.parametrize("_round", ROUNDS)
def test_of_all_who_come_at_once_one_controls(team: list[User], machine: Machine, _round: int) -> None:
    at_once([partial(come, user, machine) for user in team])
    assert holder() in team
    assert ConsoleSession.objects.count() == len(team)


@pytest.mark.parametrize("_round", ROUNDS)
def test_of_all_who_take_at_once_one_gets_it_and_the_others_are_told_who(
    team: list[User], machine: Machine, _round: int
) -> None:
    for user in team:
        come(user, machine)
    control.release(machine, actor=team[0])
    earlier = Event.objects.filter(action="console.control").count()

    def take(user: User) -> str:
        try:
            control.take(machine, actor=user)
        except ConflictError as error:
            return str(error.message)
        return "mine"

    told = at_once([partial(take, user) for user in team])
    assert told.count("mine") == 1, told
    winner = team[told.index("mine")]
    assert holder() == winner
    assert {text for text in told if text != "mine"} == {f"{winner} controls the screen. Ask for control instead."}
    assert Event.objects.filter(action="console.control").count() == earlier + 1


@pytest.mark.parametrize("_round", ROUNDS)
def test_control_is_never_left_lying_when_its_holder_goes_as_another_comes(
    team: list[User], machine: Machine, _round: int
) -> None:
    first = come(team[0], machine)
    works: list[Callable[[], object]] = [partial(go, first), *(partial(come, user, machine) for user in team[1:])]
    at_once(works)
    assert holder() in team[1:]


@pytest.mark.parametrize("_round", ROUNDS)
def test_when_all_go_at_once_nobody_controls(team: list[User], machine: Machine, _round: int) -> None:
    sessions = [come(user, machine) for user in team]
    at_once([partial(go, session) for session in sessions])
    assert holder() is None
