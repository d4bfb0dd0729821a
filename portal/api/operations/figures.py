"""Measurements of machines and hosts."""

import datetime as dt
from typing import Annotated, Final, Literal, Self
from uuid import UUID

from django.http import HttpRequest
from ninja import Query
from pydantic import BaseModel, Field

from portal.accounts.http import person
from portal.api.core import operation
from portal.api.paging import Listed
from portal.figures.points import Level, Point
from portal.figures.selectors import Figures, host_figures, latest_of, machine_figures
from portal.hosts.selectors import host_for
from portal.machines.models import Machine
from portal.machines.selectors import machine_for

TAG: Final = "Figures"
MOST_LOADS: Final = 100
Span = Literal["live", "hour", "day", "month"]


class PointOut(BaseModel):
    """`cpu` is a share, 0 to 1, of all processors; memory in bytes, disk and network in bytes a second; null: not
    known."""

    cpu: float | None
    memory_used: float | None
    memory_taken: float | None
    disk_read: float | None
    disk_written: float | None
    net_received: float | None
    net_sent: float | None

    @classmethod
    def of(cls, point: Point) -> Self:
        return cls(**point._asdict())


class FiguresOut(BaseModel):
    """`points` are means over `step_s` seconds each, oldest first, from `start` on; the last one may not be whole.
    `now` is the newest reading of the last minute."""

    span: Level
    start: dt.datetime
    step_s: int
    points: list[PointOut]
    now: PointOut

    @classmethod
    def of(cls, figures: Figures) -> Self:
        return cls(
            span=figures.level,
            start=dt.datetime.fromtimestamp(figures.start_s, dt.UTC),
            step_s=figures.step_s,
            points=[PointOut.of(point) for point in figures.points],
            now=PointOut.of(figures.now),
        )


@operation("GET", "machines/{uuid:pk}/figures", tag=TAG, answers=FiguresOut, pages=("figures:machine",))
def show_machine_figures(request: HttpRequest, pk: UUID, span: Span = "hour") -> FiguresOut:
    """What a machine used in the last ten minutes (live), hour, day or month."""
    return FiguresOut.of(machine_figures(machine_for(person(request), pk), Level(span)))


@operation("GET", "hosts/{uuid:pk}/figures", tag=TAG, answers=FiguresOut, pages=("host-figures:host",))
def show_host_figures(request: HttpRequest, pk: UUID, span: Span = "hour") -> FiguresOut:
    """What a host used, its machines' disks and networks taken together. For operators."""
    return FiguresOut.of(host_figures(host_for(person(request), pk), Level(span)))


class LoadOut(BaseModel):
    """A machine now. `cpu_shares` are those of the last minutes, oldest first."""

    machine: UUID
    now: PointOut
    cpu_shares: list[float | None]


class LoadsQuery(BaseModel):
    machine: Annotated[list[UUID], Field(min_length=1, max_length=MOST_LOADS, description="May be said repeatedly.")]


@operation("GET", "loads", tag=TAG, answers=Listed[LoadOut], pages=("figures:loads",))
def list_loads(request: HttpRequest, wanted: Query[LoadsQuery]) -> Listed[LoadOut]:
    """What up to 100 machines use now: those that you see and that told lately, others not at all."""
    machines = Machine.objects.visible_to(person(request)).live().filter(pk__in=wanted.machine)
    found = latest_of(machines.only("pk", "host_id"))
    items = [LoadOut(machine=pk, now=PointOut.of(one.now), cpu_shares=one.spark) for pk, one in found.items()]
    return Listed[LoadOut](items=items, next=None)
