"""Reads about snapshots. Fetching and authorising are one call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Count, Prefetch, QuerySet, Sum
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in, require
from portal.errors import NotFoundError
from portal.machines.models import Attachment, Machine
from portal.machines.states import CAN_HIBERNATE, IS_KNOWN, Status
from portal.machines.states import Task as MachineTask
from portal.snapshots.models import Snapshot, SnapshotSchedule, SnapshotVolume
from portal.snapshots.states import Status as SnapshotStatus
from portal.snapshots.states import Task
from portal.volumes.states import Status as VolumeStatus

_RELATED = ("machine__project", "machine__host", "schedule", "created_by", "flavour")


def snapshot_for(
    user: User | AnonymousUser, pk: UUID | str, permission: Permission = Permission.MACHINE_VIEW
) -> Snapshot:
    """The snapshot, if `user` holds `permission`. NotFoundError if unseen or deleted, ForbiddenError if only seen."""
    snapshot = Snapshot.objects.visible_to(user).live().select_related(*_RELATED).filter(pk=pk).first()
    if snapshot is None:
        raise NotFoundError
    require(user, snapshot.machine.project_id, permission)
    return snapshot


def snapshots_of(machine: Machine) -> QuerySet[Snapshot]:
    """Newest first, with their volumes: two queries."""
    volumes = Prefetch("volumes", SnapshotVolume.objects.select_related("volume"))
    return Snapshot.objects.live().filter(machine=machine).select_related(*_RELATED).prefetch_related(volumes)


def schedules_of(machine: Machine) -> list[SnapshotSchedule]:
    """The most frequent first."""
    order = {"hour": 0, "day": 1, "week": 2}
    found = SnapshotSchedule.objects.filter(machine=machine).select_related("created_by")
    return sorted(found, key=lambda schedule: order[schedule.every])


@dataclass(frozen=True, slots=True)
class Branch:
    """A snapshot in the tree, with how deep it stands there. `on_the_way` are those that the machine came through.

    `begins` a way of its own, beside the one that went on; `goes_on` if others came after it.
    """

    snapshot: Snapshot
    depth: int
    begins: bool
    goes_on: bool
    on_the_way: bool
    may_be_deleted: bool
    may_be_restored: bool

    @property
    def is_here(self) -> bool:
        return self.snapshot.is_current

    @property
    def shown_depth(self) -> int:
        """Deeper than this there is no room to step in."""
        return min(self.depth, MOST_STEPS)

    @property
    def shown_here_depth(self) -> int:
        return min(self.depth + self.goes_on, MOST_STEPS)

    @property
    def steps_in(self) -> bool:
        return self.begins and self.depth <= MOST_STEPS


MOST_STEPS = 4


def tree_of(machine: Machine, granted: frozenset[Permission]) -> list[Branch]:
    """Every snapshot under the one that it came after, the oldest first.

    A line that goes on straight stays in its column: only where the machine went back and went another way does a
    branch step in, so that a year of daily snapshots is a list and no staircase.
    """
    snapshots = sorted(snapshots_of(machine), key=lambda one: (one.created_at, one.pk))
    known = {one.pk for one in snapshots}
    children: dict[UUID | None, list[Snapshot]] = defaultdict(list)
    for one in snapshots:
        children[one.parent_id if one.parent_id in known else None].append(one)
    way = _way_of(snapshots)
    free = _is_free(machine)
    may_delete = free and Permission.MACHINE_DELETE in granted
    may_restore = free and machine.missing_since is None and Permission.MACHINE_OPERATE in granted

    def line(one: Snapshot, depth: int, *, begins: bool) -> Branch:
        idle = one.status == SnapshotStatus.READY and one.task == Task.NONE
        goes_on, on_the_way = bool(children[one.pk]), one.pk in way
        return Branch(one, depth, begins, goes_on, on_the_way, idle and may_delete, idle and may_restore)

    return [line(one, depth, begins=begins) for one, depth, begins in _walk(children, None, 0)]


def _is_free(machine: Machine) -> bool:
    ready = machine.status == Status.READY and not machine.is_in_rescue
    return ready and machine.task == MachineTask.NONE and machine.power_state in IS_KNOWN


def _walk(
    children: dict[UUID | None, list[Snapshot]], parent: UUID | None, depth: int
) -> Iterator[tuple[Snapshot, int, bool]]:
    """Side branches first, one step in; the newest one goes on below, in its parent's column. Without recursion along
    a line: it may be long.
    """
    while children[parent]:
        *sides, straight = children[parent]
        for side in sides:
            yield side, depth + 1, True
            yield from _walk(children, side.pk, depth + 1)
        yield straight, depth, False
        parent = straight.pk


def _way_of(snapshots: list[Snapshot]) -> set[UUID]:
    parents = {one.pk: one.parent_id for one in snapshots}
    at = next((one.pk for one in snapshots if one.is_current), None)
    way: set[UUID] = set()
    while at is not None and at not in way:
        way.add(at)
        at = parents.get(at)
    return way


@dataclass(frozen=True, slots=True)
class Loss:
    """What restoring a snapshot means, in sentences; `refusal` is why it cannot be done, or empty."""

    sentences: tuple[str, ...]
    refusal: str
    can_be_taken_first: bool


def loss_of(snapshot: Snapshot) -> Loss:
    """What is said before somebody restores it."""
    machine = snapshot.machine
    then = {one.volume_id: one for one in snapshot.volumes.select_related("volume__attachment__machine")}
    attached = Attachment.objects.filter(machine=machine, volume__isnull=False).select_related("volume")
    now = {one.volume_id: one.volume for one in attached}
    later = sorted(str(volume) for pk, volume in now.items() if pk not in then)
    back = sorted(str(one.volume) for pk, one in then.items() if pk not in now)
    sentences = [*_power_words(snapshot), *_volume_words(later, back), *_size_words(snapshot)]
    refusal = next((words for one in then.values() if (words := _why_away(one, machine))), "")
    return Loss(tuple(sentences), refusal, can_be_taken_first=not machine.is_hibernated)


def _power_words(snapshot: Snapshot) -> list[str]:
    machine = snapshot.machine
    words = [_("Everything that was written to its disks since then is lost.")]
    if machine.is_hibernated:
        words.append(_("Its saved memory is forgotten."))
    elif machine.power_state in CAN_HIBERNATE:
        words.append(_("Its power is cut first: what runs in it is lost."))
    if snapshot.with_memory:
        words.append(_("It then goes on from where it was: with the programs that ran, and its screen as it was."))
    else:
        words.append(_("It is off then. Start it when it suits you."))
    return words


def _volume_words(later: list[str], back: list[str]) -> list[str]:
    words = []
    if later:
        words.append(
            ngettext(
                "The volume %(names)s was attached later: it is detached and keeps its data.",
                "The volumes %(names)s were attached later: they are detached and keep their data.",
                len(later),
            )
            % {"names": ", ".join(later)}
        )
    if back:
        words.append(
            ngettext(
                "The volume %(names)s is attached again, as it was then.",
                "The volumes %(names)s are attached again, as they were then.",
                len(back),
            )
            % {"names": ", ".join(back)}
        )
    return words


def _size_words(snapshot: Snapshot) -> list[str]:
    machine = snapshot.machine
    then = (snapshot.vcpus, snapshot.memory_mib, snapshot.disk_gib)
    now = (
        machine.wanted_vcpus or machine.vcpus,
        machine.wanted_memory_mib or machine.memory_mib,
        machine.disk_gib,
    )
    if then == now:
        return []
    values = {"vcpus": then[0], "memory": then[1], "disk": then[2]}
    return [
        _("It has its size of then: %(vcpus)s vCPU, %(memory)s MiB of memory and a root disk of %(disk)s GiB.") % values
    ]


def _why_away(one: SnapshotVolume, machine: Machine) -> str:
    holder = getattr(one.volume, "attachment", None)
    if one.volume.status in {VolumeStatus.DELETED, VolumeStatus.ERROR}:
        return _("The volume %(volume)s of this snapshot has been deleted, so it cannot be restored.") % {
            "volume": one.volume.name
        }
    if holder is not None and holder.machine_id != machine.pk:
        return _("The volume %(volume)s of this snapshot is with %(machine)s by now. Detach it there first.") % {
            "volume": one.volume.name,
            "machine": holder.machine.name,
        }
    return ""


def may_take(user: User | AnonymousUser, machine: Machine) -> bool:
    still = not machine.is_hibernated and machine.missing_since is None and not machine.keeps_definition
    return _is_free(machine) and still and Permission.MACHINE_OPERATE in permissions_in(user, machine.project_id)


@dataclass(frozen=True, slots=True)
class Counted:
    """What the memory of a project's snapshots takes of its quota together."""

    number: int
    gib: int


def snapshots_counted_in(project: Project) -> Counted:
    held = Snapshot.objects.filter(machine__project=project, held_gib__gt=0)
    sums = held.aggregate(number=Count("pk"), gib=Sum("held_gib"))
    return Counted(sums["number"], sums["gib"] or 0)
