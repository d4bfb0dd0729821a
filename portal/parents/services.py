"""Writes about parents: who wants one, what workers found out, and how one goes. None of them calls a hypervisor."""

from __future__ import annotations

import datetime as dt
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError, InvalidError, NoCapacityError
from portal.hosts import services as hosts
from portal.hosts.models import Host
from portal.images.models import Image, ImageVersion
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import ACTIVE, JobName
from portal.lib import live
from portal.parents.models import Parent, ParentWish
from portal.parents.selectors import Size, can_be_forked, current, is_used, maker_of
from portal.parents.states import BEING_MADE, CURRENT, State

MOST_FAILURES = 3
# Who wants one says so again within this time, or it goes.
UNWANTED_AFTER = dt.timedelta(minutes=10)
# A wish that was taken back leaves others who want the same this long to say so.
LEFT_TO_OTHERS = dt.timedelta(seconds=30)
# Said more often than this it is not written down.
_RENEWED_AFTER = dt.timedelta(minutes=1)
_BROKEN_LATELY = dt.timedelta(hours=1)
_TRIED_AGAIN_AFTER = dt.timedelta(minutes=1)

# --- what is wanted -------------------------------------------------------------------------------------------------


def want(image_version: ImageVersion, host: Host, *, vcpus: int, memory_mib: int, disk_gib: int) -> Parent | None:
    """Have a parent of this version and size on this host, and keep it: to be said again within ten minutes.

    The row, in whatever state it is; None where there can be none: an image that cannot be forked, no room.
    """
    try:
        return ensure(image_version, host, Size(vcpus, memory_mib, disk_gib))
    except NoCapacityError:
        return None


def ensure(version: ImageVersion, host: Host, size: Size) -> Parent | None:
    """As `want`, but NoCapacityError says what is missing."""
    if not can_be_forked(version):
        return None
    parent = current(version, host, size)
    if parent is None:
        return _add(version, host, size)
    now = timezone.now()
    if parent.wanted_at < now - _RENEWED_AFTER:
        Parent.objects.filter(pk=parent.pk, state__in=CURRENT).update(wanted_at=now)
    if is_due_again(parent, now):
        _begin_again(parent)
    return parent


def _add(version: ImageVersion, host: Host, size: Size) -> Parent | None:
    if (broken := _broken_lately(version, host, size)) is not None:
        return broken
    try:
        with transaction.atomic():
            parent = Parent.objects.create(
                image_version=version,
                host=host,
                vcpus=size.vcpus,
                memory_mib=size.memory_mib,
                disk_gib=size.disk_gib,
                holds_capacity=True,
            )
            hosts.reserve_on(host, parent.amount)
            _build(parent)
    except IntegrityError:
        return current(version, host, size)  # The other of two at once made it.
    return parent


def _broken_lately(version: ImageVersion, host: Host, size: Size) -> Parent | None:
    """The last one, if one after the other turned out to be of no use: that is not to be tried for ever."""
    since = timezone.now() - _BROKEN_LATELY
    broken = Parent.objects.filter(image_version=version, host=host, failures__gt=0, created_at__gt=since)
    found = list(broken.filter(state__in=[State.RETIRING, State.DELETED], **size.columns).select_related("host"))
    return found[0] if len(found) >= MOST_FAILURES else None


def _build(parent: Parent) -> Job:
    tell(parent)
    return jobs.enqueue(JobName.PARENT_BUILD, parent, queue=parent.host.queue, actor=None)


def is_due_again(parent: Parent, now: dt.datetime) -> bool:
    """It failed, and not for the last time."""
    if parent.state != State.FAILED or parent.failures >= MOST_FAILURES:
        return False
    return parent.retry_at is None or parent.retry_at <= now


