"""A person's files come with the session and go before the desktop does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from portal.accounts.models import Project, User
from portal.hosts.models import Host
from portal.images.models import Image
from portal.machines.models import Machine
from portal.pools import broker, filling
from portal.pools.desk import desk_of
from portal.pools.models import Desktop, Pool, Session
from portal.pools.states import EndReason, PoolKind
from portal.profiles.models import Profile
from portal.profiles.selectors import profile_of
from portal.profiles.states import State
from tests.portal.pools.conftest import Look
from tests.portal.pools.test_broker import taken_by
from tests.support.agreement import disagreements
from tests.support.files_guest import FilesGuests
from tests.workers.support import fake_of
from workers.hypervisor.types import PowerState as HostPowerState

pytestmark = pytest.mark.django_db

MakePool = Callable[..., Pool]


@pytest.fixture
def guests(roomy: Project) -> FilesGuests:
    Image.objects.update(has_agent=True)
    return FilesGuests(fake_of(Host.objects.get()))


@pytest.fixture
def pool(make_pool: MakePool, look: Look, guests: FilesGuests, alice: User, bob: User) -> Pool:
    pool = look(make_pool(entitled=(alice, bob)))
    be_desktops(guests)
    return pool


def be_desktops(guests: FilesGuests) -> None:
    for machine in Machine.objects.live():
        guests.be(machine.pk)


def machine_of(session: Session) -> Machine:
    session.refresh_from_db()
    assert session.machine is not None
    return session.machine


def profile(person: User, pool: Pool) -> Profile:
    found = profile_of(person, pool.project)
    assert found is not None
    return found


def test_files_come_with_the_session_and_are_there_on_the_next_desktop(
    pool: Pool, look: Look, guests: FilesGuests, alice: User
) -> None:
    session = taken_by(broker.ask(pool, alice))
    first = machine_of(session)
    look(pool)
    assert (profile(alice, pool).state, profile(alice, pool).machine) == (State.IN_USE, first)
    guests.write(first.pk, "a letter")
    assert broker.sign_out(session, EndReason.SIGNED_OUT, actor=alice)
    look(pool)
    be_desktops(guests)
    assert profile(alice, pool).state == State.FREE
    assert not Machine.objects.live().filter(pk=first.pk).exists()
    again = taken_by(broker.ask(pool, alice))
    look(pool)
    assert guests.read(machine_of(again).pk) == ["a letter"]
    assert guests.unclean == set()
    assert disagreements() == []


def test_the_desktop_does_not_go_before_its_files_are_away(
    pool: Pool, look: Look, guests: FilesGuests, alice: User
) -> None:
    session = taken_by(broker.ask(pool, alice))
    look(pool)
    first = machine_of(session)
    broker.sign_out(session, EndReason.SIGNED_OUT, actor=alice)
    filling.tend(pool.pk)
    first.refresh_from_db()
    assert first.is_live
    assert profile(alice, pool).state == State.DETACHING
    look(pool)
    assert guests.unclean == set()
    assert not Machine.objects.live().filter(pk=first.pk).exists()


def test_a_killed_desktop_s_files_are_whole_on_the_next_one(
    pool: Pool, look: Look, guests: FilesGuests, alice: User
) -> None:
    session = taken_by(broker.ask(pool, alice))
    look(pool)
    first = machine_of(session)
    guests.write(first.pk, "a letter")
    fake_of(first.host).set_power(first.pk, HostPowerState.SHUT_OFF)
    Machine.objects.filter(pk=first.pk).update(power_state="shut_off")
    look(pool, rounds=6)
    be_desktops(guests)
    session.refresh_from_db()
    assert not session.is_live
    again = taken_by(broker.ask(pool, alice))
    look(pool, rounds=6)
    assert guests.read(machine_of(again).pk) == ["a letter"]
    assert disagreements() == []


def test_a_session_goes_on_without_files_and_says_why(pool: Pool, look: Look, guests: FilesGuests, alice: User) -> None:
    Project.objects.update(max_disk_gib=1)
    session = taken_by(broker.ask(pool, alice))
    look(pool)
    session.refresh_from_db()
    assert session.is_live
    desk = desk_of(session, alice, "")
    assert desk.files is not None and not desk.files.are_here
    assert "quota" in desk.files.message.lower() or "quota" in desk.files_problem.lower()


def test_a_pool_may_leave_files_alone(make_pool: MakePool, look: Look, guests: FilesGuests, alice: User) -> None:
    pool = look(make_pool(entitled=(alice,), keeps_files=False))
    taken_by(broker.ask(pool, alice))
    look(pool)
    assert not Profile.objects.exists()


def test_one_s_own_desktop_gets_them_again_when_one_comes_back(
    make_pool: MakePool, look: Look, guests: FilesGuests, alice: User
) -> None:
    pool = look(make_pool(entitled=(alice,), kind=PoolKind.ASSIGNED))
    be_desktops(guests)
    session = taken_by(broker.ask(pool, alice))
    look(pool)
    broker.sign_out(session, EndReason.SIGNED_OUT, actor=alice)
    again = taken_by(broker.ask(pool, alice))
    assert machine_of(again) == machine_of(session)
    look(pool)
    assert profile(alice, pool).state == State.IN_USE
    assert Desktop.objects.filter(person=alice).count() == 1
