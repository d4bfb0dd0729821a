"""What operators do with pools. Each is written down; desktops follow by `filling`, within seconds."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import Project, User
from portal.accounts.selectors import project_for
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from portal.images.models import ImageVersion, VersionStatus
from portal.machines.models import Flavour
from portal.machines.services import check_fits
from portal.machines.validators import validate_machine_name
from portal.pools import broker, events
from portal.pools.entitlement import still_entitled
from portal.pools.hours import DAY_MINUTES
from portal.pools.models import Desktop, Entitlement, Place, Pool, Session, SpareHours
from portal.pools.states import LIVE_DESKTOP, DesktopState, EndReason, PlaceState, PoolKind, Recompose

MOST_DESKTOPS: Final = 100_000
MOST_PER_PERSON: Final = 10
MOST_SECONDS: Final = 31 * 24 * 3600
MOST_MESSAGE: Final = 500
NOTICE: Final = dt.timedelta(minutes=5)
_NAME: Final = re.compile(r"\A[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")

# What `create_pool` and `change_pool` take, with what holds where nothing is said. The kind, the project and the short
# name are for good; versions change by `recompose`.
SETTINGS: Final[dict[str, Any]] = {
    "title": "",
    "minimum": 0,
    "maximum": 10,
    "spare": 1,
    "time_zone": "UTC",
    "name_pattern": "",
    "desktops_per_person": 1,
    "keeps_files": True,
    "enabled": True,
    "idle_warn_s": 0,
    "idle_disconnect_s": 0,
    "idle_sign_out_s": 0,
    "limit_s": 0,
}


@dataclass(frozen=True, slots=True)
class Hours:
    """So many spare ones on a weekday (0 is Monday) from one minute of the day to before another."""

    weekday: int
    from_minute: int
    to_minute: int
    spare: int


def create_pool(
    name: str,
    *,
    actor: User,
    project: Project,
    image_version: ImageVersion,
    flavour: Flavour,
    kind: PoolKind = PoolKind.FLOATING,
    request_key: UUID | None = None,
    request_ip: str | None = None,
    **settings: Any,
) -> Pool:
    """A pool with what SETTINGS names. The same `request_key` gives the same pool again: it becomes its id."""
    _operators_only(actor)
    earlier = Pool.objects.filter(pk=request_key).first() if request_key else None
    if earlier is not None:
        return earlier
    name = name.strip()
    if not _NAME.match(name):
        raise InvalidError(_("Use lower-case letters, digits and hyphens, at most 40."), field="name")
    project_for(actor, project.pk)
    check_fits(image_version, project, flavour)
    values = _checked({**SETTINGS, "title": name, "name_pattern": f"{name}-{{n}}", **settings})
    extra = {"id": request_key} if request_key else {}
    try:
        with transaction.atomic():
            pool = Pool.objects.create(
                name=name,
                kind=kind,
                project=project,
                image_version=image_version,
                flavour=flavour,
                **values,
                **extra,
            )
            detail = {"image": str(image_version), "flavour": flavour.name, "kind": str(kind)}
            audit.record(actor, "pool.created", pool, detail=detail, request_ip=request_ip)
            events.pool_changed(pool)
            broker.wake(pool)
    except IntegrityError as error:
        earlier = Pool.objects.filter(pk=request_key).first() if request_key else None
        if earlier is not None:
            return earlier
        raise ConflictError(_("There is a pool of this name already."), field="name") from error
    return pool


@transaction.atomic
def change_pool(
    pool: Pool, *, actor: User, flavour: Flavour | None = None, request_ip: str | None = None, **settings: Any
) -> Pool:
    """Change some of SETTINGS. Another size is what new desktops have; those that are there keep theirs."""
    _operators_only(actor)
    before = {name: getattr(pool, name) for name in SETTINGS}
    values = _checked({**before, **settings})
    if flavour is not None and flavour.pk != pool.flavour_id:
        check_fits(pool.image_version, pool.project, flavour)
        before["flavour_id"], values["flavour_id"] = pool.flavour_id, flavour.pk
    changed = {name: value for name, value in values.items() if before[name] != value}
    if not changed:
        return pool
    # What was wrong may be mended by this: it is tried again now.
    Pool.objects.filter(pk=pool.pk).update(**changed, build_after=None)
    pool.refresh_from_db()
    detail = {"before": {name: before[name] for name in changed}, "after": changed}
    audit.record(actor, "pool.changed", pool, detail=detail, request_ip=request_ip)
    events.everyone_in(pool, _people_in(pool))
    broker.wake(pool)
    return pool


@transaction.atomic
def set_hours(pool: Pool, *, actor: User, hours: Sequence[Hours], request_ip: str | None = None) -> None:
    """The whole plan of spare desktops anew; outside of all hours it is `Pool.spare`."""
    _operators_only(actor)
    _check_hours(hours)
    wanted = {(one.weekday, one.from_minute, one.to_minute, one.spare) for one in hours}
    there = set(pool.hours.values_list("weekday", "from_minute", "to_minute", "spare"))
    if wanted == there:
        return
    pool.hours.all().delete()
    SpareHours.objects.bulk_create(
        SpareHours(pool=pool, weekday=day, from_minute=begin, to_minute=end, spare=spare)
        for day, begin, end, spare in sorted(wanted)
    )
    audit.record(actor, "pool.hours", pool, detail={"hours": len(wanted)}, request_ip=request_ip)
    events.pool_changed(pool)
    broker.wake(pool)


def _check_hours(hours: Sequence[Hours]) -> None:
    last: dict[int, int] = {}
    for one in sorted(hours, key=lambda one: (one.weekday, one.from_minute)):
        if not (0 <= one.weekday <= 6 and 0 <= one.from_minute < one.to_minute <= DAY_MINUTES):
            raise InvalidError(_("There is no such time."), field="hours")
        if not 0 <= one.spare <= MOST_DESKTOPS:
            raise InvalidError(_("Give a number of desktops."), field="hours")
        if one.from_minute < last.get(one.weekday, 0):
            raise InvalidError(_("Two of the hours overlap."), field="hours")
        last[one.weekday] = one.to_minute


# --- who may use it -----------------------------------------------------------------------------------------------


@transaction.atomic
def entitle(
    pool: Pool,
    *,
    actor: User,
    user: User | None = None,
    project: Project | None = None,
    group: Group | None = None,
    request_ip: str | None = None,
) -> Entitlement:
    """Let a person, everybody in a project, or everybody in a group use it. Exactly one of the three is named."""
    _operators_only(actor)
    if sum(one is not None for one in (user, project, group)) != 1:
        raise InvalidError(_("Name a person, a project or a group."))
    entitlement, created = Entitlement.objects.get_or_create(pool=pool, user=user, project=project, group=group)
    if created:
        audit.record(actor, "pool.entitled", pool, detail={"who": _who(entitlement)}, request_ip=request_ip)
        events.everyone_in(pool, [user.pk] if user is not None else [])
        broker.wake(pool)
    return entitlement


@transaction.atomic
def disentitle(entitlement: Entitlement, *, actor: User, request_ip: str | None = None) -> None:
    """Take it away. Sessions of those who have no other right to the pool end, and their places in line are free."""
    _operators_only(actor)
    pool, who = entitlement.pool, _who(entitlement)
    if not Entitlement.objects.filter(pk=entitlement.pk).delete()[0]:
        return
    audit.record(actor, "pool.unentitled", pool, detail={"who": who}, request_ip=request_ip)
    end_of_unentitled(pool)
    events.pool_changed(pool)


def end_of_unentitled(pool: Pool) -> int:
    """Sign out who may not use the pool any more: also by leaving a project or group, which the clock finds."""
    sessions = list(Session.objects.live().filter(pool=pool).select_related("pool", "desktop", "person"))
    waiting = Place.objects.filter(pool=pool, state=PlaceState.WAITING)
    people = {session.person_id for session in sessions} | set(waiting.values_list("person_id", flat=True))
    lost = people - still_entitled(pool, people)
    if not lost:
        return 0
    waiting.filter(person__in=lost).update(state=PlaceState.GONE)
    gone = [session for session in sessions if session.person_id in lost]
    return sum(broker.sign_out(session, EndReason.NOT_ENTITLED) for session in gone)


def _who(entitlement: Entitlement) -> str:
    return str(entitlement.user or entitlement.project or entitlement.group)


@transaction.atomic
def name_owner(desktop: Desktop, *, actor: User, person: User | None, request_ip: str | None = None) -> None:
    """Say whose a desktop of an assigned or named pool is, or that it is nobody's. Not while somebody is on it."""
    _operators_only(actor)
    if desktop.pool.kind == PoolKind.FLOATING:
        raise ConflictError(_("A floating desktop belongs to nobody."))
    free = Desktop.objects.filter(pk=desktop.pk).exclude(state=DesktopState.TAKEN)
    if free.update(person=person) != 1:
        raise ConflictError(_("Somebody is on this desktop. Sign them out first."))
    detail = {"desktop": str(desktop), "person": person.get_username() if person else ""}
    audit.record(actor, "pool.changed", desktop.pool, detail=detail, request_ip=request_ip)
    events.pool_changed(desktop.pool)
    broker.wake(desktop.pool)


