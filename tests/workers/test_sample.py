"""Reading the figures of a host in memory, with a real Redis: from counters to what a page would show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NoReturn
from uuid import uuid4

import pytest
import time_machine
from django.utils import timezone

from portal.accounts.models import User
from portal.figures import live, services
from portal.figures.memory import Memory, memory_of
from portal.figures.models import Series
from portal.figures.points import Level, Point
from portal.figures.selectors import busiest_machines, host_figures, latest_of, machine_figures
from portal.hosts.models import Host
from portal.lib import pulse
from portal.lib.store import store
from portal.machines import services as machine_services
from portal.machines.models import Machine
from portal.machines.states import Status
from tests.support.redis import redis_db, redis_url
from tests.workers.support import Killed
from workers import sample, tasks
from workers.celery import app
from workers.hypervisor.errors import HostUnreachableError
from workers.hypervisor.fake import FakeDriver, FakeHost
from workers.hypervisor.fake_stats import Work
from workers.workflows.common import spec_of

__all__ = ["redis_db", "redis_url"]

Built = Callable[[], Machine]
MIB = 1024**2
START_S = 1_900_000_800  # A multiple of all the short steps: where slots begin does not depend on when the test runs.


@pytest.fixture
def clock(redis_db: str, fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(fake, monkeypatch)


class Clock:
    """Time that passes when a test says so, for Redis and for the host."""

    def __init__(self, fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake, self.now_s = fake, float(START_S)
        fake.meters.now_s = 1000.0
        monkeypatch.setattr(live, "now_s", lambda _client: self.now_s)

    def wait(self, seconds: float) -> None:
        assert self.fake.meters.now_s is not None
        self.fake.meters.now_s += seconds
        self.now_s += seconds


def sampled(machine: Machine, clock: Clock, *, rounds: int = 2, every_s: float = 10) -> None:
    sample.sample_host(machine.host_id)
    for _ in range(rounds - 1):
        clock.wait(every_s)
        sample.sample_host(machine.host_id)


def cpu(machine: Machine, level: Level = Level.LIVE) -> list[float | None]:
    return [None if value is None else round(value, 2) for value in machine_figures(machine, level).column("cpu")]


def test_what_a_machine_uses_is_seen_after_two_readings(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    fake.meters.work[machine.pk] = Work(cpu=0.5, memory=0.25, disk_read=2 * MIB, net_sent=MIB)
    sample.sample_host(machine.host_id)
    first = machine_figures(machine, Level.LIVE)
    assert (first.now.cpu, first.now.memory_used) == (None, 256 * MIB)
    clock.wait(10)
    sample.sample_host(machine.host_id)
    found = machine_figures(machine, Level.LIVE)
    assert found.points[-1] == found.now
    assert (found.now.cpu, found.now.disk_read, found.now.net_sent) == (0.5, 2 * MIB, MIB)
    assert (found.now.memory_used, found.now.memory_taken) == (256 * MIB, 1024 * MIB)
    assert (found.step_s, len(found.points)) == (10, 60)
    assert found.start_s + 60 * 10 > clock.now_s >= found.start_s + 59 * 10


def test_memory_is_told_of_those_that_run_and_of_nobody_else(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine, other = built(), built()
    asked = [(one.host_id, one.pk) for one in (machine, other)]
    sample.sample_host(machine.host_id)
    assert memory_of(asked) == dict.fromkeys((machine.pk, other.pk), Memory(own=1024 * MIB, shared=0))
    FakeDriver(fake).force_off(other.pk)
    clock.wait(10)
    sample.sample_host(machine.host_id)
    assert list(memory_of(asked)) == [machine.pk]


def test_a_host_is_the_sum_of_its_machines_and_tells_its_own_processors(
    built: Built, fake: FakeHost, clock: Clock
) -> None:
    for machine in (first := built(), built()):
        fake.meters.work[machine.pk] = Work(cpu=1.0, disk_written=3 * MIB)
    sampled(first, clock)
    now = host_figures(first.host, Level.LIVE).now
    assert now.cpu == pytest.approx(2 / fake.cpus, rel=0.001)
    assert (now.disk_written, now.memory_taken) == (6 * MIB, 2048 * MIB)


def test_one_bulk_call_a_round_however_many_machines(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine, _other = built(), built()
    calls = dict(fake.calls)
    sampled(machine, clock, rounds=3)
    assert {name: count - calls.get(name, 0) for name, count in fake.calls.items() if count != calls.get(name)} == {
        "stats": 3
    }


def test_a_restart_is_a_gap_in_the_rates_and_nothing_else(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    fake.meters.work[machine.pk] = Work(cpu=0.5)
    sampled(machine, clock, rounds=3)
    driver = FakeDriver(fake)
    driver.force_off(machine.pk)
    driver.start(machine.pk)
    clock.wait(10)
    sampled(machine, clock, rounds=3)
    assert cpu(machine)[-6:] == [None, 0.5, 0.5, None, 0.5, 0.5]


def test_a_late_reading_stands_for_all_the_time_it_tells_of(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    fake.meters.work[machine.pk] = Work(cpu=0.5)
    sampled(machine, clock)
    clock.wait(30)
    sample.sample_host(machine.host_id)
    assert cpu(machine)[-5:] == [None, 0.5, 0.5, 0.5, 0.5]


def test_readings_that_come_a_little_early_or_late_leave_no_gaps(built: Built, fake: FakeHost, clock: Clock) -> None:
    """At 0 s, 9.95, 20.05, 29.95 …: now and then two fall into one slot, and none into the next."""
    machine = built()
    fake.meters.work[machine.pk] = Work(cpu=0.5)
    sample.sample_host(machine.host_id)
    for place in range(1, 20):
        clock.wait(9.95 if place == 1 else 10.1 if place % 2 == 0 else 9.9)
        sample.sample_host(machine.host_id)
    # Of the first slot no rate is known, and the last one's reading was the second in it.
    assert cpu(machine)[-18:-1] == [0.5] * 17


def test_after_a_long_silence_there_is_a_gap(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    fake.meters.work[machine.pk] = Work(cpu=0.5)
    sampled(machine, clock)
    clock.wait(100)
    sampled(machine, clock)
    assert cpu(machine)[-12:] == [0.5, *[None] * 10, 0.5]


def test_two_readings_within_one_slot_lose_nothing(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    sampled(machine, clock)
    fake.meters.work[machine.pk] = Work(cpu=1.0)
    clock.wait(4)
    sample.sample_host(machine.host_id)
    fake.meters.work[machine.pk] = Work(cpu=0.0)
    clock.wait(6)
    sample.sample_host(machine.host_id)
    assert cpu(machine)[-1] == 0.4


@pytest.mark.parametrize("step_s", [-3600, -45, 3600])
def test_a_clock_that_is_set_changes_no_rate(built: Built, fake: FakeHost, clock: Clock, step_s: int) -> None:
    machine = built()
    fake.meters.work[machine.pk] = Work(cpu=0.5)
    sampled(machine, clock, rounds=5)
    clock.now_s += step_s
    sampled(machine, clock, rounds=5, every_s=10)
    clock.wait(0)
    assert cpu(machine)[-4:] == [0.5] * 4
    assert set(cpu(machine)) <= {0.5, None}
    for level in Level:
        assert set(cpu(machine, level)) <= {0.5, None}


def test_a_host_that_was_started_anew_and_reads_another_clock(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    sampled(machine, clock)
    fake.meters.clock, fake.meters.now_s, fake.meters.cpu_ns = "another", 5.0, 0.0
    fake.meters._counters.clear()
    clock.now_s += 20
    sampled(machine, clock)
    found = host_figures(machine.host, Level.LIVE).column("cpu")
    assert all(value is None or 0 <= value <= 1 for value in found)
    assert found[-1] is not None


def test_a_machine_that_is_off_has_gaps_and_no_figures_of_now(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    sampled(machine, clock)
    FakeDriver(fake).force_off(machine.pk)
    for _ in range(6):
        clock.wait(10)
        sample.sample_host(machine.host_id)
    assert cpu(machine)[-6:] == [None] * 6
    assert machine_figures(machine, Level.LIVE).now == Point()
    assert machine_figures(machine, Level.LIVE).points[-7].cpu is not None
    assert latest_of([machine]) == {}


def test_hours_are_put_by_and_outlive_redis(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    fake.meters.work[machine.pk] = Work(cpu=0.5)
    sampled(machine, clock, rounds=360 + 12)
    assert cpu(machine, Level.HOUR) == [0.5] * 60
    assert cpu(machine, Level.DAY)[-13:] == [0.5] * 13
    assert cpu(machine, Level.MONTH)[-1] == 0.5
    store().flushall()
    lost = cpu(machine, Level.HOUR).count(None)
    assert lost <= services.PUT_BY_EVERY_S // 60 + 1
    assert {row.level for row in Series.objects.filter(subject=machine.pk)} >= {"hour", "day"}
    sampled(machine, clock, rounds=40)
    assert cpu(machine, Level.HOUR)[-3:] == [0.5] * 3


def test_what_is_put_by_stays_the_same_size(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    sampled(machine, clock, rounds=300, every_s=20)
    sizes = {row.level: len(row.data) for row in Series.objects.filter(subject=machine.pk)}
    assert sizes["hour"] == 60 * 14
    assert sizes["day"] <= 288 * 14
    assert int(str(store().hstrlen(f"casement:figures:{machine.host_id}", machine.pk.bytes))) <= 80 + 60 * 14


class TestKilled:
    """A worker may die between any two statements; the next one goes on."""

    @pytest.mark.parametrize("step", ["hset", "bulk_create", "set_put_by", "forget"])
    def test_the_next_worker_goes_on(
        self, built: Built, fake: FakeHost, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        machine, other = built(), built()
        fake.meters.work[machine.pk] = Work(cpu=0.5)
        sampled(machine, clock, rounds=40)

        def die(*_args: object, **_values: object) -> NoReturn:
            raise Killed

        with monkeypatch.context() as patch:
            if step == "hset":
                patch.setattr(live, "_record_host", die)
            elif step == "bulk_create":
                patch.setattr(type(Series.objects), "bulk_create", die)
            else:
                patch.setattr(live, step, die)
            with pytest.raises(Killed):
                for _ in range(40):
                    clock.wait(10)
                    sample.sample_host(machine.host_id)
        # Its turn ends by itself; here, nobody waits for that.
        store().delete(f"casement:figures:{machine.host_id}:turn")
        clock.wait(10)
        sampled(machine, clock, rounds=40)
        assert set(cpu(machine, Level.HOUR)) <= {0.5, None}
        assert cpu(machine, Level.HOUR)[-12:] == [0.5] * 12
        assert cpu(other)[-1] is not None

    def test_its_turn_is_over_soon(self, built: Built, redis_db: str) -> None:
        machine = built()
        with pytest.raises(Killed), live.Turn(machine.host_id):
            raise Killed
        with live.Turn(machine.host_id) as turn:
            assert turn is not None
            remaining = store().pttl(f"casement:figures:{machine.host_id}:turn")
        assert 0 < int(str(remaining)) <= live.TURN_S * 1000


def test_one_process_reads_a_host_at_a_time(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    with live.Turn(machine.host_id) as turn:
        assert turn is not None
        for _ in range(3):
            sample.sample_host(machine.host_id)
    assert fake.calls["stats"] == 0
    sample.sample_host(machine.host_id)
    assert fake.calls["stats"] == 1


def test_a_host_that_does_not_answer_is_left_in_peace_and_stops_no_other(
    built: Built, fake: FakeHost, clock: Clock
) -> None:
    machine = built()
    fake.fail_next("stats", HostUnreachableError("The host did not answer within 8 seconds."))
    for _ in range(3):
        sample.sample_host(machine.host_id)
    assert fake.calls["stats"] == 1
    assert 20_000 < int(str(store().pttl(f"casement:figures:{machine.host_id}:turn"))) <= live.REST_S * 1000
    other = Host.objects.create(name="other", uri=f"fake://{uuid4().hex}", pool_dir="/nowhere")
    sample.sample_host(other.pk)
    assert host_figures(other, Level.LIVE).now.memory_used is not None


def test_without_redis_nothing_is_read_and_pages_show_what_was_put_by(
    built: Built, fake: FakeHost, clock: Clock, settings: object
) -> None:
    machine = built()
    sampled(machine, clock, rounds=100)
    settings.REDIS_URL = "unix:///nowhere/redis.sock"  # type: ignore[attr-defined]  # pytest-django's settings.
    sample.sample_host(machine.host_id)
    with time_machine.travel(clock.now_s, tick=False):
        assert machine_figures(machine, Level.HOUR).points[-8].cpu is not None
    assert machine_figures(machine, Level.LIVE).is_empty
    assert latest_of([machine]) == {}
    assert busiest_machines() == []


def test_strangers_on_a_host_are_not_put_by(built: Built, fake: FakeHost, clock: Clock) -> None:
    machine = built()
    foreign = dataclasses.replace(spec_of(machine, secret="12345678"), uuid=uuid4(), name="foreign")
    fake.add_foreign_domain(foreign)
    FakeDriver(fake).adopt(foreign.uuid)
    FakeDriver(fake).start(foreign.uuid)
    sampled(machine, clock, rounds=100)
    assert set(Series.objects.values_list("subject", flat=True)) == {machine.pk, machine.host_id}


def test_old_figures_of_deleted_machines_go_away(built: Built, fake: FakeHost, clock: Clock) -> None:
    gone, kept = built(), built()
    sampled(gone, clock, rounds=100)
    machine_services.record_deleted(gone)
    assert services.forget() == Series.objects.filter(subject=kept.pk).count()
    assert set(Series.objects.values_list("subject", flat=True)) == {kept.pk, kept.host_id}
    FakeDriver(fake).undefine(gone.pk)
    clock.wait(700)
    sampled(kept, clock, rounds=100)
    assert gone.pk not in live.subjects_on(kept.host_id)
    assert kept.pk in live.subjects_on(kept.host_id)


def test_the_busiest_come_first_and_only_for_those_who_see_them(
    built: Built, fake: FakeHost, clock: Clock, operator: User, charlie: User
) -> None:
    idle, busy, off = built(), built(), built()
    fake.meters.work = {idle.pk: Work(cpu=0.25), busy.pk: Work(cpu=0.75), off.pk: Work(cpu=1.0)}
    FakeDriver(fake).force_off(off.pk)
    sampled(idle, clock)
    found = busiest_machines(user=operator)
    assert [(one.machine, round(one.cores, 2), round(one.share, 2)) for one in found] == [
        (busy, 0.75, 0.75),
        (idle, 0.25, 0.25),
    ]
    assert busiest_machines(user=charlie) == []
    assert [one.machine for one in busiest_machines(1)] == [busy]
    clock.wait(120)
    assert busiest_machines() == []


def test_the_newest_of_many_machines_come_in_one_round(built: Built, fake: FakeHost, clock: Clock) -> None:
    machines = [built(), built()]
    fake.meters.work[machines[0].pk] = Work(cpu=0.5)
    sampled(machines[0], clock, rounds=4)
    found = latest_of(machines)
    assert found[machines[0].pk].spark[-4:] == [None, 0.5, 0.5, 0.5]
    assert found[machines[1].pk].now.cpu == pytest.approx(0.01, rel=0.01)


def test_a_machine_that_is_being_made_or_unknown_has_none(built: Built, clock: Clock) -> None:
    machine = built()
    assert machine_figures(machine, Level.MONTH).is_empty
    Machine.objects.filter(pk=machine.pk).update(status=Status.ERROR, power_state_at=timezone.now())
    sample.sample_host(uuid4())


def test_nothing_piles_up_where_no_worker_takes_it(host: Host, redis_db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message has an end of its own as well, for a worker that is busy for long."""
    sent = list[tuple[str, str, float]]()

    def send(name: str, *, args: list[str], queue: str, expires: float) -> None:
        sent.append((args[0], queue, expires))

    monkeypatch.setattr(app, "send_task", send)
    Host.objects.create(name="unattended", uri="fake://unattended", pool_dir="/nowhere")
    tasks.sample_hosts()
    assert sent == []
    pulse.beat(pulse.worker_beat("one@here", ["default", host.queue]))
    tasks.sample_hosts()
    assert sent == [(str(host.pk), host.queue, 10)]


def test_the_clock_reads_often_and_every_message_ends_before_the_next() -> None:
    plan = app.conf.beat_schedule["figures.sample"]
    assert plan["schedule"].run_every.total_seconds() == live.STEP_S == plan["options"]["expires"]
