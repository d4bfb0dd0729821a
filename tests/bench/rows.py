"""What a benchmark gives: measured values, each beside a peer's where there is one, and beside its target."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measured value. `ratio` is ours to the peer's; `ok` says if the target is met, None where there is none."""

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None
    target: str = ""
    ok: bool | None = None
    spread: float | None = None
    """Of our rounds: from the smallest to the largest, as a share of `value`, which is their median."""


HEADINGS = ("name", "value", "unit", "peer", "peer's", "ratio", "target", "ok", "spread")


def table(rows: Sequence[Row]) -> str:
    """Aligned columns: words to the left, numbers to the right."""
    lines = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in {1, 4, 5, 8} else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def to_json(rows: Sequence[Row]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=2) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    ok = {True: "yes", False: "NO", None: ""}[row.ok]
    numbers = _number(row.value), _number(row.peer_value), _number(row.ratio)
    spread = "" if row.spread is None else f"{row.spread:.0%}"
    return (row.name, numbers[0], row.unit, row.peer, numbers[1], numbers[2], row.target, ok, spread)


def _number(value: float | None) -> str:
    """Three significant digits, and thousands set apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