@transaction.atomic
def _begin_again(parent: Parent) -> Job | None:
    """NoCapacityError, and nothing is changed, without room."""
    again = {"state": State.WANTED, "reason": "", "holds_capacity": True, "settling": {}, "wanted_at": timezone.now()}
    if Parent.objects.filter(pk=parent.pk, state=State.FAILED, holds_capacity=False).update(**again) != 1:
        return None
    hosts.reserve_on(parent.host, parent.amount)
    parent.refresh_from_db()
    return _build(parent)


# --- what operators ask for -----------------------------------------------------------------------------------------


@transaction.atomic
def add_wish(image: Image, *, actor: User, size: Size, request_ip: str | None = None) -> ParentWish:
    """Keep a running copy of the image's newest version ready in this size. Asked twice it is one wish."""
    _only_operators(actor)
    if not image.has_agent:
        raise InvalidError(
            _("This image has no agent in it, so a copy could not be given a name and a user of its own.")
        )
    wish, created = ParentWish.objects.get_or_create(image=image, **size.columns, defaults={"created_by": actor})
    if created:
        audit.record(actor, "parent.wished", image, detail=size.columns, request_ip=request_ip)
        live.publish_on_commit([live.OPERATORS], ["parents", f"image:{image.pk}"])
    return wish


@transaction.atomic
def remove_wish(wish: ParentWish, *, actor: User, request_ip: str | None = None) -> None:
    """Keep it ready no longer. Copies that nobody else wants go soon, those that machines use when these are gone."""
    _only_operators(actor)
    if not ParentWish.objects.filter(pk=wish.pk).delete()[0]:
        return
    size = Size(wish.vcpus, wish.memory_mib, wish.disk_gib)
    Parent.objects.filter(image_version__image=wish.image_id, state__in=CURRENT, **size.columns).update(
        wanted_at=timezone.now() - UNWANTED_AFTER + LEFT_TO_OTHERS
    )
    audit.record(actor, "parent.unwished", wish.image, detail=size.columns, request_ip=request_ip)
    live.publish_on_commit([live.OPERATORS], ["parents", f"image:{wish.image_id}"])


@transaction.atomic
def request_again(parent: Parent, *, actor: User, request_ip: str | None = None) -> None:
    """Try once more to make one that failed, whether it had been given up or not."""
    _only_operators(actor)
    parent.refresh_from_db()
    if parent.state in BEING_MADE:
        return  # Asked twice.
    if parent.state != State.FAILED:
        raise ConflictError(_("This running copy is “%(state)s”.") % {"state": parent.get_state_display()})
    Parent.objects.filter(pk=parent.pk, state=State.FAILED).update(failures=0, retry_at=None)
    if _begin_again(parent):
        audit.record(actor, "parent.retried", parent, request_ip=request_ip)


def _only_operators(actor: User) -> None:
    if not (actor.is_active and actor.is_staff):
        raise ForbiddenError(_("Only operators may do this."))


# --- how one goes ---------------------------------------------------------------------------------------------------


@transaction.atomic
def retire(parent: Parent, *, reason: str = "") -> None:
    """No new fork is taken of it; it is removed as soon as no machine uses it."""
    left = Parent.objects.filter(pk=parent.pk, state__in=CURRENT).update(state=State.RETIRING, reason=reason)
    if left:
        parent.state, parent.reason = State.RETIRING, reason
        for job in Job.objects.filter(target_type="parent", target_id=parent.pk, status__in=ACTIVE):
            jobs.request_cancel(job)
        tell(parent)
    delete_unused(parent)


def delete_unused(parent: Parent) -> Job | None:
    """Have one that is going removed, unless something still uses it, or that is under way or was tried just now."""
    parent.refresh_from_db(fields=["state", "retry_at"])
    later = parent.retry_at is not None and parent.retry_at > timezone.now()
    if parent.state != State.RETIRING or later or is_used(parent):
        return None
    under_way = Job.objects.filter(target_type="parent", target_id=parent.pk, status__in=ACTIVE)
    if under_way.filter(name=JobName.PARENT_DELETE).exists():
        return None
    return jobs.enqueue(JobName.PARENT_DELETE, parent, queue=parent.host.queue, actor=None)


