"""What is shown: a table for people, JSON for programs, or only the names or ids for other commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

Form = Literal["table", "json", "quiet"]


def clean(value: object) -> str:
    """One line that a terminal only shows. Names and messages come from others; none of them may move the cursor,
    change the title, or type for whoever reads it."""
    text = "" if value is None else str(value)
    return "".join(
        char if char.isprintable() else " " if char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


class Output:
    def __init__(self, form: Form) -> None:
        self.form = form
        self.console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        # Progress and words go here, so that what goes on to another command is data only.
        self.notes = Console(stderr=True, highlight=False)

    def rows(self, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, key: str) -> None:
        """`columns` are places in a row, such as `project.name`; `key` is what quiet output shows."""
        if self.form == "json":
            self.json(list(rows))
        elif self.form == "quiet":
            for row in rows:
                self.line(row[key])
        else:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for column in columns:
                table.add_column(
                    column.replace("_", " ").replace(".name", "").replace(".", " ").upper(), overflow="fold"
                )
            for row in rows:
                table.add_row(*(Text(clean(_at(row, column))) for column in columns))
            self.console.print(table)

    def one(self, row: Mapping[str, Any], *, key: str) -> None:
        if self.form == "json":
            self.json(row)
        elif self.form == "quiet":
            self.line(row[key])
        else:
            table = Table(box=None, pad_edge=False, show_header=False)
            table.add_column(style="bold")
            table.add_column(overflow="fold")
            for name, value in row.items():
                table.add_row(Text(clean(name.replace("_", " "))), Text(clean(_words(value))))
            self.console.print(table)

    def json(self, value: Any) -> None:
        sys.stdout.write(
            json.dumps(value, indent=2, ensure_ascii=not sys.stdout.encoding.lower().startswith("utf")) + "\n"
        )

    def line(self, value: object) -> None:
        sys.stdout.write(f"{clean(value)}\n")

    def note(self, text: str) -> None:
        if self.form != "quiet":
            self.notes.print(Text(clean(text)))

    def aside(self, text: str) -> None:
        """As `note`, beside what a guest prints: it begins a line, and ends it for a terminal that is raw, too."""
        if self.form != "quiet":
            sys.stderr.write(f"\r\n[casement: {clean(text)}]\r\n")
            sys.stderr.flush()


_SAYS_ENOUGH = ("name", "title", "mac", "machine")


def _at(row: Mapping[str, Any], place: str) -> str:
    value: Any = row
    for name in place.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return _words(value)


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_words(one) for one in value)
    if isinstance(value, Mapping):
        known = next((value[name] for name in _SAYS_ENOUGH if value.get(name)), None)
        return _words(known) if known else json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)
