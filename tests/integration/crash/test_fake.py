"""Killed at any line, on hosts in memory: every step of every workflow, every statement and every call to the host.

A SIGKILL is an exception here that nothing of the product catches. What a transaction had not committed is rolled back
as the database does when its client is gone; `test_real.py` kills real processes.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from portal.hosts.models import Host
from portal.jobs.models import Job
from portal.jobs.names import JobName, JobStatus, StepName
from portal.jobs.services import request_cancel
from portal.machines.models import Machine
from tests.integration.crash.scenes import SCENES, Scene, Stage
from tests.integration.crash.steps import step_replaced
from tests.support.agreement import disagreements
from tests.workers.support import Killed, fake_of, work_on
from workers import reconcile, runner
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.fake import FakeHost
from workers.workflows import WORKFLOWS
from workers.workflows.base import Context

pytestmark = [pytest.mark.django_db, pytest.mark.timeout(900)]

LivesOf = Callable[[int], Iterator[int]]
PLAYED = [(name, scene) for name, scenes in SCENES.items() for scene in scenes]
IDS = [f"{name}{'-' if scene.name else ''}{scene.name}" for name, scene in PLAYED]
STEPS = [(name, scene, step.name) for name, scene in PLAYED for step in scene.steps_of(name)]
STEP_IDS = [f"{name}{'-' if scene.name else ''}{scene.name}-{step}" for name, scene, step in STEPS]


def test_every_workflow_has_a_scene() -> None:
    assert set(SCENES) == set(WORKFLOWS)


def go_on(stage: Stage, job: Job) -> Job:
    """What happens after a worker died: its lease runs out, another one comes, hosts are compared."""
    Job.objects.filter(lease_until__isnull=False).update(lease_until=timezone.now() - dt.timedelta(seconds=1))
    job.refresh_from_db()
    if not job.is_final:
        work_on(job)
    reconcile_all(stage)
    return job


def reconcile_all(stage: Stage) -> None:
    """The second host, too, if it plays a part: most scenes leave it as it came, empty."""
    fake = fake_of(stage.other)
    plays = fake.domains or fake.disks or fake.volumes or Machine.objects.filter(host=stage.other).exists()
    for host in (stage.host, stage.other) if plays else (stage.host,):
        reconcile.reconcile_host(host.pk)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("name", "scene", "step"), STEPS, ids=STEP_IDS)
def test_killed_around_a_step_the_work_is_done_all_the_same(
    stage: Stage, name: JobName, scene: Scene, step: StepName, after: bool
) -> None:
    job = scene.ask(stage)

    def killed(run: Callable[..., None]) -> Callable[[Context[Any]], None]:
        def dies(context: Context[Any]) -> None:
            if after:
                run(context)
            raise Killed

        return dies

    with step_replaced(name, step, killed), pytest.raises(Killed):
        work_on(job)
    job = go_on(stage, job)
    assert job.status == JobStatus.DONE, job.error_message
    assert scene.done(stage, job)
    assert disagreements() == []


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("name", "scene", "step"), STEPS, ids=STEP_IDS)
def test_a_step_that_fails_for_good_is_taken_back(
    stage: Stage, name: JobName, scene: Scene, step: StepName, after: bool
) -> None:
    job = scene.ask(stage)
    with step_replaced(name, step, lambda run: _fails(run, after)):
        work_on(job)
    reconcile_all(stage)
    assert (job.status, job.error_message) == (JobStatus.FAILED, "It cannot be done.")
    if WORKFLOWS[name].cancellable:
        assert scene.back(stage, job) or (after and scene.done(stage, job))
        assert new_disagreements(name) == []


# What was wrong before the job is wrong again after it was taken back, and nothing else may be.
WRONG_BEFORE = {
    JobName.MACHINE_REPAIR: "its domain is lost",
    JobName.MACHINE_ADOPT: "belongs to nobody there",
}


def new_disagreements(name: JobName) -> list[str]:
    return [text for text in disagreements() if not text.endswith(WRONG_BEFORE.get(name, "\n"))]


def _fails(run: Callable[..., None], after: bool) -> Callable[[Context[Any]], None]:
    def fails(context: Context[Any]) -> None:
        if after:
            run(context)
        raise HypervisorError("It cannot be done.")

    return fails


# --- at every statement and every call --------------------------------------------------------------------------------


# What only looks. To die before or after it is to die after what was changed last.
LOOKS = frozenset(
    [
        "addresses",
        "agent_ready",
        "card_addresses",
        "console",
        "console_log",
        "devices",
        "get",
        "has_image",
        "has_iso",
        "has_parent",
        "host_info",
        "host_usage",
        "list",
        "list_volumes",
        "parents",
        "power_state",
        "screenshot",
        "snapshots",
        "stats",
    ]
)


class Countdown:
    """Lives through so many moments and dies at the next.

    A moment is where a host, or what the database keeps, may have become another since the last one: around a call that
    changes a host, before a statement that is a transaction by itself, and in a longer one before its first statement
    that writes and before its commit. Wherever else in it a worker dies, all is as it was before that first one.
    """

    def __init__(self, lives: float) -> None:
        self.lives = lives
        self.moments = 0

    def moment(self) -> None:
        self.moments += 1
        if self.moments > self.lives:
            raise Killed

    @contextmanager
    def running(self) -> Iterator[None]:
        original = FakeHost.operation

        @contextmanager
        def operation(host: FakeHost, name: str) -> Iterator[None]:
            if name in LOOKS:
                with original(host, name):
                    yield
                return
            self.moment()
            with original(host, name):
                yield
            self.moment()

        with pytest.MonkeyPatch.context() as patch, connection.execute_wrapper(_Transactions(self)):
            patch.setattr(FakeHost, "operation", operation)
            yield


class _Transactions:
    """The product's own, which are savepoints here: the tests' transaction is around them."""

    def __init__(self, countdown: Countdown) -> None:
        self._countdown = countdown
        self._depth = 0
        self._has_written = False

    def __call__(self, run: Callable[..., Any], sql: str, *args: Any) -> Any:
        if sql.startswith("SAVEPOINT"):
            self._depth += 1
        elif sql.startswith("ROLLBACK TO"):
            self._has_written = self._has_written and self._depth > 1
        elif sql.startswith("RELEASE"):
            self._depth -= 1
            if not self._depth and self._has_written:
                self._has_written = False
                self._before_commit(run, sql, *args)
        elif not sql.startswith("SELECT") and not self._has_written:
            self._has_written = self._depth > 0
            self._countdown.moment()
        return run(sql, *args)

    def _before_commit(self, run: Callable[..., Any], sql: str, *args: Any) -> None:
        try:
            self._countdown.moment()
        except Killed:
            run(sql.replace("RELEASE", "ROLLBACK TO"), *args)
            raise


def play_and_die(job: Job, lives: float) -> bool:
    """True if the worker died, false if it came to the job's end first."""
    countdown = Countdown(lives)
    with contextlib.suppress(Killed), countdown.running():
        work_on(job)
        return False
    return True


