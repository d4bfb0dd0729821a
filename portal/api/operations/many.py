"""The same asked of many machines at once."""

import datetime as dt
from typing import Final, Literal, Self
from uuid import UUID, uuid4, uuid5

from django.http import HttpRequest
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.api import idempotency
from portal.api.auth import token_in
from portal.api.core import operation
from portal.api.operations.machines import TAG
from portal.api.schemas import Input, JobOut
from portal.machines import many
from portal.machines.models import Batch

Word = Literal["start", "stop", "reboot", "pause", "resume", "hibernate", "reset", "force-off", "delete"]
Asked = Literal["start", "stop", "reboot", "pause", "resume", "hibernate", "reset", "force-off", "delete", "rebuild"]
PAGES: Final = ("machines:many", "machines:many-result")


class BatchIn(Input):
    action: Word
    machines: list[UUID] = Field(min_length=1, max_length=many.MOST)


class BatchItemOut(BaseModel):
    """The job that does it at one machine, or why it was `refused`. Of a machine that you see no more only the name is
    left."""

    machine: UUID | None
    name: str
    job: JobOut | None
    refused: str

    @classmethod
    def of(cls, answer: many.Answer) -> Self:
        item = answer.item
        return cls(
            machine=item.machine_id if answer.is_visible else None,
            name=item.machine.name,
            job=JobOut.of(item.job) if item.job and answer.is_visible else None,
            refused=item.refusal,
        )


class BatchOut(BaseModel):
    """`rebuild` is what resetting desktops of a deployment does."""

    id: UUID
    action: Asked
    created_at: dt.datetime
    items: list[BatchItemOut]


def batch_shown(request: HttpRequest, batch: Batch) -> BatchOut:
    """A token for one project is told nothing of machines elsewhere, though its person asked about them."""
    answers = many.answers_of(person(request), batch)
    if token_in(request).project_id is not None:
        answers = [answer for answer in answers if answer.is_visible]
    items = [BatchItemOut.of(answer) for answer in answers]
    return BatchOut.model_validate(
        {"id": batch.pk, "action": batch.action, "created_at": batch.created_at, "items": items}
    )


@operation("POST", "batches", tag=TAG, answers=BatchOut, status=201, pages=PAGES, links={"show_batch": {"pk": "id"}})
def act_on_many(request: HttpRequest, body: BatchIn) -> BatchOut:
    """Ask the same of up to 100 machines. Each gets a job, or a refusal that stops no other; ids that you do not see
    are left out."""
    user = person(request)
    key = idempotency.key_of(request)
    batch = many.request_many(
        many.chosen_of(user, [str(pk) for pk in body.machines]),
        body.action,
        actor=user,
        request_id=uuid5(token_in(request).pk, key) if key else uuid4(),
        request_ip=client_ip(request),
    )
    return batch_shown(request, batch)


@operation("GET", "batches/{uuid:pk}", tag=TAG, answers=BatchOut, pages=PAGES)
def show_batch(request: HttpRequest, pk: UUID) -> BatchOut:
    """What became of something that you asked of many machines."""
    return batch_shown(request, many.batch_for(person(request), pk))
