"""Keeps a pool as it is to be: so many free ones, no more than the most, each of the pool's version, none that failed.

`tend` looks at what is there and takes the next step of whatever is to be done; it is killed at any line and called
again. It asks by counts and by what differs, so that its cost follows what changed and not how large the pool is. The
machines themselves are built and removed by their own jobs.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import BooleanField, Count, Exists, ExpressionWrapper, F, Max, Min, OuterRef, Q, QuerySet
from django.utils import timezone

from portal.accounts.models import User
from portal.errors import ConflictError, NotFoundError, PortalError
from portal.hosts.models import Host
from portal.jobs.names import JobName
from portal.lib import prepared
from portal.machines import services as machines
from portal.machines.launch import login_user_for
from portal.machines.models import Machine
from portal.machines.states import CAN_START, KEPT, PowerState, Status, Task
from portal.parents import services as parents
from portal.parents.selectors import Size, is_coming
from portal.pools import broker, events, files, services
from portal.pools.entitlement import people_entitled
from portal.pools.hours import spare_at
from portal.pools.models import Desktop, Place, Pool, Session
from portal.pools.querysets import SEEN_FOR
from portal.pools.states import LIVE_DESKTOP, DesktopState, EndReason, PoolKind, Recompose

logger = logging.getLogger(__name__)

TENDED_FOR: Final = dt.timedelta(seconds=30)
# So much is begun in one look; the next one comes in a moment.
AT_ONCE: Final = 50
# Together in one transaction, which others wait for.
BATCH: Final = 10
# From when the first of them came; so long at most they keep others' desktops from being built.
PEOPLE_COME_IN: Final = dt.timedelta(seconds=10)
# For so long at most a large pool's used desktops wait for more of them.
GATHERED_FOR: Final = dt.timedelta(seconds=10)
NEXT_BUILD: Final = dt.timedelta(seconds=20)
FIRST_RETRY: Final = dt.timedelta(seconds=15)
LAST_RETRY: Final = dt.timedelta(hours=1)
# A host that does not answer for so long takes its floating desktops' people with it: they get others.
SILENT_FOR: Final = dt.timedelta(minutes=2)
# As whom one works on a desktop that is made before anybody has it.
LOGIN_USER: Final = "user"
NUMBERS_TRIED: Final = 20
WANTED_EVERY: Final = dt.timedelta(seconds=60)
# Files are closed in the guest before it goes. One that does not let them go is not waited for any longer than this:
# its end frees them too.
FILES_MAY_TAKE: Final = dt.timedelta(minutes=3)


def tend(pool_id: UUID) -> None:
    """One look at the pool; nothing if somebody else is just at it."""
    now = timezone.now()
    free = Q(tended_until=None) | Q(tended_until__lt=now) | Q(tended_until__gt=now + 2 * TENDED_FOR)
    until = now + TENDED_FOR
    if Pool.objects.filter(free, pk=pool_id).update(tended_until=until) != 1:
        return
    try:
        pool = Pool.objects.select_related("project", "image_version__image", "next_version", "flavour").get(pk=pool_id)
        _tend(pool)
    finally:
        Pool.objects.filter(pk=pool_id, tended_until=until).update(tended_until=None)


def _tend(pool: Pool) -> None:
    if pool.next_version_id is not None:
        services.recompose_due(pool)
    if _first_lost(pool.pk, timezone.now() - SEEN_FOR):
        broker.drop_lost(pool)
    # A quiet pool is looked at every few seconds: what cannot be is not looked for, and nothing is written.
    before = _census(pool)
    changed = _follow(pool, before)
    if pool.kind == PoolKind.NAMED:
        changed |= _give_names(pool)
    _want_parents(pool)
    together = _fill(pool, _census(pool) if changed else before)
    files.tend(pool)
    _remove_machines(pool, together=together)
    broker.serve(pool)


@prepared.rows
def _first_lost(pool: UUID, seen_until: dt.datetime) -> QuerySet[Place, UUID]:
    return Place.objects.lost(seen_until=seen_until).filter(pool=pool).order_by().values_list("pk", flat=True)[:1]


def _follow(pool: Pool, census: _Census) -> bool:
    """Desktops become what their machines have become, and what the pool's version asks for. False if none did."""
    there, changed = census.states, False
    if DesktopState.BUILDING in there:
        changed |= _find_built(pool) > 0
        changed |= _find_lost_builds(pool)
    if DesktopState.FAILED in there:
        changed |= _try_again(pool)
    if there & {DesktopState.SPARE, DesktopState.TAKEN}:
        changed |= _find_dead(pool)
    if DesktopState.TAKEN in there:
        changed |= _find_left(pool)
    if census.of_other_versions or pool.recompose_at is not None:
        changed |= _renew(pool)
    return changed