@pytest.mark.parametrize(("name", "scene"), PLAYED, ids=IDS)
def test_killed_at_any_line_the_work_is_done_all_the_same(
    stage: Stage, name: JobName, scene: Scene, lives_of: LivesOf
) -> None:
    for lives in lives_of(scene.stride):
        job = scene.ask(stage)
        died = play_and_die(job, lives)
        job = go_on(stage, job)
        at = f"killed at moment {lives} of {name}"
        assert job.status == JobStatus.DONE, f"{at}: {job.error_message}"
        assert scene.done(stage, job), at
        assert disagreements() == [], at
        if not died:
            break
        if not scene.again:
            stage.clear()
    assert lives >= 6, "the matrix was cut short"


FALLIBLE = [(name, scene) for name, scene in PLAYED if WORKFLOWS[name].cancellable]
FALLIBLE_IDS = [f"{name}{'-' if scene.name else ''}{scene.name}" for name, scene in FALLIBLE]


@pytest.mark.parametrize(("name", "scene"), FALLIBLE, ids=FALLIBLE_IDS)
def test_killed_at_any_line_of_taking_back_nothing_is_left(
    stage: Stage, name: JobName, scene: Scene, lives_of: LivesOf
) -> None:
    """The last step fails for good, and the worker dies at any line, before, while or after it takes the work back."""
    last = WORKFLOWS[name].steps[-1].name
    for lives in lives_of(scene.stride):
        job = scene.ask(stage)
        with step_replaced(name, last, lambda run: _fails(run, after=False)):
            died = play_and_die(job, lives)
            job = go_on(stage, job)
        at = f"killed at moment {lives} of {name}"
        assert (job.status, job.error_message) == (JobStatus.FAILED, "It cannot be done."), at
        assert scene.back(stage, job), at
        assert new_disagreements(name) == [], at
        if not died:
            break
        if not scene.again:
            stage.clear()
    assert lives >= 6, "the matrix was cut short"


CANCELLED = {
    JobName.MACHINE_CREATE,
    JobName.IMAGE_BUILD,
    JobName.IMAGE_IMPORT,
    JobName.IMAGE_FETCH,
    JobName.PARENT_BUILD,
}


CANCELLED_SCENES = [
    pytest.param(scene, id=id_) for id_, (name, scene) in zip(IDS, PLAYED, strict=True) if name in CANCELLED
]


@pytest.mark.parametrize("scene", CANCELLED_SCENES)
def test_cancelled_at_any_line_and_killed_at_the_next_nothing_is_left(
    stage: Stage, scene: Scene, lives_of: LivesOf
) -> None:
    for lives in lives_of(3):
        job = scene.ask(stage)
        died = play_and_die(job, lives)
        request_cancel(job)
        job = go_on(stage, job)
        at = f"cancelled at moment {lives}"
        assert job.status in {JobStatus.CANCELLED, JobStatus.DONE}, at
        assert (scene.back if job.status == JobStatus.CANCELLED else scene.done)(stage, job), at
        assert disagreements() == [], at
        if not died:
            break
        if not scene.again:
            stage.clear()


def test_two_workers_that_are_given_the_same_job_do_it_once(stage: Stage) -> None:
    """The second comes at any line of the first."""
    for lives in itertools.count(step=5):
        job = SCENES[JobName.MACHINE_CREATE][0].ask(stage)
        second = Countdown(lives)

        def come(run: Callable[..., Any], *args: Any, pk: Any = job.pk, countdown: Countdown = second) -> Any:
            countdown.moments += 1
            if countdown.moments == countdown.lives:
                runner.run(pk)
            return run(*args)

        with connection.execute_wrapper(come):
            work_on(job)
        starts = {domain.starts for domain in _domains(stage.host).values()}
        assert starts == {1}
        assert disagreements() == []
        if second.moments < lives:
            break


def _domains(host: Host) -> dict[Any, Any]:
    return fake_of(host).domains
