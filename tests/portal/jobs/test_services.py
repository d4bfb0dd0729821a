"""A job is a row: whoever holds its lease works on it, and a lost message or worker loses nothing."""

import datetime as dt

import pytest
from django.utils import timezone

from portal.accounts.models import User
from portal.jobs import services
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus, StepName, StepStatus
from portal.jobs.selectors import others_at_work, usual_seconds
from portal.lib import bus
from portal.machines.models import Machine


@pytest.fixture
def job(machine: Machine, alice: User) -> Job:
    return services.enqueue(JobName.MACHINE_STOP, machine, queue="host.local", actor=alice)


def test_a_job_starts_with_all_its_steps_to_come(job: Job) -> None:
    assert [(step.name, step.status) for step in job.steps.all()] == [
        (StepName.ASK_SHUT_DOWN, StepStatus.PENDING),
        (StepName.WAIT_OFF, StepStatus.PENDING),
    ]


def test_only_one_worker_gets_the_lease(job: Job) -> None:
    first = services.take_lease(job.pk, owner="one")
    assert first is not None
    assert first.status == JobStatus.RUNNING
    assert services.take_lease(job.pk, owner="two") is None


def test_when_a_worker_dies_its_lease_runs_out_and_another_takes_over(job: Job) -> None:
    first = services.take_lease(job.pk, owner="one")
    assert first is not None
    Job.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    second = services.take_lease(job.pk, owner="two")
    assert second is not None
    assert second.attempts == 2
    with pytest.raises(services.LeaseLostError):
        services.renew_lease(first)
    with pytest.raises(services.LeaseLostError):
        services.finish(first, JobStatus.DONE)
    services.finish(second, JobStatus.DONE)
    job.refresh_from_db()
    assert job.status == JobStatus.DONE
    assert job.finished_at is not None


def test_a_finished_job_is_taken_by_nobody(job: Job) -> None:
    held = services.take_lease(job.pk, owner="one")
    assert held is not None
    services.finish(held, JobStatus.FAILED)
    assert services.take_lease(job.pk, owner="two") is None
    assert not services.request_cancel(job)


def test_a_waiting_job_is_taken_again(job: Job) -> None:
    held = services.take_lease(job.pk, owner="one")
    assert held is not None
    services.put_back(held, after_s=1)
    job.refresh_from_db()
    assert job.status == JobStatus.WAITING
    assert services.take_lease(job.pk, owner="two") is not None


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        ({"status": JobStatus.QUEUED, "created_at": -10}, 0),
        ({"status": JobStatus.QUEUED, "created_at": -60}, 1),
        ({"status": JobStatus.WAITING, "due_at": 40}, 0),
        ({"status": JobStatus.WAITING, "due_at": -10}, 1),
        ({"status": JobStatus.RUNNING, "lease_until": 40}, 0),
        ({"status": JobStatus.RUNNING, "lease_until": -1}, 1),
        ({"status": JobStatus.DONE, "lease_until": -1}, 0),
    ],
)
def test_the_clock_sends_again_what_nobody_works_on(
    job: Job,
    change: dict[str, object],
    sent: int,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: object,
) -> None:
    woken: list[object] = []
    monkeypatch.setattr(bus, "wake", lambda name, pk, **_: woken.append(pk))
    now = timezone.now()
    values = {
        key: now + dt.timedelta(seconds=value) if isinstance(value, int) else value for key, value in change.items()
    }
    Job.objects.update(**values)
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]  # pytest-django gives a context manager
        assert services.send_again() == sent
    assert woken == [job.pk] * sent


def test_a_step_keeps_its_first_start_when_it_is_run_again(job: Job) -> None:
    held = services.take_lease(job.pk, owner="one")
    assert held is not None
    first = services.start_step(held, StepName.ASK_SHUT_DOWN)
    again = services.start_step(held, StepName.ASK_SHUT_DOWN)
    assert first.started_at == again.started_at
    services.end_step(again, StepStatus.DONE)
    again.refresh_from_db()
    assert (again.status, again.progress) == (StepStatus.DONE, 100)
    assert usual_seconds(JobName.MACHINE_STOP, StepName.ASK_SHUT_DOWN) is not None
    assert usual_seconds(JobName.MACHINE_STOP, StepName.WAIT_OFF) is None