# --- what came of what was begun ----------------------------------------------------------------------------------


def machine_ready(machine: Machine) -> None:
    """Its building has just ended: the desktop is there, and somebody may be waiting for it."""
    desktop = Desktop.objects.filter(machine=machine.pk, state=DesktopState.BUILDING).select_related("pool").first()
    if desktop is not None and _find_built(desktop.pool):
        transaction.on_commit(lambda: broker.serve(desktop.pool))


def machine_over(machine: Machine) -> None:
    """Its removal, or its building that failed, has just ended: what comes next is done now."""
    desktop = Desktop.objects.filter(machine=machine.pk).select_related("pool").first()
    if desktop is not None:
        broker.wake(desktop.pool)


def _find_built(pool: Pool) -> int:
    built = _in(pool.pk, DesktopState.BUILDING).filter(machine__status=Status.READY, machine__task=Task.NONE)
    free: dict[str, object] = {"state": DesktopState.SPARE, "state_since": timezone.now(), "error": "", "tries": 0}
    found = _in(pool.pk, DesktopState.BUILDING).filter(pk__in=built.values("pk")).update(**free, retry_at=None)
    if found:
        events.pool_changed(pool)
    return found


def _find_lost_builds(pool: Pool) -> bool:
    """A build that came to nothing is tried again, later each time."""
    found = _with_machines(_lost_builds(pool.pk))
    for desktop in found:
        message = desktop.machine.error_message if desktop.machine is not None else ""
        _failed(desktop, message or str(_GONE))
    return bool(found)


@prepared.rows
def _lost_builds(pool: UUID) -> QuerySet[Desktop, UUID]:
    over = Q(machine=None) | ~Q(machine__status__in=[Status.REQUESTED, Status.BUILDING, Status.READY])
    return _in(pool, DesktopState.BUILDING).filter(over).order_by().values_list("pk", flat=True)[:AT_ONCE]


def _with_machines(keys: list[UUID]) -> list[Desktop]:
    """And with their pool. Mostly there is none, which is asked without their hundred columns."""
    return list(Desktop.objects.filter(pk__in=keys).select_related("machine", "pool")) if keys else []


def _try_again(pool: Pool) -> bool:
    due = _in(pool.pk, DesktopState.FAILED).filter(Q(retry_at=None) | Q(retry_at__lte=timezone.now()))
    return _changed(pool, due.update(state=DesktopState.RECYCLING, state_since=timezone.now()))


def _changed(pool: Pool, rows: int) -> bool:
    """Whoever looks at the pool hears of it."""
    if rows:
        events.pool_changed(pool)
    return rows > 0


_GONE = "Its machine was removed while it was being built."


@transaction.atomic
def _failed(desktop: Desktop, message: str) -> None:
    now = timezone.now()
    wait = min(FIRST_RETRY * 2 ** min(desktop.tries, 10), LAST_RETRY)
    rows = Desktop.objects.filter(pk=desktop.pk, state__in=[DesktopState.BUILDING, DesktopState.RECYCLING])
    values = {"state": DesktopState.FAILED, "state_since": now, "error": message, "retry_at": now + wait}
    if rows.update(**values, tries=F("tries") + 1):
        events.record_failed(desktop, error=message)
        events.pool_changed(desktop.pool)


