"""Deployments asked for at the same moment, and cut off in the middle: all of it or nothing, and never twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from portal.accounts.models import Project, User
from portal.audit.models import Event
from portal.deployments import acting, services
from portal.deployments.lists import entries_of
from portal.deployments.models import Deployment, Seat
from portal.deployments.selectors import seats_of
from portal.deployments.services import Plan, add_people, make_deployment
from portal.errors import PortalError
from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.machines import many
from portal.machines import services as machines
from portal.machines.models import Batch, Grant, Machine
from portal.machines.states import Status
from tests.portal.deployments.conftest import dana, emil, plan, room, run_all
from tests.support.together import at_once

__all__ = ["dana", "emil", "plan", "room"]

pytestmark = pytest.mark.django_db(transaction=True)
NAMES = [f"pupil {number}" for number in range(12)]


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def counts() -> tuple[int, ...]:
    models = (Deployment, Seat, Machine, Job, Grant, Event, Batch)
    project, host = Project.objects.get(name="Lighthouse"), Host.objects.get()
    return (*(model.objects.count() for model in models), project.used_machines, host.reserved_memory_mib)


def dies_at(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, call: int) -> None:
    """At the call of this number, when it has done its work."""
    works: Callable[..., Any] = getattr(module, name)
    calls = iter(range(1, 1000))

    def mortal(*args: Any, **values: Any) -> Any:
        result = works(*args, **values)
        if next(calls) == call:
            raise Killed
        return result

    monkeypatch.setattr(module, name, mortal)


def test_five_of_the_same_request_make_one(room: Project, plan: Plan, alice: User) -> None:
    key, people = uuid4(), entries_of(NAMES)

    def ask() -> Deployment:
        return make_deployment(room, actor=alice, plan=plan, people=people, whole=True, request_key=key)

    made = at_once([ask] * 5)
    assert len({one.pk for one in made}) == 1
    assert (Deployment.objects.count(), Seat.objects.count(), Machine.objects.count()) == (1, 12, 12)
    room.refresh_from_db()
    assert room.used_machines == 12


def test_of_two_for_the_last_room_one_is_whole_and_one_is_nothing(room: Project, plan: Plan, alice: User) -> None:
    Project.objects.filter(pk=room.pk).update(max_machines=15)
    people = entries_of(NAMES)

    def ask(name: str) -> object:
        wanted = Plan(name, name, plan.image_version, plan.flavour)
        try:
            return make_deployment(room, actor=alice, plan=wanted, people=people, whole=True)
        except PortalError as error:
            return error.code

    answers = at_once([lambda: ask("one"), lambda: ask("two")])
    assert [one for one in answers if isinstance(one, str)] == ["quota-exceeded"]
    assert (Deployment.objects.count(), Machine.objects.count(), Seat.objects.count()) == (1, 12, 12)


def test_a_missing_desktop_is_made_once_however_many_ask(room: Project, plan: Plan, alice: User) -> None:
    made = make_deployment(room, actor=alice, plan=plan, people=entries_of(NAMES[:3]), whole=True)
    Machine.objects.update(status=Status.DELETED, holds_quota=False)
    seats = list(seats_of(made))

    def ask() -> Batch:
        return acting.act(made, "start", seats, actor=alice, request_id=uuid4())

    at_once([ask] * 4)
    assert Machine.objects.exclude(status=Status.DELETED).count() == 3


def test_the_same_people_added_at_once_are_added_once(room: Project, plan: Plan, alice: User) -> None:
    made = make_deployment(room, actor=alice, plan=plan, people=entries_of(NAMES[:2]), whole=True)
    more = entries_of(NAMES[:6])
    added = at_once([lambda: add_people(made, actor=alice, people=more, whole=True)] * 4)
    assert sorted(map(len, added)) == [0, 0, 0, 4]
    assert list(made.seats.values_list("number", flat=True)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("call", [1, 7, 12])
def test_killed_while_it_is_made_nothing_is_left(
    room: Project, plan: Plan, alice: User, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    before, key = counts(), uuid4()
    values: dict[str, Any] = {"actor": alice, "plan": plan, "people": entries_of(NAMES), "request_key": key}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_at(patch, machines, "request_machine", call)
        make_deployment(room, whole=False, **values)
    assert counts() == before
    made = make_deployment(room, whole=False, **values)
    assert made.seats.exclude(machine=None).count() == 12


@pytest.mark.parametrize("word", ["stop", "reset", "remove"])
def test_killed_while_all_are_asked_nothing_is_asked_and_again_all_is(
    room: Project, plan: Plan, alice: User, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    made = make_deployment(room, actor=alice, plan=plan, people=entries_of(NAMES), whole=True)
    run_all(made)
    before, key, seats = counts(), uuid4(), list(seats_of(made))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_at(patch, many, "_ask", 6)
        acting.act(made, word, seats, actor=alice, request_id=key)
    assert counts() == before
    batch = acting.act(made, word, seats, actor=alice, request_id=key)
    assert batch.items.filter(refusal="").count() == 12
    if word == "remove":
        assert services.forget(made, actor=alice)
