"""Snapshots by the clock: when the next one is due, taking it, and deleting what is more than is to be kept.

Only what a schedule took is ever deleted by it. What a person took, named anew, or what is left of a schedule that was
removed, stays until a person deletes it.
"""

from __future__ import annotations

import datetime as dt
import logging

from django.db import transaction
from django.db.models import Count, F, Q
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, InvalidError, NotFoundError, PortalError
from portal.machines.models import Machine
from portal.machines.states import PowerState, Task
from portal.machines.states import Status as MachineStatus
from portal.snapshots import events, services
from portal.snapshots.models import MOST_KEPT, Snapshot, SnapshotSchedule
from portal.snapshots.states import Every, Status

logger = logging.getLogger(__name__)

# A machine that is busy is asked again each minute; one that is busy for longer is left until the next time.
TRIED_FOR = dt.timedelta(minutes=30)
AT_ONCE = 50
_PERIOD = {Every.HOUR: dt.timedelta(hours=1), Every.DAY: dt.timedelta(days=1), Every.WEEK: dt.timedelta(weeks=1)}
_WORDS = {Every.HOUR: "hourly", Every.DAY: "daily", Every.WEEK: "weekly"}

# --- what people ask for ------------------------------------------------------------------------------------------


@transaction.atomic
def set_schedule(
    machine: Machine,
    *,
    actor: User,
    every: Every,
    keep: int,
    minute: int = 0,
    hour: int = 3,
    weekday: int = 0,
    request_ip: str | None = None,
) -> SnapshotSchedule:
    """Have a snapshot of the disks taken so often, at these times of UTC; a machine has one schedule of each kind.
    `hour` counts for days and weeks, `weekday` (0 is Monday) for weeks.
    """
    require(actor, machine.project_id, Permission.MACHINE_OPERATE)
    if machine.keeps_definition:
        raise ConflictError(_("Somebody else defined this machine: its disks are theirs."))
    _check(keep=keep, minute=minute, hour=hour, weekday=weekday)
    when = {"minute": minute, "hour": hour, "weekday": weekday}
    same = SnapshotSchedule.objects.filter(machine=machine, every=every, keep=keep, **when).first()
    if same is not None:
        return same
    values = {**when, "keep": keep, "problem": "", "next_at": next_after(timezone.now(), every, **when)}
    schedule, _created = SnapshotSchedule.objects.update_or_create(
        machine=machine, every=every, defaults=values, create_defaults={**values, "created_by": actor}
    )
    detail = {"every": str(every), "keep": keep, **when}
    audit.record(actor, "snapshot.scheduled", machine, detail=detail, request_ip=request_ip)
    events.snapshots_changed(machine)
    return schedule


def _check(*, keep: int, minute: int, hour: int, weekday: int) -> None:
    if not 1 <= keep <= MOST_KEPT:
        raise InvalidError(_("From 1 to %(most)s can be kept.") % {"most": MOST_KEPT}, field="keep")
    for field, value, most in (("minute", minute, 59), ("hour", hour, 23), ("weekday", weekday, 6)):
        if not 0 <= value <= most:
            raise InvalidError(_("There is no such time."), field=field)


@transaction.atomic
def remove_schedule(machine: Machine, *, actor: User, every: str, request_ip: str | None = None) -> None:
    """Take no more. What it took stays, and counts from now on as if a person had taken it."""
    require(actor, machine.project_id, Permission.MACHINE_OPERATE)
    deleted, _by_model = SnapshotSchedule.objects.filter(machine=machine, every=every).delete()
    if not deleted:
        raise NotFoundError
    audit.record(actor, "snapshot.unscheduled", machine, detail={"every": every}, request_ip=request_ip)
    events.snapshots_changed(machine)


# --- the clock's part ---------------------------------------------------------------------------------------------


def take_due() -> int:
    """Take the snapshots that are due. Returns how many were asked for. What was due while nobody worked comes once."""
    now = timezone.now()
    due = SnapshotSchedule.objects.filter(next_at__lte=now, machine__status=MachineStatus.READY)
    schedules = due.select_related("machine__project", "machine__host").order_by("next_at")[:AT_ONCE]
    return sum(_take(schedule, now) for schedule in schedules)