def _find_dead(pool: Pool) -> bool:
    """Desktops whose machine is off, gone, or on a host that has been silent for long."""
    keys = _dead(pool.pk)
    if pool.kind == PoolKind.FLOATING:
        keys += _silent(pool.pk, timezone.now() - SILENT_FOR)
    found = _with_machines(keys[:AT_ONCE])
    for desktop in found:
        _bury(desktop)
    return bool(found)


@prepared.rows
def _dead(pool: UUID) -> QuerySet[Desktop, UUID]:
    off = Q(machine__power_state=PowerState.SHUT_OFF, machine__task=Task.NONE)
    gone = Q(machine=None) | ~Q(machine__status=Status.READY) | Q(machine__missing_since__isnull=False)
    deleting = Q(machine__task__in=[Task.DELETING, Task.BINNING])
    return _there(pool).filter(gone | deleting | off).order_by().values_list("pk", flat=True)[:AT_ONCE]


@prepared.rows
def _silent(pool: UUID, since: dt.datetime) -> QuerySet[Desktop, UUID]:
    silent = Q(machine__power_state=PowerState.UNKNOWN, machine__power_state_at__lt=since)
    return _there(pool).filter(silent).order_by().values_list("pk", flat=True)[:AT_ONCE]


def _there(pool: UUID) -> QuerySet[Desktop]:
    return Desktop.objects.filter(pool=pool, state__in=[DesktopState.SPARE, DesktopState.TAKEN])


def _find_left(pool: Pool) -> bool:
    """Desktops of people who were deleted with all that is theirs: nobody is on them any more."""
    if not _left(pool.pk):
        return False
    state = DesktopState.RECYCLING if pool.kind == PoolKind.FLOATING else DesktopState.SPARE
    rows = _in(pool.pk, DesktopState.TAKEN).filter(pk__in=_nobody_on(pool.pk).values("pk"))
    return _changed(pool, rows.update(state=state, person=None, state_since=timezone.now()))


@prepared.rows
def _left(pool: UUID) -> QuerySet[Desktop, UUID]:
    """One of them, if there is any: mostly there is none, and nothing is locked to find that out."""
    return _nobody_on(pool).order_by().values_list("pk", flat=True)[:1]


def _nobody_on(pool: UUID) -> QuerySet[Desktop]:
    live = Session.objects.live().filter(desktop=OuterRef("pk"))
    return _in(pool, DesktopState.TAKEN).filter(~Exists(live))


def _bury(desktop: Desktop) -> None:
    machine = desktop.machine
    is_whole = machine is not None and machine.status == Status.READY and machine.missing_since is None
    is_off = is_whole and machine is not None and machine.power_state == PowerState.SHUT_OFF
    reason = EndReason.SHUT_DOWN if is_off and not _is_going(machine) else EndReason.MACHINE_DIED
    for session in Session.objects.live().filter(desktop=desktop).select_related("pool", "desktop__pool", "person"):
        broker.sign_out(session, reason)
    if is_off and machine is not None and desktop.pool.kind != PoolKind.FLOATING and not _is_going(machine):
        _start(machine)
        return
    rows = Desktop.objects.filter(pk=desktop.pk, state=DesktopState.SPARE)
    if rows.update(state=DesktopState.RECYCLING, state_since=timezone.now()):
        events.pool_changed(desktop.pool)


def _is_going(machine: Machine | None) -> bool:
    return machine is None or machine.task in {Task.DELETING, Task.BINNING}


def _start(machine: Machine) -> None:
    """A person's own desktop is switched on again, so that it is there when they come."""
    try:
        machines.claim(machine, JobName.MACHINE_START, Task.STARTING, CAN_START, actor=None, request_ip=None)
    except PortalError as error:
        logger.info("machine %s is not started for its pool: %s", machine.pk, error)


# --- other versions -----------------------------------------------------------------------------------------------


