"""Many machines at once: asking, once more where something may be lost, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.errors import InvalidError
from portal.jobs.models import Job, JobStep
from portal.jobs.names import JobStatus
from portal.jobs.selectors import current_step, overall_progress
from portal.machines import many
from portal.machines.models import Machine


@require_POST
def many_request(request: HttpRequest) -> HttpResponse:
    user = person(request)
    word = request.POST.get("action", "")
    machines = many.chosen_of(user, request.POST.getlist("machine"))
    action = many.ACTIONS.get(word)
    if action is not None and action.warns and request.POST.get("sure") != "yes":
        context = {"machines": machines, "action": word, "words": action.words, "many_id": _request_id(request)}
        return render(request, "machines/many_confirm.html", context)
    batch = many.request_many(
        machines, word, actor=user, request_id=_request_id(request), request_ip=client_ip(request)
    )
    return redirect("machines:many-result", pk=batch.pk)


def _request_id(request: HttpRequest) -> UUID:
    try:
        return UUID(request.POST.get("request_key", "")) if "request_key" in request.POST else uuid4()
    except ValueError as error:
        raise InvalidError(_("This request cannot be read. Go back to the list and try again.")) from error


@require_safe
def many_result(request: HttpRequest, pk: UUID) -> HttpResponse:
    user = person(request)
    batch = many.batch_for(user, pk)
    lines = [_line(answer) for answer in many.answers_of(user, batch)]
    topics = " ".join(f"machine:{line.machine.pk} job:{line.job.pk}" for line in lines if line.job)
    context = {
        "batch": batch,
        "words": many.WORDS[batch.action],
        "lines": lines,
        "topics": topics,
        "counts": _counts(lines),
    }
    return render(request, "machines/_many.html" if is_live(request) else "machines/many.html", context)


@dataclass(frozen=True, slots=True)
class Line:
    """One machine's row: its job and how far that is, or the refusal. `is_visible`: it has a page to go to."""

    machine: Machine
    is_visible: bool
    job: Job | None
    refusal: str

    @property
    def step(self) -> JobStep | None:
        return current_step(self.job) if self.job else None

    @property
    def progress(self) -> int:
        return overall_progress(self.job) if self.job else 0


def _line(answer: many.Answer) -> Line:
    item = answer.item
    return Line(item.machine, answer.is_visible, item.job, item.refusal)


def _counts(lines: list[Line]) -> dict[str, int]:
    jobs = [line.job for line in lines if line.job]
    done = sum(job.status == JobStatus.DONE for job in jobs)
    running = sum(job.is_active for job in jobs)
    return {"done": done, "running": running, "failed": len(lines) - done - running, "all": len(lines)}
