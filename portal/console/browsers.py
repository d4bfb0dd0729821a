"""One person at one screen with several devices: which of them have it open, and one that takes it over.

A device is a browser that is signed in; it is known by the hash of its session's key.
"""

from __future__ import annotations

import datetime as dt

from django.db import transaction
from django.db.models import QuerySet

from portal.accounts.models import User
from portal.audit.services import record
from portal.console.models import ConsoleSession
from portal.console.services import order_end_of
from portal.machines.models import Machine


def open_elsewhere(machine: Machine, person: User, browser: str) -> QuerySet[ConsoleSession]:
    """The person's open screens of this machine in other browsers, the newest first."""
    here = ConsoleSession.objects.filter(machine=machine, user=person, ended_at=None, end_ordered_by="")
    return here.exclude(browser=browser).order_by("-started_at")


def is_let_in(machine: Machine, person: User, browser: str, since: dt.datetime) -> bool:
    """Whether this browser has had the screen since then, and no other has taken it over: it comes back unasked."""
    last = _of_browser(machine, person, browser, since)
    return last is not None and last.end_ordered_by != person.get_username()


def was_taken_over(machine: Machine, person: User, browser: str, since: dt.datetime) -> bool:
    """Whether another browser of the person's took the screen from this one."""
    last = _of_browser(machine, person, browser, since)
    return last is not None and last.end_ordered_by == person.get_username()


@transaction.atomic
def take_over(machine: Machine, *, actor: User, browser: str, request_ip: str | None = None) -> int:
    """Have the person's screens in other browsers ended within two seconds. Returns how many there were."""
    let_back_in(machine, actor, browser)
    ended = order_end_of(machine.pk, actor.pk, by=actor.get_username(), but=browser)
    if ended:
        record(actor, "console.take_over", machine, detail={"screens": ended}, request_ip=request_ip)
    return ended


def let_back_in(machine: Machine, person: User, browser: str) -> None:
    """The person wants it here again: that another browser took it from this one counts no more."""
    taken = ConsoleSession.objects.filter(machine=machine, user=person, end_ordered_by=person.get_username())
    if browser:
        taken.filter(browser=browser).update(end_ordered_by="")


def _of_browser(machine: Machine, person: User, browser: str, since: dt.datetime) -> ConsoleSession | None:
    sessions = ConsoleSession.objects.filter(machine=machine, user=person, browser=browser, started_at__gte=since)
    return sessions.order_by("-started_at").first() if browser else None
