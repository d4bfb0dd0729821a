"""Snapshots of machines: taken, restored, deleted; and schedules, which take them by themselves."""

import datetime as dt
from collections.abc import Iterable
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from django.http import HttpRequest
from ninja import Query
from pydantic import BaseModel, Field

from portal.accounts.http import client_ip, person
from portal.accounts.permissions import Permission
from portal.api.core import Guard, operation
from portal.api.operations.machines import GUARD as MACHINE
from portal.api.paging import Listed, PageQuery, page_of
from portal.api.schemas import Input, JobOut, Named, Text, spelled_out
from portal.jobs.models import Job
from portal.machines.selectors import machine_for
from portal.snapshots import restoring, schedules, services
from portal.snapshots.models import MOST_KEPT, Snapshot, SnapshotSchedule
from portal.snapshots.selectors import Loss, loss_of, schedules_of, snapshot_for, snapshots_of
from portal.snapshots.states import Every, Status

TAG: Final = "Snapshots"
JOB: Final = {"show_job": {"pk": "id"}}
SnapshotStatus = Annotated[Status, spelled_out(Status)]
Often = Annotated[Every, spelled_out(Every)]
Sort = Literal["-created_at", "created_at", "name", "-name"]


class SnapshotOut(BaseModel):
    """A machine as it was. `parent` is the snapshot that it had been at when this was taken; `is_current` is where the
    machine is now, and what it has done since is in none."""

    id: UUID
    name: str
    description: str
    machine: Named
    parent: UUID | None
    is_current: bool
    with_memory: bool
    memory_bytes: int
    quiesced: bool | None = Field(description="The guest's file systems were still; null before it is taken.")
    vcpus: int
    memory_mib: int
    disk_gib: int
    volumes: list[Named] = Field(description="Those that are in it, besides the root disk.")
    status: SnapshotStatus
    task: str | None
    schedule: Often | None = Field(description="It was taken by this schedule, which deletes it when it is too many.")
    created_by: str | None
    created_at: dt.datetime
    taken_at: dt.datetime | None

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        return cls(
            id=snapshot.pk,
            name=snapshot.name,
            description=snapshot.description,
            machine=Named(id=snapshot.machine_id, name=snapshot.machine.name),
            parent=snapshot.parent_id,
            is_current=snapshot.is_current,
            with_memory=snapshot.with_memory,
            memory_bytes=snapshot.memory_bytes,
            quiesced=snapshot.quiesced,
            vcpus=snapshot.vcpus,
            memory_mib=snapshot.memory_mib,
            disk_gib=snapshot.disk_gib,
            volumes=[Named(id=one.volume_id, name=one.volume.name) for one in snapshot.volumes.all()],
            status=Status(snapshot.status),
            task=snapshot.task or None,
            schedule=Every(snapshot.schedule.every) if snapshot.schedule else None,
            created_by=snapshot.created_by.get_username() if snapshot.created_by else None,
            created_at=snapshot.created_at,
            taken_at=snapshot.taken_at,
        )


def _shown(snapshots: Iterable[Snapshot]) -> list[SnapshotOut]:
    return [SnapshotOut.of(snapshot) for snapshot in snapshots]


@operation(
    "GET",
    "machines/{uuid:pk}/snapshots",
    tag=TAG,
    answers=Listed[SnapshotOut],
    pages=("snapshots:machine",),
    links={
        name: {"pk": "items/0/id"}
        for name in ("show_snapshot", "show_restoring", "restore_snapshot", "change_snapshot", "delete_snapshot")
    },
)
def list_snapshots(
    request: HttpRequest, pk: UUID, *, page: Query[PageQuery], name: Text = "", sort: Sort = "-created_at"
) -> Listed[SnapshotOut]:
    """A machine's snapshots; `name` is one whole name. The tree is in their `parent`."""
    snapshots = snapshots_of(machine_for(person(request), pk))
    found = page_of(snapshots.filter(name=name) if name else snapshots, page, sort)
    return Listed[SnapshotOut](items=_shown(found.rows), next=found.next)


@operation("GET", "snapshots/{uuid:pk}", tag=TAG, answers=SnapshotOut, pages=("snapshots:machine",))
def show_snapshot(request: HttpRequest, pk: UUID) -> SnapshotOut:
    """One snapshot."""
    snapshot = snapshot_for(person(request), pk)
    return SnapshotOut.of(snapshots_of(snapshot.machine).get(pk=snapshot.pk))


GUARD: Final = Guard(Snapshot, show_snapshot)


class SnapshotIn(Input):
    name: Text = Field(default="", max_length=63, description="Left out, one is chosen.")
    description: Text = Field(default="", max_length=2000)
    with_memory: bool = Field(
        default=False, description="What runs goes on from there; the machine is paused while its memory is written."
    )


@operation(
    "POST",
    "machines/{uuid:pk}/snapshots",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("snapshots:machine-take",),
    guards=MACHINE,
    links=JOB,
)
def take_snapshot(request: HttpRequest, pk: UUID, body: SnapshotIn) -> Job:
    """Keep a machine's disks as they are now, and with its memory what it is doing. It runs on."""
    machine = machine_for(person(request), pk, Permission.MACHINE_OPERATE)
    return services.request_take(
        machine,
        actor=person(request),
        name=body.name,
        description=body.description,
        with_memory=body.with_memory,
        request_ip=client_ip(request),
    )