def _take(schedule: SnapshotSchedule, now: dt.datetime) -> bool:
    try:
        with transaction.atomic():
            if not _claim(schedule, now) or _is_as_it_was(schedule):
                return False
            name = services.free_name(schedule.machine, f"{_WORDS[Every(schedule.every)]} {now:%Y-%m-%d %H.%M}")
            services.request_take(schedule.machine, actor=None, name=name, schedule=schedule)
    except PortalError as error:
        _not_now(schedule, now, str(error.message))
        return False
    return True


def _claim(schedule: SnapshotSchedule, now: dt.datetime) -> bool:
    """Of two clocks one takes it."""
    following = _following(schedule, now)
    mine = SnapshotSchedule.objects.filter(pk=schedule.pk, next_at=schedule.next_at)
    return mine.update(next_at=following, problem="") == 1


def _is_as_it_was(schedule: SnapshotSchedule) -> bool:
    """It has been off since its last snapshot: another one would hold the same, and push an older one out."""
    machine = schedule.machine
    last = Snapshot.objects.filter(machine=machine, is_current=True, status=Status.READY).first()
    if last is None or last.taken_at is None or machine.power_state != PowerState.SHUT_OFF:
        return False
    return machine.power_state_at is not None and machine.power_state_at < last.taken_at


def _not_now(schedule: SnapshotSchedule, now: dt.datetime, message: str) -> None:
    values: dict[str, object] = {"problem": message}
    if now - schedule.next_at > TRIED_FOR:
        logger.warning("machine %s: its snapshot is left out: %s", schedule.machine_id, message)
        values["next_at"] = _following(schedule, now)
    changed = SnapshotSchedule.objects.filter(pk=schedule.pk, next_at=schedule.next_at)
    if changed.exclude(**values).update(**values):
        events.snapshots_changed(schedule.machine)


def delete_surplus() -> int:
    """Have the oldest one deleted wherever a schedule has more than it is to keep. Returns how many were asked for.

    One of a machine at a time, for its task is the lock: the next one comes a minute later.
    """
    ready = Count("snapshots", filter=Q(snapshots__status=Status.READY))
    idle = SnapshotSchedule.objects.filter(machine__status=MachineStatus.READY, machine__task=Task.NONE)
    over = idle.annotate(number=ready).filter(number__gt=F("keep")).order_by("machine")[:AT_ONCE]
    return sum(_delete_oldest(schedule, schedule.keep) for schedule in over)


def _delete_oldest(schedule: SnapshotSchedule, keep: int) -> bool:
    """One that is just being copied keeps its place until that has ended; the next oldest does not go instead."""
    taken = Snapshot.objects.filter(schedule=schedule, status=Status.READY).order_by("-taken_at", "-created_at")
    for snapshot in reversed(taken.select_related("machine__project", "machine__host")[keep:]):
        try:
            services.request_delete(snapshot, actor=None)
        except PortalError as error:
            logger.info("snapshot %s stays for now: %s", snapshot.pk, error)
        else:
            return True
    return False


# --- times --------------------------------------------------------------------------------------------------------


def _following(schedule: SnapshotSchedule, now: dt.datetime) -> dt.datetime:
    when = {"minute": schedule.minute, "hour": schedule.hour, "weekday": schedule.weekday}
    return next_after(now, Every(schedule.every), **when)


def next_after(moment: dt.datetime, every: Every, *, minute: int, hour: int, weekday: int) -> dt.datetime:
    """The first time of the schedule that is later than `moment`, in UTC."""
    at = moment.astimezone(dt.UTC).replace(minute=minute, second=0, microsecond=0)
    if every != Every.HOUR:
        at = at.replace(hour=hour)
    if every == Every.WEEK:
        at += dt.timedelta(days=(weekday - at.weekday()) % 7)
    return at if at > moment else at + _PERIOD[every]