# --- all at once --------------------------------------------------------------------------------------------------


@transaction.atomic
def set_maintenance(pool: Pool, *, actor: User, on: bool, request_ip: str | None = None) -> None:
    """While it lasts nobody new gets a desktop: they wait, and are told why. Who has one keeps it."""
    _operators_only(actor)
    if Pool.objects.filter(pk=pool.pk).exclude(maintenance=on).update(maintenance=on) != 1:
        return
    audit.record(actor, "pool.maintenance", pool, detail={"on": on}, request_ip=request_ip)
    pool.refresh_from_db()
    events.everyone_in(pool, _people_in(pool))
    broker.wake(pool)


@transaction.atomic
def send_message(pool: Pool, *, actor: User, text: str, request_ip: str | None = None) -> None:
    """What everybody on a desktop of it, or waiting for one, reads on their page; empty takes it away."""
    _operators_only(actor)
    text = text.strip()
    if len(text) > MOST_MESSAGE:
        raise InvalidError(_("At most %(most)s characters.") % {"most": MOST_MESSAGE}, field="message")
    values = {"message": text, "message_at": timezone.now() if text else None}
    if Pool.objects.filter(pk=pool.pk).exclude(message=text).update(**values) != 1:
        return
    audit.record(actor, "pool.message", pool, detail={"text": text}, request_ip=request_ip)
    pool.refresh_from_db()
    events.everyone_in(pool, _people_in(pool))


