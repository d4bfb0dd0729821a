"""A pool's own work killed at any line: what it hands out, takes back, builds and lets go is never lost or doubled.

The machines' jobs are in the matrix of `test_fake.py`; here the one dies who looks after the pool, or answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from portal.accounts.models import Project, User
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE
from portal.machines.models import Grant, Machine
from portal.machines.states import Status
from portal.pools import broker, filling, services
from portal.pools.models import Desktop, Place, Pool, Session
from portal.pools.states import DesktopState, EndReason, PlaceState
from tests.integration.crash.scenes import Stage
from tests.integration.crash.test_fake import Countdown, LivesOf
from tests.support.agreement import disagreements
from tests.support.desktops import handed_out_twice
from tests.workers.support import Killed, work_on
from workers import reconcile

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(900)]


@pytest.fixture
def pool(stage: Stage, bob: User, vera: User) -> Pool:
    """Two desktops at most, one of them spare; three people may."""
    pool = services.create_pool(
        "lab",
        actor=stage.operator,
        project=Project.objects.get(),
        image_version=stage.version,
        flavour=stage.flavour,
        spare=1,
        maximum=2,
    )
    for person in (stage.alice, bob, vera):
        services.entitle(pool, actor=stage.operator, user=person)
    return settled(stage, pool)


def settled(stage: Stage, pool: Pool) -> Pool:
    """What the clock and the workers do until nothing is left to be done."""
    for _ in range(6):
        Pool.objects.update(tended_until=None)  # Whoever died while looking after it does so no more.
        filling.tend(pool.pk)
        for job in Job.objects.filter(status__in=ACTIVE).order_by("created_at"):
            work_on(job)
    reconcile.reconcile_host(stage.host.pk)
    return Pool.objects.get(pk=pool.pk)


def _hand_out(pool: Pool, people: list[User]) -> None:
    for person in people:
        broker.ask(pool, person)


def _take_back(pool: Pool, people: list[User]) -> None:
    for session in Session.objects.live().filter(pool=pool).select_related("pool", "desktop__pool", "person"):
        broker.sign_out(session, EndReason.SIGNED_OUT)


def _look_after(pool: Pool, _people: list[User]) -> None:
    filling.tend(pool.pk)


def _have_made_new(pool: Pool, people: list[User]) -> None:
    for desktop in Desktop.objects.filter(pool=pool).exclude(state=DesktopState.RETIRED).select_related("pool"):
        broker.recycle(desktop)
    filling.tend(pool.pk)


def _let_go(pool: Pool, _people: list[User]) -> None:
    Pool.objects.filter(pk=pool.pk).update(spare=0, maximum=0)
    filling.tend(pool.pk)


STORIES = [_hand_out, _take_back, _look_after, _have_made_new, _let_go]


@pytest.mark.parametrize("story", STORIES)
def test_killed_at_any_line_nothing_is_lost_or_doubled(
    stage: Stage, pool: Pool, bob: User, vera: User, story: Callable[[Pool, list[User]], None], lives_of: LivesOf
) -> None:
    people = [stage.alice, bob, vera]
    for lives in lives_of(1):
        _prepare(stage, pool, people, story)
        countdown = Countdown(lives)
        died = True
        with contextlib.suppress(Killed), countdown.running():
            story(pool, people)
            died = False
        pool = settled(stage, pool)
        _hand_out(pool, people)  # Their browsers ask again.
        pool = settled(stage, pool)
        at = f"killed at moment {lives} of {story.__name__}"
        assert handed_out_twice(pool) == [], at
        assert disagreements() == [], at
        assert _counts(pool) == (pool.maximum, pool.maximum, len(people) - pool.maximum), at
        if not died:
            break
    assert lives >= 2, "it was cut short"


def _prepare(stage: Stage, pool: Pool, people: list[User], story: object) -> None:
    """Back to the beginning: nobody is on a desktop, but where sessions are to be taken back."""
    Pool.objects.update(spare=1, maximum=2)
    Place.objects.filter(state=PlaceState.WAITING).update(state=PlaceState.GONE)
    _take_back(pool, people)
    settled(stage, pool)
    if story in (_take_back, _have_made_new, _look_after):
        _hand_out(Pool.objects.get(pk=pool.pk), people)
    if story is _look_after:
        _take_back(pool, people[:1])


def _counts(pool: Pool) -> tuple[int, int, int]:
    """Sessions, machines that are there, and places: each desktop has its machine and its person, others wait."""
    there = Machine.objects.filter(desktop__pool=pool).exclude(status=Status.DELETED).count()
    assert Grant.objects.count() == Session.objects.live().count()
    return Session.objects.live().count(), there, Place.objects.filter(state=PlaceState.WAITING).count()