def _renew(pool: Pool) -> bool:
    """Free desktops of another version are made new: a few at a time, or all where that is to be at once. False if none
    was, and nobody was signed out.
    """
    old = Desktop.objects.filter(pool=pool).exclude(image_version=pool.image_version_id)
    if not old.filter(state__in=[DesktopState.SPARE, DesktopState.TAKEN]).exists():
        if pool.recompose_at is not None and pool.next_version_id is None:
            Pool.objects.filter(pk=pool.pk, next_version=None).update(recompose_at=None, recompose=Recompose.ROLLING)
        return False
    is_due = pool.recompose_at is not None and pool.recompose_at <= timezone.now() and pool.next_version_id is None
    spares = list(old.filter(state=DesktopState.SPARE).order_by("number").values_list("pk", flat=True)[:AT_ONCE])
    if not is_due:
        on_the_way = Desktop.objects.filter(
            pool=pool, state__in=[DesktopState.BUILDING, DesktopState.RECYCLING, DesktopState.FAILED]
        ).count()
        there = Desktop.objects.filter(pool=pool, state=DesktopState.SPARE).count()
        spares = spares[: max((there + on_the_way) // 2, 1) - on_the_way] if on_the_way < max(there, 1) else []
    now = timezone.now()
    rows = Desktop.objects.filter(pk__in=spares, state=DesktopState.SPARE)
    changed = bool(spares) and _changed(pool, rows.update(state=DesktopState.RECYCLING, state_since=now))
    if is_due:
        on_old = Session.objects.live().filter(desktop__in=old.values("pk"))
        for session in on_old.select_related("pool", "desktop__pool", "person")[:AT_ONCE]:
            changed |= broker.sign_out(session, EndReason.RECOMPOSED)
    return changed


# --- how many -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Census:
    """How many there are. Those that belong to a person count apart: they are nobody else's, and always come back."""

    owned: int
    taken: int
    spare: int
    building: int
    recycling: int
    failed: int
    # Of all of them.
    of_other_versions: int
    states: frozenset[str]

    @property
    def total(self) -> int:
        return self.owned + self.taken + self.spare + self.building + self.recycling + self.failed


def _census(pool: Pool) -> _Census:
    """One query."""
    free = dict.fromkeys(map(str, LIVE_DESKTOP), 0)
    owned = others = 0
    states = set()
    for state, version, is_nobodys, number in _numbers(pool.pk):
        states.add(state)
        if version != pool.image_version_id:
            others += number
        if is_nobodys or state == DesktopState.TAKEN:
            free[state] += number
        else:
            owned += number
    return _Census(
        owned, free["taken"], free["spare"], free["building"], free["recycling"], free["failed"],
        of_other_versions=others, states=frozenset(states),
    )  # fmt: skip


@prepared.rows
def _numbers(pool: UUID) -> QuerySet[Desktop, tuple[str, UUID, bool, int]]:
    live = Desktop.objects.filter(pool=pool, state__in=LIVE_DESKTOP).order_by()
    nobodys = ExpressionWrapper(Q(person=None), output_field=BooleanField())
    return live.values_list("state", "image_version", nobodys).annotate(number=Count("pk"))


def _fill(pool: Pool, census: _Census) -> int:
    """Build what is missing, and let go what is too much. Returns how many used ones are to be made new together: it
    costs less than each by itself, and of a large pool's free ones some may be missing for a moment.
    """
    free_wanted = waiting = 0
    if pool.kind != PoolKind.NAMED:
        waiting = len(_waiting(pool.pk, timezone.now() - SEEN_FOR))
        free_wanted = spare_at(pool, timezone.now()) + waiting
    in_use = census.taken + census.owned
    most_free = max(pool.maximum - in_use, 0)
    wanted = min(max(pool.minimum - in_use, free_wanted), most_free)
    missing = wanted - census.spare - census.building
    together = 1 if waiting or census.spare < wanted // 2 else wanted // 20
    if missing > 0 and not waiting and _people_come_in(pool):
        return together
    again = _emptied(pool, max(missing, 0))
    new = min(missing - census.recycling - census.failed, pool.maximum - census.total, AT_ONCE - len(again))
    if new > 0 and is_coming(pool.image_version, size_of(pool)):
        # Booted side by side they would all be later than those that are forked from it. Who waits is not kept waiting.
        new = min(new, max(waiting - census.building, 0))
    orders = [*again, *_new_desktops(pool, new)]
    for start in range(0, len(orders), BATCH):
        if not _may_build(pool):
            break
        _build_batch(pool, orders[start : start + BATCH])
    if missing < 0:
        _let_go(pool, -missing)
    return together


@prepared.rows
def _waiting(pool: UUID, seen_after: dt.datetime) -> QuerySet[Place, UUID]:
    return Place.objects.waiting(seen_after=seen_after).filter(pool=pool).order_by().values_list("pk", flat=True)


def _people_come_in(pool: Pool) -> bool:
    """Whether those who have just come still wait for their first picture: what is built meanwhile makes that later.

    Where people come all the time nothing waits: the first of them came too long ago.
    """
    now = timezone.now()
    came = Session.objects.live().filter(pool=pool, started_at__gt=now - 2 * PEOPLE_COME_IN)
    seen = came.aggregate(first=Min("started_at"), waiting=Count("pk", filter=Q(on_screen_at=None)))
    return bool(seen["waiting"]) and seen["first"] > now - PEOPLE_COME_IN


def _emptied(pool: Pool, wanted: int) -> list[Desktop]:
    """Desktops whose old machine is gone and that get a new one: as many as are wanted, and all that are somebody's.

    Of the others the numbers are free again.
    """
    bare = list(Desktop.objects.filter(pk__in=keys).order_by("number")) if (keys := _bare(pool.pk)) else []
    theirs = [desktop for desktop in bare if desktop.person_id is not None]
    free = [desktop for desktop in bare if desktop.person_id is None]
    _retire(pool, free[wanted:])
    return [*theirs, *free[:wanted]]


@prepared.rows
def _bare(pool: UUID) -> QuerySet[Desktop, UUID]:
    gone = Q(machine=None) | Q(machine__status=Status.DELETED)
    return _in(pool, DesktopState.RECYCLING).filter(gone).order_by("number").values_list("pk", flat=True)[:AT_ONCE]


def _new_desktops(pool: Pool, number: int) -> list[Desktop]:
    """Not saved yet."""
    if number <= 0:
        return []
    return [_new_desktop(pool, free) for free in islice(_free_numbers(pool), number)]


def _new_desktop(pool: Pool, number: int, person: User | None = None) -> Desktop:
    return Desktop(
        pool=pool,
        number=number,
        person=person,
        image_version=pool.image_version,
        state=DesktopState.BUILDING,
        state_since=timezone.now(),
    )


def _retire(pool: Pool, desktops: list[Desktop]) -> None:
    rows = _in(pool.pk, DesktopState.RECYCLING).filter(pk__in=[desktop.pk for desktop in desktops], person=None)
    if desktops and rows.update(state=DesktopState.RETIRED, state_since=timezone.now(), error=""):
        events.pool_changed(pool)


def _free_numbers(pool: Pool) -> Iterator[int]:
    """The lowest first, without end."""
    live = Desktop.objects.filter(pool=pool, state__in=LIVE_DESKTOP)
    known = live.aggregate(known=Count("pk"), highest=Max("number"))
    if (known["highest"] or 0) == known["known"]:
        return count(known["known"] + 1)
    taken = set(live.values_list("number", flat=True))
    return (number for number in count(1) if number not in taken)


def _let_go(pool: Pool, number: int) -> None:
    """The highest numbers first."""
    spare = _in(pool.pk, DesktopState.SPARE).filter(person=None).order_by("-number")
    surplus = list(spare.values_list("pk", flat=True)[: min(number, AT_ONCE)])
    rows = Desktop.objects.filter(pk__in=surplus, state=DesktopState.SPARE, person=None)
    if rows.update(state=DesktopState.RECYCLING, state_since=timezone.now()):
        events.pool_changed(pool)


def _give_names(pool: Pool) -> bool:
    """Of a named pool everybody who is entitled has one, and nobody else; the most are those who came first."""
    people = list(people_entitled(pool)[: pool.maximum])
    there = Desktop.objects.filter(pool=pool, state__in=LIVE_DESKTOP)
    have = set(there.exclude(person=None).values_list("person_id", flat=True))
    strangers = there.filter(state=DesktopState.SPARE).exclude(person__in=[person.pk for person in people])
    left = strangers.update(state=DesktopState.RECYCLING, person=None, state_since=timezone.now())
    room = min(pool.maximum - there.count(), AT_ONCE)
    lacking = [person for person in people if person.pk not in have][: max(room, 0)]
    numbers = _free_numbers(pool)
    orders = [_new_desktop(pool, next(numbers), person) for person in lacking]
    for start in range(0, len(orders), BATCH):
        if _may_build(pool):
            _build_batch(pool, orders[start : start + BATCH])
    return _changed(pool, left) or bool(orders)


# --- machines -----------------------------------------------------------------------------------------------------


def _may_build(pool: Pool) -> bool:
    return pool.build_after is None or pool.build_after <= timezone.now()


def _build_batch(pool: Pool, desktops: list[Desktop]) -> None:
    """A machine for each, together; or, where that does not work, one after the other as far as it goes."""
    try:
        with transaction.atomic():
            made = machines.make_many(
                pool.project,
                [_called(pool, desktop) for desktop in desktops],
                image_version=pool.image_version,
                flavour=pool.flavour,
            )
            _put_in(pool, desktops, made)
    except (PortalError, IntegrityError, _Changed) as error:
        logger.info("pool %s: %s desktops are not built together: %s", pool.name, len(desktops), error)
        for desktop in desktops:
            if not _may_build(pool):
                return
            if desktop._state.adding:
                _build_new(pool, desktop)
            else:
                _build(pool, desktop)
        return
    _built_something(pool)


class _Changed(Exception):
    """Somebody changed a desktop that was just to get its machine."""


def _put_in(pool: Pool, desktops: list[Desktop], made: list[Machine]) -> None:
    """The desktops' rows, with their machines."""
    there = [desktop for desktop in desktops if not desktop._state.adding]
    keys = [desktop.pk for desktop in there]
    if len(_in(pool.pk, DesktopState.RECYCLING).filter(pk__in=keys).select_for_update(of=("self",))) != len(there):
        raise _Changed
    now = timezone.now()
    for desktop, machine in zip(desktops, made, strict=True):
        desktop.machine, desktop.image_version = machine, pool.image_version
        desktop.state, desktop.state_since, desktop.error = DesktopState.BUILDING, now, ""
    Desktop.objects.bulk_update(there, ["machine", "image_version", "state", "state_since", "error"])
    new = [desktop for desktop in desktops if desktop._state.adding]
    Desktop.objects.bulk_create([_copy_of(desktop) for desktop in new])


def _copy_of(desktop: Desktop) -> Desktop:
    """What is saved: the original is tried again when the batch comes to nothing."""
    copy = _new_desktop(desktop.pool, desktop.number, desktop.person)
    copy.machine = desktop.machine
    return copy


def _called(pool: Pool, desktop: Desktop) -> tuple[str, str]:
    """Its machine's name, and as whom one works on it."""
    return pool.name_of(desktop.number), login_user_for(desktop.person) if desktop.person is not None else LOGIN_USER


def _build_new(pool: Pool, desktop: Desktop) -> None:
    """A desktop with a machine that is being built, of the first number from its own on whose name is free."""
    for number in islice((number for number in _free_numbers(pool) if number >= desktop.number), NUMBERS_TRIED):
        fresh = _new_desktop(pool, number, desktop.person)
        try:
            with transaction.atomic():
                fresh.machine = _make(pool, fresh)
                fresh.save(force_insert=True)
        except ConflictError as error:
            # A machine of somebody's has this name: the next number may be free.
            logger.info("pool %s: no desktop %s: %s", pool.name, number, error)
        except PortalError as error:
            _cannot_build(pool, error)
            return
        else:
            _built_something(pool)
            return


def _build(pool: Pool, desktop: Desktop) -> bool:
    """A new machine in the old one's place. False if none can be built now."""
    try:
        with transaction.atomic():
            values = {"state": DesktopState.BUILDING, "image_version": pool.image_version, "error": ""}
            rows = Desktop.objects.filter(pk=desktop.pk, state=DesktopState.RECYCLING)
            if rows.update(**values, state_since=timezone.now()) != 1:
                return True
            desktop.pool = pool
            Desktop.objects.filter(pk=desktop.pk).update(machine=_make(pool, desktop))
    except ConflictError as error:
        _failed(desktop, str(error.message))
        return True
    except PortalError as error:
        _cannot_build(pool, error)
        return False
    _built_something(pool)
    return True


def _want_parents(pool: Pool) -> None:
    """On the hosts that have its machines, something to fork from is kept ready: to be said again and again.

    Where the first one will be is known before if there is one host only.
    """
    now, last = timezone.now(), pool.forks_wanted_at
    if last is not None and now - WANTED_EVERY < last <= now:
        return
    there = Machine.objects.filter(desktop__pool=pool, status=Status.READY).order_by().values("host")
    enabled = Host.objects.filter(enabled=True)
    hosts = list(enabled.filter(pk__in=there))
    if not hosts and len(every := enabled[:2]) == 1:
        hosts = list(every)
    if not hosts or Pool.objects.filter(pk=pool.pk, forks_wanted_at=last).update(forks_wanted_at=now) != 1:
        return
    for host in hosts:
        parents.want(pool.image_version, host, **size_of(pool).columns)


def size_of(pool: Pool) -> Size:
    return Size(pool.flavour.vcpus, pool.flavour.memory_mib, pool.flavour.disk_gib)


def _built_something(pool: Pool) -> None:
    if pool.problem:
        Pool.objects.filter(pk=pool.pk).update(problem="")
        pool.problem = ""
    events.pool_changed(pool)


def _make(pool: Pool, desktop: Desktop) -> Machine:
    """From a running one where the host has it, else by a cold boot: the machine's own job sees to that."""
    name, login_user = _called(pool, desktop)
    return machines.make_machine(
        pool.project,
        actor=None,
        image_version=pool.image_version,
        flavour=pool.flavour,
        name=name,
        login_user=login_user,
    )


def _cannot_build(pool: Pool, error: PortalError) -> None:
    """There is no room, or the image is gone: operators read why, and it is tried again in a while."""
    pool.build_after = timezone.now() + NEXT_BUILD
    pool.problem = str(error.message)
    Pool.objects.filter(pk=pool.pk).update(build_after=pool.build_after, problem=pool.problem)
    events.pool_changed(pool)
    logger.warning("pool %s cannot build: %s", pool.name, error)


def _remove_machines(pool: Pool, *, together: int) -> None:
    """Of desktops that are made new, or go; so many together, or what has waited for GATHERED_FOR."""
    now = timezone.now()
    found = _to_remove(pool.pk, now - FILES_MAY_TAKE)
    if not found or (len(found) < together and min(since for _key, since in found) > now - GATHERED_FOR):
        return
    for start in range(0, len(found), BATCH):
        keys = [key for key, _since in found[start : start + BATCH]]
        batch = list(Machine.objects.filter(pk__in=keys).select_related("host", "project"))
        gone = {machine.pk for machine in machines.delete_many(pool.project, batch)}
        kept = _in(pool.pk, DesktopState.RECYCLING).filter(machine__in=set(keys) - gone)
        for desktop in _with_machines(list(kept.values_list("pk", flat=True))):
            if desktop.machine is not None:
                _remove(desktop, desktop.machine)


@prepared.rows
def _to_remove(pool: UUID, waited_out: dt.datetime) -> QuerySet[Desktop, tuple[UUID, dt.datetime]]:
    """Their machines, and since when."""
    there = _in(pool, DesktopState.RECYCLING).filter(machine__status__in=KEPT).exclude(machine__task=Task.DELETING)
    there = there.filter(Q(state_since__lt=waited_out) | ~files.still_has_files()).order_by("number")
    return there.values_list("machine", "state_since")[:AT_ONCE]


def _remove(desktop: Desktop, machine: Machine) -> None:
    """One by itself, to hear why not."""
    try:
        machines.delete_for_good(machine, actor=None)
    except NotFoundError:
        return  # Somebody else has just removed it.
    except PortalError as error:
        _failed(desktop, str(error.message))


def _in(pool: UUID, state: DesktopState) -> QuerySet[Desktop]:
    return Desktop.objects.filter(pool=pool, state=state)