def sign_off_all(pool: Pool, *, actor: User, request_ip: str | None = None) -> int:
    """End every session of the pool. Returns how many."""
    _operators_only(actor)
    sessions = Session.objects.live().filter(pool=pool).select_related("pool", "desktop", "person")
    return sum(
        broker.sign_out(session, EndReason.OPERATOR, actor=actor, request_ip=request_ip) for session in list(sessions)
    )


# --- image versions -----------------------------------------------------------------------------------------------


@transaction.atomic
def recompose(
    pool: Pool,
    *,
    actor: User,
    image_version: ImageVersion,
    how: Recompose = Recompose.ROLLING,
    at: dt.datetime | None = None,
    notice: dt.timedelta = NOTICE,
    message: str = "",
    request_ip: str | None = None,
) -> None:
    """Bring the pool to another image version.

    Rolling: free desktops are made anew at once, a few at a time, those in use when they are free. At once: so too, and
    who is still on an older one after `notice` is signed out. At a time: nothing changes before `at`; then as at once,
    without more notice. `message` is what people read meanwhile.
    """
    _operators_only(actor)
    check_fits(image_version, pool.project, pool.flavour)
    at_time = how == Recompose.AT_TIME
    if at_time and (at is None or at <= timezone.now()):
        raise InvalidError(_("Choose a time to come."), field="at")
    if image_version.pk == pool.image_version_id and not at_time and pool.next_version_id is None:
        return
    values: dict[str, object] = {"recompose": how}
    if at_time:
        values |= {"next_version": image_version, "recompose_at": at}
    else:
        due = timezone.now() + notice if how == Recompose.AT_ONCE else None
        values |= {"next_version": None, "recompose_at": due, **_moved_to(pool, image_version)}
    Pool.objects.filter(pk=pool.pk).update(**values, build_after=None)
    detail = {"before": {"image": str(pool.image_version)}, "after": {"image": str(image_version), "how": str(how)}}
    audit.record(actor, "pool.recompose", pool, detail=detail, request_ip=request_ip)
    pool.refresh_from_db()
    if message:
        send_message(pool, actor=actor, text=message, request_ip=request_ip)
    events.everyone_in(pool, _people_in(pool))
    broker.wake(pool)


def _moved_to(pool: Pool, version: ImageVersion) -> dict[str, object]:
    if version.pk == pool.image_version_id:
        return {}
    return {"image_version": version, "previous_version": pool.image_version}


def back_to_previous(
    pool: Pool, *, actor: User, how: Recompose = Recompose.ROLLING, request_ip: str | None = None
) -> None:
    """To the version before, in one step; once more, and it is the newer one again."""
    _operators_only(actor)
    if pool.previous_version is None:
        raise ConflictError(_("There is no version before this one."))
    recompose(pool, actor=actor, image_version=pool.previous_version, how=how, request_ip=request_ip)