def test_a_later_job_knows_that_an_earlier_one_is_at_work(job: Job, machine: Machine, alice: User) -> None:
    later = services.enqueue(JobName.MACHINE_DELETE, machine, queue="host.local", actor=alice)
    assert others_at_work(later)
    assert not others_at_work(job)
    Job.objects.filter(pk=job.pk).update(status=JobStatus.CANCELLED)
    assert not others_at_work(later)


def test_a_broker_that_is_away_loses_no_job(
    machine: Machine, alice: User, settings: object, django_capture_on_commit_callbacks: object
) -> None:
    settings.BUS_IN_TESTS = True  # type: ignore[attr-defined]
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]  # pytest-django gives a context manager
        job = services.enqueue(JobName.MACHINE_STOP, machine, queue="host.local", actor=alice)
    assert Job.objects.get(pk=job.pk).status == JobStatus.QUEUED


def test_a_worker_that_dies_is_counted_until_a_step_is_done(job: Job) -> None:
    for owner in ("one", "two", "three"):
        assert services.take_lease(job.pk, owner=owner) is not None
        Job.objects.update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    job.refresh_from_db()
    assert job.crashes == 2
    held = services.take_lease(job.pk, owner="four")
    assert held is not None
    services.end_step(services.start_step(held, StepName.ASK_SHUT_DOWN), StepStatus.DONE)
    job.refresh_from_db()
    assert job.crashes == 0


def test_coming_back_after_a_wait_is_no_crash(job: Job) -> None:
    held = services.take_lease(job.pk, owner="one")
    assert held is not None
    services.put_back(held, after_s=0)
    again = services.take_lease(job.pk, owner="two")
    assert again is not None
    assert again.crashes == 0


def test_what_was_decided_first_stays(job: Job) -> None:
    held = services.take_lease(job.pk, owner="one")
    assert held is not None
    services.decide(held, JobStatus.FAILED, code="first", message="The first reason.")
    services.decide(held, JobStatus.CANCELLED, code="second", message="The second.")
    job.refresh_from_db()
    assert (job.outcome, job.error_code, job.error_message) == (JobStatus.FAILED, "first", "The first reason.")
    assert job.is_taken_back


def test_who_lost_the_job_decides_nothing(job: Job) -> None:
    held = services.take_lease(job.pk, owner="one")
    assert held is not None
    Job.objects.update(lease_owner="two")
    with pytest.raises(services.LeaseLostError):
        services.decide(held, JobStatus.FAILED, code="x", message="no")


def test_after_the_clock_was_set_back_no_lease_and_no_wait_lasts_for_hours(job: Job) -> None:
    """The rows were written an hour ahead of now."""
    ahead = timezone.now() + dt.timedelta(hours=1)
    Job.objects.update(status=JobStatus.RUNNING, lease_owner="dead", lease_until=ahead)
    services.send_again()
    job.refresh_from_db()
    assert job.lease_until is not None
    assert job.lease_until <= timezone.now() + services.LEASE
    Job.objects.update(status=JobStatus.WAITING, lease_owner="", lease_until=None, due_at=ahead)
    services.send_again()
    job.refresh_from_db()
    assert job.due_at is not None
    assert job.due_at <= timezone.now()
    Job.objects.update(status=JobStatus.QUEUED, created_at=ahead)
    assert services.send_again() == 1
    Job.objects.update(started_at=ahead)
    job.refresh_from_db()
    assert services.seconds_left(job) <= 3600


def test_of_a_restored_database_nothing_that_was_decided_is_taken_back(machine: Machine, alice: User) -> None:
    """What was being taken back then may stand again by now, made by a later try of the same."""
    job = services.enqueue(JobName.MACHINE_CREATE, machine, queue="host.local", actor=alice)
    held = services.take_lease(job.pk, owner="lost")
    assert held is not None
    services.request_cancel(held)
    services.decide(held, JobStatus.CANCELLED, code="cancelled", message="Stopped on request.")
    Job.objects.filter(pk=job.pk).update(started_at=timezone.now() - dt.timedelta(days=7), crashes=8)
    assert services.put_back_all() == 1
    again = services.take_lease(job.pk, owner="next")
    assert again is not None
    assert (again.outcome, again.error_message, again.cancel_requested, again.crashes) == ("", "", False, 0)
    assert services.seconds_left(again) > 0
