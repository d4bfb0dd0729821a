"""A person's files follow their session: brought when it has begun, put away when it has ended.

Handing out a desktop waits for neither: the pool's next look does it, which is called at once. Files that cannot be
brought (no quota, another desktop has them) are said so on the session's screen, and the session goes on without.
"""

from __future__ import annotations

import logging
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from portal.accounts.models import User
from portal.errors import PortalError
from portal.lib import prepared
from portal.machines.models import Machine
from portal.machines.states import Status
from portal.pools.models import Pool, Session
from portal.profiles import services as profiles
from portal.profiles.models import Profile

logger = logging.getLogger(__name__)


def tend(pool: Pool) -> None:
    """First those that leave: who comes back at once finds them on the way, not in use."""
    _put_away(pool)
    if pool.keeps_files:
        _bring(pool)


def _bring(pool: Pool) -> None:
    """Once for each session."""
    begun = Session.objects.live().filter(pool=pool, files_asked_at=None, machine__status=Status.READY)
    for session in begun.select_related("machine__host", "person"):
        with transaction.atomic():
            wants = Session.objects.live().filter(pk=session.pk, files_asked_at=None)
            if session.machine is None or wants.update(files_asked_at=timezone.now()) != 1:
                continue
            try:
                with transaction.atomic():
                    profiles.attach(session.person, session.machine)
            except PortalError as error:
                Session.objects.filter(pk=session.pk).update(files_problem=str(error.message))


def _put_away(pool: Pool) -> None:
    # Mostly there is none, which is asked without the columns of their machines and hosts.
    for pk in _over(pool.pk):
        with transaction.atomic():
            if not Session.objects.filter(pk=pk, files_left_at=None).update(files_left_at=timezone.now()):
                continue
            session = Session.objects.select_related("machine__host").get(pk=pk)
            if session.machine is not None and not _goes_on(session):
                profiles.release(session.machine)


@prepared.rows
def _over(pool: UUID) -> QuerySet[Session, UUID]:
    over = Session.objects.filter(pool=pool, ended_at__isnull=False, files_asked_at__isnull=False, files_left_at=None)
    return over.values_list("pk", flat=True)


def _goes_on(session: Session) -> bool:
    """The person is back on the same desktop already, one of their own."""
    again = Session.objects.live().filter(machine=session.machine_id, person=session.person_id)
    return again.filter(files_asked_at__isnull=False).exists()


def host_with_files(pool: Pool, person: User) -> UUID | None:
    """Where the person's files lie: a desktop there can have them."""
    theirs = Profile.objects.filter(person=person, project=pool.project_id, volume__isnull=False)
    return theirs.values_list("volume__host", flat=True).first() if pool.keeps_files else None


def still_has_files() -> Exists:
    """Of a desktop's machine: somebody's files have not been put away, or are on their way to it."""
    return Exists(Profile.objects.filter(machine=OuterRef("machine")))


def release(machine: Machine) -> None:
    """The machine is to go."""
    profiles.release(machine)