@transaction.atomic
def cancel_recompose(pool: Pool, *, actor: User, request_ip: str | None = None) -> None:
    """Nobody is signed out for a new version, and what was to come at a time does not come."""
    _operators_only(actor)
    waits = Pool.objects.filter(pk=pool.pk, recompose_at__isnull=False)
    if waits.update(recompose=Recompose.ROLLING, recompose_at=None, next_version=None) != 1:
        return
    audit.record(actor, "pool.recompose", pool, detail={"cancelled": True}, request_ip=request_ip)
    pool.refresh_from_db()
    events.everyone_in(pool, _people_in(pool))


@transaction.atomic
def recompose_due(pool: Pool) -> bool:
    """The clock's part: the time that an operator chose has come. True if the version changed now."""
    due = Pool.objects.filter(pk=pool.pk, recompose_at__lte=timezone.now(), next_version__isnull=False)
    version = pool.next_version
    if version is None or version.status != VersionStatus.READY:
        return False
    if due.update(next_version=None, **_moved_to(pool, version)) != 1:
        return False
    audit.record(None, "pool.recompose", pool, detail={"after": {"image": str(version)}, "before": {}})
    pool.refresh_from_db()
    events.everyone_in(pool, _people_in(pool))
    return True


@transaction.atomic
def delete_pool(pool: Pool, *, actor: User, request_ip: str | None = None) -> None:
    """Once nothing of it is left; an empty one of at most 0 desktops gets there. ConflictError while there is."""
    _operators_only(actor)
    if Desktop.objects.filter(pool=pool, state__in=LIVE_DESKTOP).exists():
        raise ConflictError(_("The pool has desktops. Empty it first."))
    audit.record(actor, "pool.deleted", pool, request_ip=request_ip)
    events.pool_changed(pool)
    Pool.objects.filter(pk=pool.pk).delete()


def empty_pool(pool: Pool, *, actor: User, request_ip: str | None = None) -> None:
    """Before it is deleted: it is not offered any more, everybody is signed out, and all its desktops go."""
    change_pool(pool, actor=actor, request_ip=request_ip, enabled=False, minimum=0, spare=0, maximum=0)
    set_hours(pool, actor=actor, hours=[], request_ip=request_ip)
    sign_off_all(pool, actor=actor, request_ip=request_ip)


# --- helpers ------------------------------------------------------------------------------------------------------


def _people_in(pool: Pool) -> Collection[int]:
    """Who is on a desktop of it, or waits for one."""
    on = Session.objects.live().filter(pool=pool).values_list("person_id", flat=True)
    return {*on, *Place.objects.waiting().filter(pool=pool).values_list("person_id", flat=True)}


def _operators_only(actor: User) -> None:
    if not (actor.is_active and actor.is_staff):
        raise ForbiddenError(_("Only operators may do this."))


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    if unknown := values.keys() - SETTINGS.keys():
        raise NotFoundError(", ".join(sorted(unknown)))
    values["title"] = values["title"].strip()
    if not values["title"] or len(values["title"]) > 100:
        raise InvalidError(_("Give the pool a name of at most 100 characters."), field="title")
    for field in ("minimum", "maximum", "spare"):
        _check_number(values[field], field, most=MOST_DESKTOPS)
    if values["maximum"] < max(values["minimum"], values["spare"]):
        raise InvalidError(_("The pool must be able to have as many as it is to keep ready."), field="maximum")
    _check_number(values["desktops_per_person"], "desktops_per_person", least=1, most=MOST_PER_PERSON)
    for field in ("idle_warn_s", "idle_disconnect_s", "idle_sign_out_s", "limit_s"):
        _check_number(values[field], field, most=MOST_SECONDS)
    _check_pattern(values["name_pattern"])
    if values["time_zone"] not in zoneinfo.available_timezones():
        raise InvalidError(_("There is no such time zone."), field="time_zone")
    return values


def _check_number(value: int, field: str, *, least: int = 0, most: int) -> None:
    if not least <= value <= most:
        raise InvalidError(_("From %(least)s to %(most)s.") % {"least": least, "most": most}, field=field)


def _check_pattern(pattern: str) -> None:
    if pattern.count("{n}") != 1 or len(pattern) > 50:
        raise InvalidError(_("Put {n} where the number is to be, as in lab-{n}."), field="name_pattern")
    try:
        validate_machine_name(pattern.replace("{n}", "1"))
    except ValidationError as error:
        raise InvalidError(error.messages[0], field="name_pattern") from error
