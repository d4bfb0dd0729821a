"""The record of sessions stays true when a web process dies without a word."""

import datetime as dt
from uuid import uuid4

from django.utils import timezone

from portal.accounts.models import User
from portal.console import limits, services
from portal.console.limits import Place
from portal.console.models import ConsoleSession
from portal.console.relay import Ended, Step
from portal.console.selectors import Target
from portal.console.tickets import Mode
from portal.machines.models import Machine


def begun(alice: User, machine: Machine, *, minutes_ago: int) -> ConsoleSession:
    target = Target(alice, machine, machine.console_socket, "s3cr3t")
    session = services.begin_session(target, number=uuid4(), mode=Mode.CONTROL, request_ip=None)
    ConsoleSession.objects.filter(pk=session.pk).update(started_at=timezone.now() - dt.timedelta(minutes=minutes_ago))
    return session


def test_a_session_whose_process_died_is_ended_and_a_living_or_new_one_is_not(
    alice: User, machine: Machine, redis_db: str
) -> None:
    living, dead = begun(alice, machine, minutes_ago=9), begun(alice, machine, minutes_ago=9)
    begun(alice, machine, minutes_ago=0)
    limits.take(Place(str(living.pk), alice.pk, machine.pk))
    assert services.end_lost_sessions() == 1
    ended = ConsoleSession.objects.exclude(ended_at=None).get()
    assert (ended, ended.ended_reason) == (dead, "portal-lost")
    assert services.end_lost_sessions() == 0


def test_only_the_first_end_of_a_session_counts(alice: User, machine: Machine) -> None:
    session = begun(alice, machine, minutes_ago=1)
    services.end_session(session.pk, Ended(Step.REVOKED, "signed-out", 1, 2))
    services.end_session(session.pk, Ended(Step.ENDED, "portal-lost"))
    session.refresh_from_db()
    assert (session.ended_step, session.bytes_up, session.bytes_down) == ("revoked", 1, 2)
