"""What happened to a machine: its jobs, and what people did beside them, in one list."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

from django.utils.functional import Promise

from portal.audit.models import Event
from portal.audit.selectors import events_of
from portal.audit.words import words_for
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobName
from portal.jobs.selectors import jobs_of, steps_shown
from portal.machines.models import Machine

# The job tells of these already, with more than their audit rows know.
_TOLD_BY_JOBS = frozenset({*JobName.values, "machine.requested", "machine.retried"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: a job with its steps, or what somebody did."""

    at: dt.datetime
    title: str | Promise
    who: str
    job: Job | None = None
    steps: tuple[JobStep, ...] = ()
    times: int = 1

    @property
    def seconds(self) -> float | None:
        if self.job and self.job.started_at and self.job.finished_at:
            return (self.job.finished_at - self.job.started_at).total_seconds()
        return None


def timeline_of(machine: Machine) -> list[Entry]:
    """Newest first."""
    entries = [_of_job(job) for job in jobs_of(machine)]
    entries += [_of_event(event) for event in events_of(machine) if event.action not in _TOLD_BY_JOBS]
    return _gathered(sorted(entries, key=lambda entry: entry.at, reverse=True))[:30]


def _gathered(entries: list[Entry]) -> list[Entry]:
    """The same thing by the same person, several times in a row, is one line with the time of the last."""
    gathered: list[Entry] = []
    for entry in entries:
        last = gathered[-1] if gathered else None
        if last and not entry.job and not last.job and (last.title, last.who) == (entry.title, entry.who):
            gathered[-1] = replace(last, times=last.times + 1)
        else:
            gathered.append(entry)
    return gathered


def _of_job(job: Job) -> Entry:
    who = job.actor.get_username() if job.actor else ""
    return Entry(job.created_at, job.get_name_display(), who, job=job, steps=tuple(steps_shown(job)))


def _of_event(event: Event) -> Entry:
    return Entry(event.at, words_for(event.action), event.actor_name)
