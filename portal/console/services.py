"""Writes of the console: a row for each session, beside an audit event when it begins."""

from uuid import UUID

from django.db import transaction
from django.utils import timezone

from portal.audit.services import record
from portal.console.models import ConsoleSession
from portal.console.relay import Ended
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
    """Only the first end counts. A session that is cut off with its web process keeps an empty end."""
    ConsoleSession.objects.filter(pk=number, ended_at=None).update(
        ended_at=timezone.now(),
        bytes_up=ended.bytes_up,
        bytes_down=ended.bytes_down,
        ended_step=ended.step,
        ended_reason=ended.reason[:60],
    )
