"""What a workflow is: named steps over one target, each of which may be run again after a crash at any line.

A step's `run` is idempotent; its `undo` takes back what `run` may have left, wholly or in part, and is idempotent too.
When a workflow fails for good or is cancelled, the undos of all steps that had started run in reverse order. They are
found by the step rows and not by what this process remembers, so a worker that took the job over undoes the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from django.utils import timezone

from portal.jobs import services as jobs
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName, StepName

T = TypeVar("T")


class Again(Exception):
    """The step waits for something outside: let the worker go and come back in `after_s` seconds."""

    def __init__(self, after_s: float) -> None:
        super().__init__(after_s)
        self.after_s = after_s


class CancelledError(Exception):
    """Somebody asked for the job to stop."""


class WorkFailedError(Exception):
    """The work cannot succeed; `message` is for people. `retryable`: it may, another time."""

    def __init__(self, message: str, *, code: str = "failed", retryable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable


LEAST_S_BETWEEN = 0.2


@dataclass(slots=True)
class Context(Generic[T]):
    """What a step gets: the job, its target, and ways to report. `step` is the running step's row."""

    job: Job
    target: T
    step: JobStep | None = None
    _last_progress: int = field(default=-1)
    _told_at: float = field(default=-math.inf)

    def progress(self, percent: int, detail: str = "") -> None:
        """Report, and stop here if somebody asked for it.

        Cheap to call often: a percent on the heels of another is not told, since whoever works waits for the telling.
        """
        if self.step is None or (percent == self._last_progress and not detail):
            return
        now = time.monotonic()
        if now < self._told_at + LEAST_S_BETWEEN and not detail:
            return
        self._last_progress, self._told_at = percent, now
        jobs.report_step(self.step, progress=max(0, min(percent, 100)), detail=detail)
        self.check_cancelled()

    def seconds_in_step(self) -> float:
        """Since the step began first, through every wait and every worker."""
        started = self.step.started_at if self.step else None
        return (timezone.now() - started).total_seconds() if started else 0.0

    def check_cancelled(self) -> None:
        if jobs.is_cancel_requested(self.job):
            raise CancelledError


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """`needed` is asked when its turn comes; what is not needed is passed over, and that is remembered."""

    name: StepName
    run: Callable[[Context[T]], None]
    undo: Callable[[Context[T]], None] | None = None
    needed: Callable[[T], bool] | None = None


def _nothing(_target: object) -> None:
    """The default of a workflow's hooks."""


def _nothing_failed(_target: object, _message: str) -> None:
    """The default of a workflow's failure hook."""


@dataclass(frozen=True, slots=True)
class Workflow(Generic[T]):
    """`load` fetches the target by its id (NotFoundError ends the job). The hooks record the outcome, idempotently.

    `cancellable` is false for work that must not stop half-way, such as deleting.
    """

    name: JobName
    load: Callable[[str], T]
    steps: tuple[Step[T], ...]
    on_done: Callable[[T], None] = _nothing
    on_failed: Callable[[T, str], None] = _nothing_failed
    on_cancelled: Callable[[T], None] = _nothing
    cancellable: bool = True
    max_retries: int = 4
