"""Who may be at a seat's desktop: its person by their account, or whoever comes by its link as the seat's guest.

Either holds a grant of the one machine (portal.machines), which the console asks for at every turn: it ends within two
seconds of the grant.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import guests
from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.deployments.events import deployment_changed
from portal.deployments.models import Deployment, Seat
from portal.errors import ConflictError, InvalidError, NotFoundError
from portal.lib.secrets import hash_of
from portal.machines.models import Grant

LONGEST: Final = dt.timedelta(days=366)


def open_desktop(seat: Seat) -> None:
    """Let the seat's people on to its machine."""
    if seat.machine_id is None:
        return
    if seat.person_id is not None:
        _grant(seat.machine_id, seat.person_id, until=None)
    if seat.guest_id is not None and seat.token_hash is not None:
        _grant(seat.machine_id, seat.guest_id, until=seat.link_expires_at)


def _grant(machine_id: UUID, user_id: int, *, until: dt.datetime | None) -> None:
    Grant.objects.update_or_create(machine_id=machine_id, user_id=user_id, defaults={"until": until})


def close_desktop(seat: Seat) -> None:
    """For good: the guest's account goes, too."""
    people = [pk for pk in (seat.person_id, seat.guest_id) if pk is not None]
    Grant.objects.filter(machine=seat.machine_id, user__in=people).delete()
    if seat.guest is not None:
        seat.guest.delete()


@dataclass(frozen=True, slots=True)
class MadeLink:
    """A link's token, of 256 bits, which nobody can see again."""

    seat: Seat
    token: str


@transaction.atomic
def make_links(
    deployment: Deployment,
    seats: Collection[Seat],
    *,
    actor: User,
    lifetime: dt.timedelta,
    request_ip: str | None = None,
) -> list[MadeLink]:
    """A new link for each of the seats; one that there was before works no more. People with an account sign in, and
    get none."""
    require(actor, deployment.project_id, Permission.PROJECT_MANAGE)
    if not dt.timedelta(0) < lifetime <= LONGEST:
        raise InvalidError(_("A link works for a year at most."), field="lifetime")
    without = [seat for seat in seats if seat.person_id is None]
    if not without:
        raise ConflictError(_("All of them have an account: they sign in, and need no link."))
    until = timezone.now() + lifetime
    links = [_make_link(seat, until) for seat in without]
    detail = {"people": [seat.label for seat in without], "until": until.isoformat(timespec="seconds")}
    audit.record(actor, "deployment.links", deployment, detail=detail, request_ip=request_ip)
    deployment_changed(deployment)
    return links


def _make_link(seat: Seat, until: dt.datetime) -> MadeLink:
    token = secrets.token_urlsafe(32)
    if seat.guest is None:
        seat.guest = guests.make_guest(seat.label, until=until)
    else:
        guests.renew(seat.guest, until=until)
    seat.token_hash, seat.link_expires_at = hash_of(token), until
    seat.save(update_fields=["guest", "token_hash", "link_expires_at"])
    open_desktop(seat)
    return MadeLink(seat, token)


@transaction.atomic
def revoke_link(seat: Seat, *, actor: User, request_ip: str | None = None) -> None:
    """Who came by it is out within two seconds. Nothing happens where there is none."""
    require(actor, seat.deployment.project_id, Permission.PROJECT_MANAGE)
    if Seat.objects.filter(pk=seat.pk, token_hash__isnull=False).update(token_hash=None, link_expires_at=None) != 1:
        return
    if seat.guest is not None:
        guests.shut_out(seat.guest)
        Grant.objects.filter(machine=seat.machine_id, user=seat.guest_id).delete()
    audit.record(actor, "deployment.unlink", seat, detail={"person": seat.label}, request_ip=request_ip)
    deployment_changed(seat.deployment)


def seat_of_link(token: str) -> Seat:
    """NotFoundError for one that never was, and for one that has expired or was revoked: they look the same."""
    seats = Seat.objects.with_open_link().select_related("deployment__project", "guest", "machine")
    seat = seats.filter(token_hash=hash_of(token), person=None).first()
    if seat is None or seat.guest is None:
        raise NotFoundError(_("This link does not work, or not any more. Ask whoever gave it to you."))
    return seat


@transaction.atomic
def note_opened(seat: Seat, *, request_ip: str | None = None) -> None:
    """Somebody came in by the link."""
    audit.record(seat.guest, "deployment.link_opened", seat, detail={"person": seat.label}, request_ip=request_ip)
