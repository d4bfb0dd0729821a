"""A pool is as it is to be: by number, by hour, by version; and comes back to that whatever happens to it."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Project, User
from portal.audit.models import Event as AuditEvent
from portal.errors import ConflictError, InvalidError
from portal.events.models import Event
from portal.hosts.models import Host
from portal.images import services as images
from portal.images.models import Image, ImageVersion, VersionStatus
from portal.jobs.models import Job
from portal.machines import services as machines
from portal.machines.models import Machine
from portal.machines.states import PowerState, Status
from portal.parents.models import Parent
from portal.pools import broker, filling, hours, selectors, services
from portal.pools.models import Desktop, Pool, Session
from portal.pools.services import Hours
from portal.pools.states import DesktopState, EndReason, PoolKind, Recompose, SessionState
from tests.portal.pools.conftest import Look
from tests.portal.pools.test_broker import states, taken_by, waiting
from tests.support.agreement import disagreements
from tests.workers.support import fake_of, write_image
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.types import PowerState as HostPowerState

pytestmark = pytest.mark.django_db

MakePool = Callable[..., Pool]
NOW = dt.datetime(2026, 11, 26, 16, 0, tzinfo=dt.UTC)  # a Thursday


@pytest.fixture
def newer(image: Image) -> ImageVersion:
    version = ImageVersion.objects.create(
        image=image, number=2, status=VersionStatus.READY, virtual_size_bytes=4 * 1024**3, sha256="1" * 64
    )
    write_image(version)
    return version


# --- how many --------------------------------------------------------------------------------------------------------


def test_spare_ones_are_kept_up_to_the_most(
    make_pool: MakePool, look: Look, alice: User, bob: User, vera: User
) -> None:
    pool = look(make_pool(entitled=(alice, bob, vera), spare=2, maximum=4))
    for person, expected in ((alice, {"spare": 2, "taken": 1}), (bob, {"spare": 2, "taken": 2})):
        taken_by(broker.ask(pool, person))
        look(pool)
        assert Counter(states(pool)) == expected
    taken_by(broker.ask(pool, vera))
    look(pool)
    assert Counter(states(pool)) == {"spare": 1, "taken": 3}
    assert disagreements() == []


def test_at_least_so_many_are_there(make_pool: MakePool, look: Look) -> None:
    pool = look(make_pool(spare=0, minimum=3, maximum=5))
    assert states(pool) == ["spare"] * 3
    pool.project.refresh_from_db()
    assert pool.project.used_machines == 3


def test_who_waits_is_built_for(make_pool: MakePool, look: Look, alice: User, bob: User) -> None:
    pool = look(make_pool(entitled=(alice, bob), spare=0, maximum=5))
    assert states(pool) == []
    for person in (alice, bob):
        waiting(broker.ask(pool, person))
    look(pool)
    assert states(pool) == ["taken", "taken"]
    assert {session.person for session in Session.objects.live()} == {alice, bob}


def test_fewer_are_wanted_and_the_highest_numbers_go(make_pool: MakePool, look: Look, operator: User) -> None:
    pool = look(make_pool(spare=4))
    services.change_pool(pool, actor=operator, spare=1)
    look(pool)
    there = Desktop.objects.exclude(state=DesktopState.RETIRED)
    assert list(there.values_list("number", "state")) == [(1, "spare")]
    assert Machine.objects.exclude(status=Status.DELETED).count() == 1
    services.change_pool(pool, actor=operator, spare=3)
    look(pool)
    assert sorted(there.values_list("number", flat=True)) == [1, 2, 3], "numbers are used again"


def test_the_hours_say_how_many(make_pool: MakePool, operator: User) -> None:
    pool = make_pool(spare=2, maximum=50, time_zone="Europe/Berlin")
    plan = [Hours(3, 8 * 60, 17 * 60, 20), Hours(3, 17 * 60, 24 * 60, 5)]
    services.set_hours(pool, actor=operator, hours=plan)
    assert hours.spare_at(pool, NOW) == 5, "five in the afternoon in Berlin"
    assert hours.spare_at(pool, NOW - dt.timedelta(minutes=1)) == 20
    assert hours.spare_at(pool, NOW + dt.timedelta(days=1)) == 2
    for wrong in ([Hours(7, 0, 1, 1)], [Hours(0, 5, 5, 1)], [Hours(0, 0, 60, 1), Hours(0, 59, 90, 1)]):
        with pytest.raises(InvalidError):
            services.set_hours(pool, actor=operator, hours=wrong)
    services.set_hours(pool, actor=operator, hours=plan)
    assert AuditEvent.objects.filter(action="pool.hours").count() == 1


def test_by_the_hours_it_fills_and_empties(make_pool: MakePool, look: Look, operator: User) -> None:
    pool = make_pool(spare=1, maximum=9)
    services.set_hours(pool, actor=operator, hours=[Hours(day, 0, 24 * 60, 4) for day in range(7)])
    look(pool)
    assert states(pool) == ["spare"] * 4
    services.set_hours(pool, actor=operator, hours=[])
    look(pool)
    assert states(pool) == ["spare"]


def test_names_of_other_machines_are_left_alone(
    make_pool: MakePool, look: Look, alice: User, roomy: Project, image_version: ImageVersion
) -> None:
    pool = make_pool(spare=2, name_pattern="web-{n}")
    machines.request_machine(
        roomy, actor=alice, image_version=image_version, flavour=pool.flavour, name="web-1", login_user="alice"
    )
    look(pool)
    assert set(Desktop.objects.values_list("number", flat=True)) == {2, 3}


def test_without_room_it_says_why_and_tries_again(make_pool: MakePool, look: Look, roomy: Project) -> None:
    pool = make_pool(spare=3)
    Project.objects.filter(pk=roomy.pk).update(max_machines=1)
    look(pool)
    assert states(pool) == ["spare"]
    assert "quota" in Pool.objects.get().problem
    assert selectors.pool_page(Pool.objects.get()).spare == 1
    Project.objects.filter(pk=roomy.pk).update(max_machines=10)
    look(pool)
    assert states(pool) == ["spare"], "not again so soon"
    Pool.objects.update(build_after=timezone.now())
    look(pool)
    assert states(pool) == ["spare"] * 3 and Pool.objects.get().problem == ""


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_while_the_first_to_fork_from_is_made_only_those_are_booted_that_somebody_waits_for(
    make_pool: MakePool, look: Look, alice: User
) -> None:
    pool = make_pool(entitled=(alice,), spare=3, maximum=5)
    filling.tend(pool.pk)
    assert Parent.objects.get().state == "wanted" and not Desktop.objects.exists()
    broker.ask(pool, alice)
    filling.tend(pool.pk)
    filling.tend(pool.pk)
    assert Desktop.objects.get().state == DesktopState.BUILDING
    look(pool)
    made = Machine.objects.filter(desktop__pool=pool).order_by("created_at").values_list("made_by", flat=True)
    assert [*made][1:] == ["fork"] * 3
    assert Session.objects.live().get().person == alice


def test_where_it_came_to_nothing_all_are_booted(make_pool: MakePool, look: Look, host: Host) -> None:
    fake_of(host).fail_next("start_parent", HypervisorError("No."), times=20)
    pool = look(make_pool(spare=2))
    assert Parent.objects.get().state == "failed"
    assert Desktop.objects.filter(pool=pool, state=DesktopState.SPARE).count() == 2


def test_a_build_that_failed_is_tried_again_later_and_later(make_pool: MakePool, look: Look, host: Host) -> None:
    Image.objects.update(has_agent=False)  # Nothing can be forked from it.
    pool = make_pool(spare=1)
    fake_of(host).fail_next("start", HypervisorError("Nothing starts here."))
    look(pool)
    desktop = Desktop.objects.get()
    assert desktop.state == DesktopState.FAILED and desktop.error and desktop.retry_at is not None
    first = desktop.retry_at - desktop.state_since
    assert selectors.failures_of(pool)[0].error == desktop.error
    assert Event.objects.filter(kind="desktop.failed").count() == 1
    look(pool)
    assert Job.objects.filter(name="machine.create").count() == 1, "not again so soon"
    fake_of(host).fail_next("start", HypervisorError("Nothing starts here."))
    Desktop.objects.update(retry_at=timezone.now())
    look(pool)
    desktop.refresh_from_db()
    assert desktop.state == DesktopState.FAILED and desktop.retry_at is not None
    assert desktop.retry_at - desktop.state_since > first
    Desktop.objects.update(retry_at=timezone.now())
    look(pool)
    desktop.refresh_from_db()
    assert (desktop.state, desktop.error, desktop.tries) == (DesktopState.SPARE, "", 0)
    assert disagreements() == []


def test_shut_down_inside_ends_the_session_and_makes_it_new(make_pool: MakePool, look: Look, alice: User) -> None:
    pool = look(make_pool(entitled=(alice,), spare=1, maximum=1))
    session = taken_by(broker.ask(pool, alice))
    assert session.machine is not None
    machines.record_power_state(session.machine.pk, PowerState.SHUT_OFF, at=timezone.now())
    look(pool)
    session.refresh_from_db()
    assert (session.state, session.end_reason) == (SessionState.ENDED, EndReason.SHUT_DOWN)
    assert states(pool) == ["spare"]


def test_its_machine_removed_the_person_is_told_and_gets_another(
    make_pool: MakePool, look: Look, alice: User, operator: User
) -> None:
    pool = look(make_pool(entitled=(alice,), spare=1, maximum=1))
    session = taken_by(broker.ask(pool, alice))
    assert session.machine is not None
    machines.delete_for_good(Machine.objects.get(pk=session.machine.pk), actor=operator)
    look(pool)
    session.refresh_from_db()
    assert session.end_reason == EndReason.MACHINE_DIED
    assert taken_by(broker.ask(pool, alice)).machine != session.machine


def test_a_host_that_is_silent_for_long_takes_nobodys_time(make_pool: MakePool, look: Look, alice: User) -> None:
    pool = look(make_pool(entitled=(alice,), spare=1, maximum=1))
    session = taken_by(broker.ask(pool, alice))
    Machine.objects.update(power_state=PowerState.UNKNOWN, power_state_at=timezone.now())
    filling.tend(pool.pk)
    session.refresh_from_db()
    assert session.is_live
    Machine.objects.update(power_state_at=timezone.now() - filling.SILENT_FOR)
    filling.tend(pool.pk)
    session.refresh_from_db()
    assert (session.state, session.end_reason) == (SessionState.ENDED, EndReason.MACHINE_DIED)


def test_an_assigned_one_that_was_shut_down_is_started_again(make_pool: MakePool, look: Look, alice: User) -> None:
    pool = look(make_pool(kind=PoolKind.ASSIGNED, entitled=(alice,), spare=0, minimum=1, maximum=1))
    session = taken_by(broker.ask(pool, alice))
    machine = session.machine
    assert machine is not None
    fake_of(machine.host).set_power(machine.pk, HostPowerState.SHUT_OFF)
    machines.record_power_state(machine.pk, PowerState.SHUT_OFF, at=timezone.now())
    look(pool)
    machine.refresh_from_db()
    assert machine.power_state == PowerState.RUNNING
    assert taken_by(broker.ask(pool, alice)).machine == machine


def test_an_operator_has_one_made_new(make_pool: MakePool, look: Look, alice: User, operator: User) -> None:
    pool = look(make_pool(entitled=(alice,), spare=1, maximum=1))
    session = taken_by(broker.ask(pool, alice))
    assert broker.recycle(session.desktop, actor=operator)
    assert not broker.recycle(session.desktop, actor=operator)
    session.refresh_from_db()
    assert session.end_reason == EndReason.OPERATOR
    look(pool)
    assert states(pool) == ["spare"] and Desktop.objects.get().machine != session.machine


# --- versions --------------------------------------------------------------------------------------------------------


def test_rolling_each_is_new_when_it_is_free(
    make_pool: MakePool, look: Look, alice: User, operator: User, newer: ImageVersion, image_version: ImageVersion
) -> None:
    pool = look(make_pool(entitled=(alice,), spare=3, maximum=6))
    session = taken_by(broker.ask(pool, alice))
    look(pool)
    services.recompose(pool, actor=operator, image_version=newer)
    filling.tend(pool.pk)
    assert Counter(states(pool))["spare"] >= 1, "not all at once"
    look(pool, rounds=12)
    versions = Counter(Desktop.objects.exclude(state="retired").values_list("state", "image_version__number"))
    assert versions == {("spare", 2): 3, ("taken", 1): 1}
    broker.sign_out(session, EndReason.SIGNED_OUT)
    look(pool)
    assert not Desktop.objects.exclude(state="retired").filter(image_version=image_version).exists()
    services.back_to_previous(pool, actor=operator)
    pool.refresh_from_db()
    assert (pool.image_version, pool.previous_version) == (image_version, newer)
    look(pool, rounds=12)
    assert not Desktop.objects.exclude(state="retired").filter(image_version=newer).exists()


def test_at_once_with_notice(make_pool: MakePool, look: Look, alice: User, operator: User, newer: ImageVersion) -> None:
    pool = look(make_pool(entitled=(alice,), spare=1, maximum=3))
    session = taken_by(broker.ask(pool, alice))
    services.recompose(pool, actor=operator, image_version=newer, how=Recompose.AT_ONCE, message="New office at five.")
    look(pool)
    session.refresh_from_db()
    assert session.is_live and Pool.objects.get().message == "New office at five."
    Pool.objects.update(recompose_at=timezone.now())
    look(pool, rounds=6)
    session.refresh_from_db()
    assert session.end_reason == EndReason.RECOMPOSED
    pool.refresh_from_db()
    assert (pool.recompose_at, pool.recompose) == (None, Recompose.ROLLING)
    assert taken_by(broker.ask(pool, alice)).desktop.image_version == newer


def test_at_a_time_nothing_changes_before(
    make_pool: MakePool, look: Look, alice: User, operator: User, newer: ImageVersion, image_version: ImageVersion
) -> None:
    pool = look(make_pool(entitled=(alice,), spare=1, maximum=3))
    session = taken_by(broker.ask(pool, alice))
    at = timezone.now() + dt.timedelta(hours=3)
    with pytest.raises(InvalidError):
        services.recompose(pool, actor=operator, image_version=newer, how=Recompose.AT_TIME)
    services.recompose(pool, actor=operator, image_version=newer, how=Recompose.AT_TIME, at=at)
    look(pool)
    pool.refresh_from_db()
    assert (pool.image_version, pool.next_version) == (image_version, newer)
    assert {desktop.image_version for desktop in Desktop.objects.all()} == {image_version}
    Pool.objects.update(recompose_at=timezone.now())
    look(pool, rounds=6)
    pool.refresh_from_db()
    session.refresh_from_db()
    assert (pool.image_version, pool.previous_version, pool.next_version) == (newer, image_version, None)
    assert session.end_reason == EndReason.RECOMPOSED
    assert {desktop.image_version for desktop in Desktop.objects.exclude(state="retired")} == {newer}


# --- the rest --------------------------------------------------------------------------------------------------------


def test_on_its_hosts_something_to_fork_from_is_wanted(make_pool: MakePool, look: Look, host: Host) -> None:
    pool = look(make_pool(spare=1))
    Pool.objects.update(forks_wanted_at=None)
    filling.tend(pool.pk)
    parent = Parent.objects.get()
    assert (parent.host, parent.image_version) == (host, pool.image_version)
    assert (parent.vcpus, parent.memory_mib, parent.disk_gib) == (1, 1024, 10)


def test_a_person_who_is_deleted_leaves_no_desktop_behind(make_pool: MakePool, look: Look, vera: User) -> None:
    pool = look(make_pool(entitled=(vera,), spare=1, maximum=1))
    machine = taken_by(broker.ask(pool, vera)).machine
    vera.delete()
    look(pool)
    assert states(pool) == ["spare"] and Desktop.objects.get().machine != machine


def test_the_version_of_a_pool_is_not_deleted(
    make_pool: MakePool, operator: User, newer: ImageVersion, image_version: ImageVersion
) -> None:
    pool = make_pool(spare=0)
    with pytest.raises(ConflictError):
        images.request_delete_version(image_version, actor=operator)
    services.recompose(pool, actor=operator, image_version=newer)
    images.request_delete_version(image_version, actor=operator)
    image_version.refresh_from_db()
    assert image_version.status == VersionStatus.DELETING
    with pytest.raises(ConflictError):
        images.request_delete_version(newer, actor=operator)


def test_an_empty_pool_can_be_deleted(make_pool: MakePool, look: Look, alice: User, operator: User) -> None:
    pool = look(make_pool(entitled=(alice,)))
    taken_by(broker.ask(pool, alice))
    with pytest.raises(ConflictError):
        services.delete_pool(pool, actor=operator)
    services.empty_pool(pool, actor=operator)
    look(pool)
    assert states(pool) == []
    services.delete_pool(pool, actor=operator)
    assert not Pool.objects.exists() and disagreements() == []


def test_a_look_at_a_large_pool_costs_no_more_than_at_a_small_one(
    make_pool: MakePool, look: Look, operator: User
) -> None:
    def look_costs() -> int:
        with CaptureQueriesContext(connection) as queries:
            filling.tend(pool.pk)
        return len(queries)

    pool = look(make_pool(spare=2, maximum=40))
    small = look_costs()
    services.change_pool(pool, actor=operator, spare=30)
    look(pool)
    assert states(pool) == ["spare"] * 30
    assert look_costs() == small


def test_a_large_pools_used_desktops_are_made_new_together(
    make_pool: MakePool, look: Look, operator: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twentieth of its free ones at a time, or what has waited for long."""
    pool = look(make_pool(entitled=(operator,), spare=40, maximum=50))
    broker.recycle(pool.desktops.filter(state="spare")[0])
    look(pool)
    assert Counter(states(pool)) == {"spare": 39, "recycling": 1}
    monkeypatch.setattr(filling, "GATHERED_FOR", dt.timedelta())
    look(pool)
    assert states(pool) == ["spare"] * 40
    monkeypatch.setattr(filling, "GATHERED_FOR", dt.timedelta(days=1))
    for desktop in pool.desktops.filter(state="spare")[:3]:
        broker.recycle(desktop)
    look(pool)
    assert states(pool) == ["spare"] * 40