# --- what workers found out -----------------------------------------------------------------------------------------


def record_building(parent: Parent) -> None:
    _update(parent, from_states=(State.WANTED,), state=State.BUILDING)


def record_settling(parent: Parent, seen: dict[str, object]) -> None:
    """What the starting guest looked like: the next look is compared with it."""
    Parent.objects.filter(pk=parent.pk, state__in=BEING_MADE).update(settling=seen)
    parent.settling = seen


def record_captured(parent: Parent, *, memory_bytes: int) -> None:
    """It is whole on its host, as the host is now."""
    _update(parent, from_states=BEING_MADE, made_for=maker_of(parent.host), memory_bytes=memory_bytes)


def record_ready(parent: Parent) -> None:
    now = timezone.now()
    fresh: dict[str, object] = {"captured_at": now, "reason": "", "failures": 0, "retry_at": None, "settling": {}}
    _update(parent, from_states=BEING_MADE, state=State.READY, **fresh)


@transaction.atomic
def record_failed(parent: Parent, *, message: str) -> None:
    """It could not be made, and what there was of it was taken back. It is tried again, three times in all."""
    failed = Parent.objects.filter(pk=parent.pk, state__in=BEING_MADE)
    retry_at = timezone.now() + _TRIED_AGAIN_AFTER * 2**parent.failures
    values = {"state": State.FAILED, "reason": message, "failures": F("failures") + 1, "retry_at": retry_at}
    if failed.update(**values, settling={}):
        tell(parent)
    if not Parent.objects.filter(pk=parent.pk, state=State.RETIRING).exists():
        release(parent)  # One that goes gives it back when it has gone.


@transaction.atomic
def record_lost(parent_id: UUID) -> None:
    """Its host does not have it any more, or not whole."""
    parent = Parent.objects.select_related("host").filter(pk=parent_id, state=State.READY).first()
    if parent is not None:
        retire(parent, reason=_("Its files are not on the host any more."))


@transaction.atomic
def record_broken(parent: Parent, *, reason: str) -> None:
    """It was captured whole, and yet no machine could be made of it: another one is captured in its place."""
    if Parent.objects.filter(pk=parent.pk, state=State.READY).update(failures=1):
        retire(parent, reason=reason)


def record_used(parent: Parent) -> bool:
    """A machine is about to be forked from it. False if it may not be used any more.

    In one transaction with the machine's row: who retires it waits for that, and then sees the machine.
    """
    return Parent.objects.filter(pk=parent.pk, state=State.READY).update(last_used_at=timezone.now()) == 1


@transaction.atomic
def record_deleted(parent: Parent) -> None:
    """Nothing of it is left on its host."""
    _update(parent, from_states=(State.RETIRING,), state=State.DELETED, deleted_at=timezone.now(), settling={})
    release(parent)


def record_not_deleted(parent: Parent, *, message: str) -> None:
    """It could not be removed just now; the clock has it tried again."""
    _update(parent, from_states=(State.RETIRING,), reason=message, retry_at=timezone.now() + 10 * _TRIED_AGAIN_AFTER)


@transaction.atomic
def release(parent: Parent) -> None:
    """Give the host its capacity back, exactly once whoever calls how often."""
    if Parent.objects.filter(pk=parent.pk, holds_capacity=True).update(holds_capacity=False) == 1:
        hosts.release_capacity(parent.host, parent.amount)


def _update(parent: Parent, *, from_states: tuple[State, ...], **values: object) -> bool:
    changed = Parent.objects.filter(pk=parent.pk, state__in=from_states).update(**values)
    if changed:
        for name, value in values.items():
            setattr(parent, name, value)
        tell(parent)
    return changed == 1


def tell(parent: Parent) -> None:
    image = f"image:{parent.image_version.image_id}"
    live.publish_on_commit([live.OPERATORS], [f"parent:{parent.pk}", "parents", f"host:{parent.host_id}", image])
