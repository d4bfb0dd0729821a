"""Figures as a page shows them: charts, what they say in words, and the same as a table."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.figures.points import Level, Point, mean, pack, unpack
from portal.figures.selectors import Figures
from portal.lib.units import format_bytes, format_number

SPANS: Final[dict[Level, str | Promise]] = {
    Level.LIVE: gettext_lazy("10 minutes"),
    Level.HOUR: gettext_lazy("Hour"),
    Level.DAY: gettext_lazy("Day"),
    Level.MONTH: gettext_lazy("Month"),
}
# So many points make a line of the table: a minute, five minutes, an hour, a day.
POINTS_A_LINE: Final = {Level.LIVE: 6, Level.HOUR: 5, Level.DAY: 12, Level.MONTH: 12}


@dataclass(frozen=True, slots=True)
class Line:
    """One figure in a chart, in words: now (empty if not known), on the average and at most over the span."""

    column: str
    name: str
    now: str
    mean: str
    most: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`data` is what static/js/base/charts.js draws. `note` says why something is missing."""

    key: str
    title: str
    lines: list[Line]
    data: dict[str, Any]
    note: str


@dataclass(frozen=True, slots=True)
class TableRow:
    at: dt.datetime
    cells: list[str]


def share_text(value: float | None) -> str:
    """Tenths only where they are a large part of it."""
    if value is None:
        return _("unknown")
    return _("%(share)s %%") % {"share": format_number(value * 100 if value < 0.1 else round(value * 100))}


def size_text(value: float | None) -> str:
    return _("unknown") if value is None else format_bytes(value)


def rate_text(value: float | None) -> str:
    return _("unknown") if value is None else _("%(size)s/s") % {"size": format_bytes(value)}


Text = Callable[[float | None], str]
_COLUMNS: Final[dict[str, tuple[str | Promise, Text]]] = {
    "cpu": (gettext_lazy("CPU"), share_text),
    "memory_used": (gettext_lazy("Memory in use"), size_text),
    "memory_taken": (gettext_lazy("Memory of the host"), size_text),
    "disk_read": (gettext_lazy("Disk, read"), rate_text),
    "disk_written": (gettext_lazy("Disk, written"), rate_text),
    "net_received": (gettext_lazy("Network, received"), rate_text),
    "net_sent": (gettext_lazy("Network, sent"), rate_text),
}


def charts_of(figures: Figures, *, memory_total: int, of_host: bool = False) -> list[Chart]:
    """CPU, memory, disk and network. `memory_total` in bytes: how high the memory's chart is at least."""
    charts = [_CPU, _HOST_MEMORY, _HOST_DISK, _HOST_NETWORK] if of_host else [_CPU, _MEMORY, _DISK, _NETWORK]
    return [_chart(figures, kind, memory_total if kind.unit == "size" else kind.top) for kind in charts]


@dataclass(frozen=True, slots=True)
class _Kind:
    """`names` are of the lines, by figure; `missing` is said when nothing is known of the first of them."""

    key: str
    title: str | Promise
    unit: str
    names: dict[str, str | Promise]
    top: float = 0
    missing: str | Promise = ""


_IN_USE, _READ, _WRITTEN = gettext_lazy("in use"), gettext_lazy("read"), gettext_lazy("written")
_RECEIVED, _SENT = gettext_lazy("received"), gettext_lazy("sent")
_CPU: Final = _Kind("cpu", gettext_lazy("CPU"), "share", {"cpu": gettext_lazy("busy")}, top=1)
_MEMORY: Final = _Kind(
    "memory",
    gettext_lazy("Memory"),
    "size",
    {"memory_used": _IN_USE, "memory_taken": gettext_lazy("taken on the host")},
    missing=gettext_lazy("The guest does not tell what it uses: it has no balloon driver, or has just begun."),
)
_HOST_MEMORY: Final = replace(
    _MEMORY, names={"memory_used": _IN_USE, "memory_taken": gettext_lazy("taken by machines")}
)
_DISK: Final = _Kind("disk", gettext_lazy("Disks"), "rate", {"disk_read": _READ, "disk_written": _WRITTEN})
_HOST_DISK: Final = replace(_DISK, title=gettext_lazy("Disks of its machines"))
_NETWORK: Final = _Kind(
    "network",
    gettext_lazy("Network"),
    "rate",
    {"net_received": _RECEIVED, "net_sent": _SENT},
    missing=gettext_lazy("Its traffic is not counted: QEMU's own network has no card on the host."),
)
_HOST_NETWORK: Final = replace(_NETWORK, title=gettext_lazy("Network of its machines"), missing="")
_TEXTS: Final[dict[str, Text]] = {"share": share_text, "size": size_text, "rate": rate_text}


def _chart(figures: Figures, kind: _Kind, top: float) -> Chart:
    text = _TEXTS[kind.unit]
    columns = {column: figures.column(column) for column in kind.names}
    lines = [
        _line(column, str(kind.names[column]), values, getattr(figures.now, column), text)
        for column, values in columns.items()
        if any(value is not None for value in values)
    ]
    data = {
        "start": figures.start_s,
        "step": figures.step_s,
        "unit": kind.unit,
        "top": top,
        "lines": [{"name": line.name, "values": [_short(value) for value in columns[line.column]]} for line in lines],
    }
    first_is_missing = bool(figures.points) and next(iter(kind.names)) not in {line.column for line in lines}
    return Chart(kind.key, str(kind.title), lines, data, str(kind.missing) if first_is_missing else "")


def _line(column: str, name: str, values: Sequence[float | None], now: float | None, text: Text) -> Line:
    known = [value for value in values if value is not None]
    return Line(column, name, text(now) if now is not None else "", text(sum(known) / len(known)), text(max(known)))


def _short(value: float | None) -> float | None:
    """As many digits as are known: a page holds a thousand of them."""
    return None if value is None else float(f"{value:.4g}")


def table_of(figures: Figures) -> tuple[list[str], list[TableRow]]:
    """Headings and lines, newest first. Figures of which nothing is known are left out, and so are empty lines."""
    columns = [name for name in _COLUMNS if any(value is not None for value in figures.column(name))]
    size = POINTS_A_LINE[figures.level]
    rows = []
    for place in range(0, len(figures.points), size):
        point = unpack(mean(b"".join(map(pack, figures.points[place : place + size]))))
        if point != Point():
            at = dt.datetime.fromtimestamp(figures.start_s + place * figures.step_s, dt.UTC)
            rows.append(TableRow(at, [_COLUMNS[name][1](getattr(point, name)) for name in columns]))
    return [str(_COLUMNS[name][0]) for name in columns], rows[::-1]