def test_what_is_built_ahead_waits_until_those_who_came_see_their_desktops(
    make_pool: MakePool, look: Look, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = look(make_pool(entitled=(alice, bob), spare=2, maximum=6))
    monkeypatch.setattr(filling, "PEOPLE_COME_IN", dt.timedelta(hours=1))
    session = taken_by(broker.ask(pool, alice))
    look(pool)
    assert Counter(states(pool)) == {"spare": 1, "taken": 1}
    broker.shown(session)
    look(pool)
    assert Counter(states(pool)) == {"spare": 2, "taken": 1}


def test_where_people_come_all_the_time_others_desktops_are_built_all_the_time(
    make_pool: MakePool, look: Look, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = look(make_pool(entitled=(alice, bob), spare=2, maximum=6))
    monkeypatch.setattr(filling, "PEOPLE_COME_IN", dt.timedelta(hours=1))
    for person, ago in ((alice, 1.5), (bob, 0.1)):
        session = taken_by(broker.ask(pool, person))
        Session.objects.filter(pk=session.pk).update(started_at=timezone.now() - dt.timedelta(hours=ago))
    look(pool)
    assert Counter(states(pool)) == {"spare": 2, "taken": 2}


def test_who_waits_in_line_is_built_for_whoever_comes_in(
    make_pool: MakePool, look: Look, alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = look(make_pool(entitled=(alice, bob), spare=1, maximum=6))
    monkeypatch.setattr(filling, "PEOPLE_COME_IN", dt.timedelta(hours=1))
    taken_by(broker.ask(pool, alice))
    waiting(broker.ask(pool, bob))
    look(pool)
    assert Counter(states(pool))["taken"] == 2
