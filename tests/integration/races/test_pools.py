"""Two hundred ask at once for fifty desktops: each gets one, or a place in line, whoever is killed meanwhile."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import ImageVersion
from portal.machines.models import Flavour, Grant
from portal.pools import broker, filling
from portal.pools.models import Desktop, Place, Pool, Session
from portal.pools.states import DesktopState, EndReason, PlaceState
from tests.integration.races import mortal
from tests.support.desktops import handed_out_twice, people, stocked_pool
from tests.support.together import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(900)]

PEOPLE, DESKTOPS = 200, 50


@pytest.fixture
def pool(project: Project, image_version: ImageVersion, flavour: Flavour, host: Host) -> Pool:
    return stocked_pool("lab", project=project, version=image_version, flavour=flavour, hosts=[host], desktops=DESKTOPS)


def asking(pool: Pool, person: User) -> Callable[[], broker.Answer]:
    """As a request does: with a row of the pool of its own."""
    return lambda: broker.ask(Pool.objects.get(pk=pool.pk), person)


def assert_each_has_one(pool: Pool, everybody: list[User], *, desktops: int) -> None:
    """A desktop or a place, exactly one."""
    assert handed_out_twice(pool) == []
    on = list(Session.objects.live().filter(pool=pool).values_list("person_id", flat=True))
    waits = list(Place.objects.filter(pool=pool, state=PlaceState.WAITING).values_list("person_id", flat=True))
    assert len(on) == desktops
    assert sorted(on + waits) == sorted(person.pk for person in everybody)
    assert set(Grant.objects.values_list("user_id", flat=True)) == set(on)


def test_two_hundred_at_once_for_fifty(pool: Pool) -> None:
    everybody = people(PEOPLE, pool=pool)
    answers = at_once([asking(pool, person) for person in everybody])
    assert all((answer.session is None) != (answer.place is None) for answer in answers)
    assert len({answer.session.desktop_id for answer in answers if answer.session}) == DESKTOPS
    assert_each_has_one(pool, everybody, desktops=DESKTOPS)
    again = at_once([asking(pool, person) for person in everybody[:40]])
    for before, after in zip(answers, again, strict=False):
        assert (before.session, before.place) == (after.session, after.place)


def test_thirty_tabs_of_one_person_get_one_desktop(pool: Pool) -> None:
    (person,) = people(1, pool=pool)
    answers = at_once([asking(pool, person)] * 30)
    assert len({answer.session.pk for answer in answers if answer.session}) == 1
    assert all(answer.session for answer in answers)
    assert Session.objects.count() == 1 and Desktop.objects.filter(state=DesktopState.TAKEN).count() == 1


def test_thirty_tabs_of_one_person_have_one_place(pool: Pool) -> None:
    Desktop.objects.update(state=DesktopState.RECYCLING)
    (person,) = people(1, pool=pool)
    answers = at_once([asking(pool, person)] * 30)
    assert len({answer.place.pk for answer in answers if answer.place}) == 1 and Place.objects.count() == 1


def test_what_is_given_back_goes_to_who_waits_in_order_however_many_serve(pool: Pool) -> None:
    everybody = people(80, pool=pool)
    for person in everybody:
        broker.ask(pool, person)
    waiting = list(Place.objects.filter(state=PlaceState.WAITING).order_by("asked_at").values_list("person", flat=True))
    assert len(waiting) == 30
    Session.objects.filter(person__in=everybody[:12]).update(state="ended")
    Desktop.objects.filter(person__in=everybody[:12]).update(state=DesktopState.SPARE, person=None)
    served = at_once([lambda: broker.serve(Pool.objects.get(pk=pool.pk))] * 8)
    assert sum(served) == 12
    on = set(Session.objects.live().values_list("person_id", flat=True))
    assert on >= set(waiting[:12]) and not on & set(waiting[12:])
    assert handed_out_twice(pool) == []


def test_signed_out_and_asked_for_at_once(pool: Pool) -> None:
    """The same session ended from many sides ends once, and nobody is left without an answer."""
    everybody = people(DESKTOPS + 20, pool=pool)
    for person in everybody[:DESKTOPS]:
        broker.ask(pool, person)
    sessions = list(Session.objects.live().select_related("pool", "desktop__pool", "person")[:10])
    ends: list[Callable[[], object]] = [
        lambda one=session: broker.sign_out(one, EndReason.SIGNED_OUT)  # type: ignore[misc]  # the default binds the loop's value
        for session in sessions
        for _ in range(3)
    ]
    results = at_once([*ends, *(asking(pool, person) for person in everybody[DESKTOPS:])])
    assert sum(result is True for result in results) == 10
    assert Desktop.objects.filter(state=DesktopState.RECYCLING, person=None).count() == 10
    assert_each_has_one(pool, _still_there(everybody), desktops=DESKTOPS - 10)


def _still_there(everybody: list[User]) -> list[User]:
    gone = set(Session.objects.filter(state="ended").values_list("person_id", flat=True))
    return [person for person in everybody if person.pk not in gone]


# --- processes that are killed ---------------------------------------------------------------------------------------


def test_web_and_worker_processes_are_killed_in_between(pool: Pool) -> None:
    """Some die in the midst of answering, some in the midst of looking after the pool; browsers ask again."""
    everybody = people(PEOPLE, pool=pool)
    dice = random.Random(7)  # noqa: S311 - the same run each time
    keys = [person.pk for person in everybody]
    crowd = [mortal.start(mortal.answer_people, pool, keys[number::6], dice.randrange(40, 400)) for number in range(6)]
    crowd += [mortal.start(mortal.look_after, pool, [], dice.randrange(20, 120)) for _ in range(3)]
    assert mortal.all_over(crowd).count(-signal.SIGKILL) >= 6, "they were to die"
    assert handed_out_twice(pool) == []
    Pool.objects.update(tended_until=None)
    filling.tend(pool.pk)
    crowd = [mortal.start(mortal.answer_people, pool, keys[number::4]) for number in range(4)]
    assert mortal.all_over(crowd) == [0] * 4
    assert_each_has_one(pool, everybody, desktops=DESKTOPS)
