"""Writes of the console: a row for each session, beside an audit event when it begins."""

import datetime as dt
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from portal.audit.services import record
from portal.console.limits import LEASE_S, Place, is_held
from portal.console.models import ConsoleSession
from portal.console.relay import Ended, Step
from portal.console.selectors import Target
from portal.console.tickets import Mode


@transaction.atomic
def begin_session(target: Target, *, number: UUID, mode: Mode, request_ip: str | None) -> ConsoleSession:
    session = ConsoleSession.objects.create(
        id=number,
        user=target.user,
        user_name=target.user.get_username(),
        machine=target.machine,
        machine_name=str(target.machine)[:150],
        mode=mode,
        request_ip=request_ip,
    )
    record(
        target.user,
        "console.open",
        target.machine,
        detail={"session": str(number), "mode": str(mode)},
        request_ip=request_ip,
    )
    return session


def end_session(number: UUID, ended: Ended) -> None:
    """Only the first end counts. What was cut off with its web process is ended by `end_lost_sessions`."""
    ConsoleSession.objects.filter(pk=number, ended_at=None).update(
        ended_at=timezone.now(),
        bytes_up=ended.bytes_up,
        bytes_down=ended.bytes_down,
        ended_step=ended.step,
        ended_reason=ended.reason[:60],
    )


def end_all_sessions() -> int:
    """For a database that was brought back: the screens that were open then are closed. Returns how many."""
    return ConsoleSession.objects.filter(ended_at=None).update(
        ended_at=timezone.now(), ended_step=Step.ENDED, ended_reason="portal-lost"
    )


def end_lost_sessions() -> int:
    """End the rows of sessions whose web process died with them; for a task that runs every minute or so.

    A session younger than a lease may not have taken its place yet, so it is left for the next time.
    """
    settled = timezone.now() - dt.timedelta(seconds=LEASE_S)
    open_rows = ConsoleSession.objects.filter(ended_at=None, started_at__lt=settled).values_list(
        "pk", "user_id", "machine_id"
    )
    lost = [pk for pk, user, machine in open_rows if not is_held(Place(str(pk), user, machine))]
    for pk in lost:
        end_session(pk, Ended(Step.ENDED, "portal-lost"))
    return len(lost)
