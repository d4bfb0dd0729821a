"""When a schedule's next snapshot is due."""

import datetime as dt

import pytest

from portal.accounts.models import User
from portal.audit.models import Event
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from portal.machines.models import Machine
from portal.snapshots import schedules
from portal.snapshots.models import Snapshot, SnapshotSchedule
from portal.snapshots.schedules import next_after
from portal.snapshots.states import Every
from tests.portal.test_every_url import snapshot_of

# A Thursday.
NOW = dt.datetime(2026, 11, 26, 8, 30, 15, tzinfo=dt.UTC)


def at(day: int, hour: int, minute: int) -> dt.datetime:
    return dt.datetime(2026, 11, day, hour, minute, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("every", "minute", "hour", "weekday", "expected"),
    [
        (Every.HOUR, 45, 3, 0, at(26, 8, 45)),
        (Every.HOUR, 30, 3, 0, at(26, 9, 30)),
        (Every.DAY, 0, 9, 0, at(26, 9, 0)),
        (Every.DAY, 0, 3, 0, at(27, 3, 0)),
        (Every.DAY, 30, 8, 0, at(27, 8, 30)),
        (Every.WEEK, 0, 9, 3, at(26, 9, 0)),
        (Every.WEEK, 0, 8, 3, dt.datetime(2026, 12, 3, 8, 0, tzinfo=dt.UTC)),
        (Every.WEEK, 0, 3, 6, at(29, 3, 0)),
        (Every.WEEK, 0, 3, 0, at(30, 3, 0)),
    ],
)
def test_the_next_one_is_the_first_after_now(
    every: Every, minute: int, hour: int, weekday: int, expected: dt.datetime
) -> None:
    assert next_after(NOW, every, minute=minute, hour=hour, weekday=weekday) == expected


def test_a_moment_in_another_zone_is_the_same_moment() -> None:
    elsewhere = NOW.astimezone(dt.timezone(dt.timedelta(hours=9)))
    assert next_after(elsewhere, Every.DAY, minute=0, hour=9, weekday=0) == at(26, 9, 0)


def test_a_machine_has_one_of_each_kind_and_the_same_again_is_no_change(machine: Machine, alice: User) -> None:
    for keep in (7, 7, 3):
        schedules.set_schedule(machine, actor=alice, every=Every.DAY, keep=keep)
    schedules.set_schedule(machine, actor=alice, every=Every.WEEK, keep=4, weekday=6)
    assert list(SnapshotSchedule.objects.order_by("every").values_list("every", "keep")) == [("day", 3), ("week", 4)]
    assert Event.objects.filter(action="snapshot.scheduled").count() == 3


@pytest.mark.parametrize("wrong", [{"keep": 0}, {"keep": 51}, {"minute": 60}, {"hour": 24}, {"weekday": 7}])
def test_a_time_that_there_is_not_is_refused_at_its_field(machine: Machine, alice: User, wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidError) as refused:
        schedules.set_schedule(machine, actor=alice, every=Every.WEEK, **{"keep": 7, **wrong})  # type: ignore[arg-type]  # which of them it is does not show
    assert refused.value.field == next(iter(wrong))
    assert not SnapshotSchedule.objects.exists()


def test_who_may_only_look_sets_nothing(machine: Machine, vera: User, alice: User) -> None:
    with pytest.raises(ForbiddenError):
        schedules.set_schedule(machine, actor=vera, every=Every.DAY, keep=7)
    schedules.set_schedule(machine, actor=alice, every=Every.DAY, keep=7)
    with pytest.raises(ForbiddenError):
        schedules.remove_schedule(machine, actor=vera, every="day")
    Machine.objects.update(keeps_definition=True)
    machine.refresh_from_db()
    with pytest.raises(ConflictError):
        schedules.set_schedule(machine, actor=alice, every=Every.HOUR, keep=7)


def test_what_a_schedule_took_stays_when_it_is_removed(machine: Machine, alice: User) -> None:
    schedule = schedules.set_schedule(machine, actor=alice, every=Every.DAY, keep=1)
    snapshot = snapshot_of(machine, alice)
    Snapshot.objects.update(schedule=schedule)
    with pytest.raises(NotFoundError):
        schedules.remove_schedule(machine, actor=alice, every="week")
    schedules.remove_schedule(machine, actor=alice, every="day")
    snapshot.refresh_from_db()
    assert (snapshot.schedule, snapshot.status) == (None, "ready")