class LossOut(BaseModel):
    """What restoring means, in sentences. `refusal` says why it cannot be done, and is empty if it can."""

    sentences: list[str]
    refusal: str
    can_be_taken_first: bool

    @classmethod
    def of(cls, loss: Loss) -> Self:
        return cls(sentences=list(loss.sentences), refusal=loss.refusal, can_be_taken_first=loss.can_be_taken_first)


@operation("GET", "snapshots/{uuid:pk}/restore", tag=TAG, answers=LossOut, pages=("snapshots:restore",))
def show_restoring(request: HttpRequest, pk: UUID) -> LossOut:
    """What would be lost if it were restored now."""
    return LossOut.of(loss_of(snapshot_for(person(request), pk, Permission.MACHINE_OPERATE)))


class RestoreIn(Input):
    take_first: bool = Field(default=False, description="Take a snapshot of the disks as they are now first.")


@operation(
    "POST",
    "snapshots/{uuid:pk}/restore",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("snapshots:restore",),
    guards=GUARD,
    links=JOB,
)
def restore_snapshot(request: HttpRequest, pk: UUID, body: RestoreIn) -> Job:
    """Bring the machine back to it: its disks, volumes and size, and with memory what it was doing. What it did since
    is lost."""
    snapshot = snapshot_for(person(request), pk, Permission.MACHINE_OPERATE)
    return restoring.request_restore(
        snapshot, actor=person(request), take_first=body.take_first, request_ip=client_ip(request)
    )


class ChangeIn(Input):
    name: Text | None = Field(default=None, max_length=63)
    description: Text | None = Field(default=None, max_length=2000)


@operation("PATCH", "snapshots/{uuid:pk}", tag=TAG, answers=SnapshotOut, pages=("snapshots:change",), guards=GUARD)
def change_snapshot(request: HttpRequest, pk: UUID, body: ChangeIn) -> SnapshotOut:
    """Another name or description. One that a schedule took is kept from then on: it is not deleted by itself."""
    services.change(
        snapshot_for(person(request), pk, Permission.MACHINE_OPERATE),
        actor=person(request),
        name=body.name,
        description=body.description,
        request_ip=client_ip(request),
    )
    return show_snapshot(request, pk)


@operation(
    "DELETE",
    "snapshots/{uuid:pk}",
    tag=TAG,
    answers=JobOut,
    status=202,
    pages=("snapshots:delete",),
    guards=GUARD,
    links=JOB,
)
def delete_snapshot(request: HttpRequest, pk: UUID) -> Job:
    """Delete a snapshot. The machine and all its other snapshots stay as they are."""
    snapshot = snapshot_for(person(request), pk, Permission.MACHINE_DELETE)
    return services.request_delete(snapshot, actor=person(request), request_ip=client_ip(request))


# --- by themselves --------------------------------------------------------------------------------------------------


class ScheduleOut(BaseModel):
    """Takes one so often and keeps the newest `keep` of those that it took. Times are UTC; `weekday` 0 is Monday.
    `problem` is why the one that is due could not be taken so far."""

    every: Often
    minute: int
    hour: int
    weekday: int
    keep: int
    next_at: dt.datetime
    problem: str

    @classmethod
    def of(cls, schedule: SnapshotSchedule) -> Self:
        return cls(
            every=Every(schedule.every),
            minute=schedule.minute,
            hour=schedule.hour,
            weekday=schedule.weekday,
            keep=schedule.keep,
            next_at=schedule.next_at,
            problem=schedule.problem,
        )


@operation(
    "GET",
    "machines/{uuid:pk}/snapshot-schedules",
    tag=TAG,
    answers=Listed[ScheduleOut],
    pages=("snapshots:machine",),
)
def list_snapshot_schedules(request: HttpRequest, pk: UUID) -> Listed[ScheduleOut]:
    """When snapshots of a machine are taken by themselves."""
    found = schedules_of(machine_for(person(request), pk))
    return Listed[ScheduleOut](items=[ScheduleOut.of(schedule) for schedule in found], next=None)


class ScheduleIn(Input):
    """`hour` counts for days and weeks, `weekday` for weeks."""

    every: Often
    minute: int = Field(default=0, ge=0, le=59)
    hour: int = Field(default=3, ge=0, le=23)
    weekday: int = Field(default=0, ge=0, le=6)
    keep: int = Field(default=7, ge=1, le=MOST_KEPT)


@operation(
    "PUT",
    "machines/{uuid:pk}/snapshot-schedules",
    tag=TAG,
    answers=ScheduleOut,
    pages=("snapshots:machine-schedule",),
    guards=MACHINE,
)
def set_snapshot_schedule(request: HttpRequest, pk: UUID, body: ScheduleIn) -> ScheduleOut:
    """Have snapshots of a machine's disks taken by themselves. It takes the place of another one of its kind."""
    made = schedules.set_schedule(
        machine_for(person(request), pk, Permission.MACHINE_OPERATE),
        actor=person(request),
        every=body.every,
        keep=body.keep,
        minute=body.minute,
        hour=body.hour,
        weekday=body.weekday,
        request_ip=client_ip(request),
    )
    return ScheduleOut.of(made)


@operation(
    "DELETE",
    "machines/{uuid:pk}/snapshot-schedules",
    tag=TAG,
    status=204,
    pages=("snapshots:machine-unschedule",),
    guards=MACHINE,
)
def remove_snapshot_schedule(request: HttpRequest, pk: UUID, *, every: Often) -> None:
    """Take no more so often. What was taken stays until somebody deletes it."""
    machine = machine_for(person(request), pk, Permission.MACHINE_OPERATE)
    schedules.remove_schedule(machine, actor=person(request), every=every.value, request_ip=client_ip(request))
