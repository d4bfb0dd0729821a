"""The same asked of many machines at once, each by the service that its own button asks, and what became of each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.errors import InvalidError, NotFoundError, PortalError
from portal.jobs.models import Job
from portal.machines import binning, hibernation, services
from portal.machines.models import Batch, BatchItem, Machine

MOST = 100
KEPT = dt.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Action:
    """`warns`: something may be lost by it, so it is asked for once more."""

    words: str | Promise
    request: Callable[..., Job]
    permission: Permission
    warns: bool = False


ACTIONS: dict[str, Action] = {
    "start": Action(gettext_lazy("Start"), services.request_start, Permission.MACHINE_OPERATE),
    "stop": Action(gettext_lazy("Shut down"), services.request_stop, Permission.MACHINE_OPERATE),
    "reboot": Action(gettext_lazy("Restart"), services.request_reboot, Permission.MACHINE_OPERATE),
    "pause": Action(gettext_lazy("Pause"), services.request_pause, Permission.MACHINE_OPERATE),
    "resume": Action(gettext_lazy("Resume"), services.request_resume, Permission.MACHINE_OPERATE),
    "hibernate": Action(gettext_lazy("Hibernate"), hibernation.request_hibernate, Permission.MACHINE_OPERATE),
    "reset": Action(gettext_lazy("Reset"), services.request_reset, Permission.MACHINE_OPERATE, warns=True),
    "force-off": Action(gettext_lazy("Force off"), services.request_force_off, Permission.MACHINE_OPERATE, warns=True),
    "delete": Action(gettext_lazy("Delete"), binning.request_removal, Permission.MACHINE_DELETE, warns=True),
}
CHOICES: list[tuple[str, str | Promise]] = [(word, action.words) for word, action in ACTIONS.items()]

# What apps above this one ask of many, by actions of their own.
WORDS: dict[str, str | Promise] = dict(CHOICES) | {"rebuild": gettext_lazy("Reset from the image")}


def chosen_of(user: User | AnonymousUser, ids: Collection[str]) -> list[Machine]:
    """The machines of these ids that the person sees, by name; others are not there. InvalidError if there are none."""
    keys = [key for key in map(_uuid, dict.fromkeys(ids)) if key is not None]
    if len(keys) > MOST:
        raise InvalidError(_("At most %(most)s machines can be chosen at once.") % {"most": MOST})
    machines = Machine.objects.visible_to(user).live().filter(pk__in=keys).select_related("project", "host")
    chosen = list(machines.order_by("name"))
    if not chosen:
        raise InvalidError(_("Choose machines first."))
    return chosen


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def request_many(
    machines: Collection[Machine],
    word: str,
    *,
    actor: User,
    request_id: UUID,
    request_ip: str | None = None,
    action: Action | None = None,
) -> Batch:
    """Ask each of the machines for it. A refusal of one stops no other. The same `request_id` is the same request.

    `action` does it in another way than a machine's own button, or is one of WORDS that machines alone have not.
    """
    action = action or ACTIONS.get(word)
    if action is None:
        raise InvalidError(_("Choose what to do."))
    try:
        with transaction.atomic():
            batch = Batch.objects.create(id=request_id, actor=actor, action=word)
    except IntegrityError:
        return batch_for(actor, request_id)
    for machine in machines:
        _ask(batch, action, machine, actor=actor, request_ip=request_ip)
    return batch


def _ask(batch: Batch, action: Action, machine: Machine, **values: Any) -> None:
    """One that is refused has left nothing behind, and says why."""
    try:
        with transaction.atomic():
            BatchItem.objects.create(batch=batch, machine=machine, job=action.request(machine, **values))
    except PortalError as error:
        BatchItem.objects.create(batch=batch, machine=machine, refusal=str(error.message))


def batch_for(user: User | AnonymousUser, pk: UUID) -> Batch:
    """A request of the person's own. NotFoundError for everyone else's."""
    batch = Batch.objects.filter(pk=pk, actor=user.pk).select_related("actor").first()
    if batch is None:
        raise NotFoundError
    return batch


def forget_old(*, piece: int = 500) -> int:
    """Remove requests that nobody looks at any more: what came of them stands with each machine and job."""
    before, gone = timezone.now() - KEPT, 0
    while True:
        old = list(Batch.objects.filter(created_at__lt=before).values_list("pk", flat=True)[:piece])
        Batch.objects.filter(pk__in=old).delete()
        gone += len(old)
        if len(old) < piece:
            return gone


@dataclass(frozen=True, slots=True)
class Answer:
    item: BatchItem
    is_visible: bool


def answers_of(user: User | AnonymousUser, batch: Batch) -> list[Answer]:
    """What became of it at each machine. Of those that the person sees no more only the name is left."""
    items = batch.items.select_related("machine", "job__actor").prefetch_related("job__steps").order_by("machine__name")
    keys = [item.machine_id for item in items]
    visible = set(Machine.objects.visible_to(user).live().filter(pk__in=keys).values_list("pk", flat=True))
    return [Answer(item, item.machine_id in visible) for item in items]
