"""Lists by cursor: a page begins after a row, not at a number, so that rows which come or go shift nothing.

A cursor says how the list was sorted and where the last page ended. It is nobody's secret and no proof: the rows that a
made-up one leads to are those that its sender may see anyway.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db.models import Model, Q, QuerySet
from django.utils.translation import gettext as _
from ninja import Field, Schema

from portal.errors import InvalidError

M = TypeVar("M", bound=Model)
T = TypeVar("T")

MOST = 200


class PageQuery(Schema):
    limit: int = Field(default=50, ge=1, le=MOST, description="How many at most.")
    cursor: str | None = Field(default=None, max_length=500, description="Where to go on: `next` of the page before.")


class Listed(Schema, Generic[T]):
    """`next` is the cursor of the page that follows; null on the last one."""

    items: list[T]
    next: str | None


@dataclass(frozen=True, slots=True)
class Found(Generic[M]):
    rows: list[M]
    next: str | None

    def shown(self, show: Callable[[M], T]) -> Listed[T]:
        return Listed[Any](items=[show(row) for row in self.rows], next=self.next)


def page_of(rows: QuerySet[M], page: PageQuery, sort: str) -> Found[M]:
    """Two queries. Keys come first, because sorting then carries no joined columns along; see portal.lib.paging.

    `sort` is a column that is never empty, with "-" for the largest first; rows that agree in it go by their keys.
    """
    column, down = sort.removeprefix("-"), sort.startswith("-")
    order = [sort] if column == "pk" else [sort, "-pk" if down else "pk"]
    if page.cursor:
        rows = _after(rows, page.cursor, column, down=down)
    keys = list(rows.order_by(*order).values_list("pk", flat=True)[: page.limit + 1])
    # They are put in order here: asked for an order, SQLite looks through all rows there are for these few.
    by_key = {row.pk: row for row in rows.order_by().filter(pk__in=keys[: page.limit])} if keys else {}
    found = [by_key[key] for key in keys if key in by_key]
    more = len(keys) > page.limit and found
    return Found(found, _cursor(sort, found[-1], column) if more else None)


def _after(rows: QuerySet[M], cursor: str, column: str, *, down: bool) -> QuerySet[M]:
    value, pk = _read(rows.model, cursor, f"-{column}" if down else column, column)
    beyond = "lt" if down else "gt"
    if column == "pk":
        return rows.filter(**{f"pk__{beyond}": pk})
    # The first condition follows from the second; databases find the place in an index by it alone.
    at_or_beyond = Q(**{f"{column}__{beyond}e": value})
    return rows.filter(at_or_beyond, Q(**{f"{column}__{beyond}": value}) | Q(**{column: value, f"pk__{beyond}": pk}))


def _cursor(sort: str, row: Model, column: str) -> str:
    value = row.pk if column == "pk" else getattr(row, column)
    written = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return base64.urlsafe_b64encode(json.dumps([sort, written, str(row.pk)]).encode()).decode().rstrip("=")


def _read(model: type[Model], cursor: str, sort: str, column: str) -> tuple[Any, Any]:
    try:
        parts = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        sorted_by, value, pk = (str(part) for part in parts)
        field = model._meta.pk if column == "pk" else model._meta.get_field(column)
        assert field is not None  # noqa: S101 - every model has a key
        read = field.to_python(value), model._meta.pk.to_python(pk)  # type: ignore[union-attr]  # a column, no relation
    except (ValueError, TypeError, binascii.Error, ValidationError, FieldDoesNotExist, RecursionError) as error:
        raise InvalidError(_("This is no cursor of a list."), field="cursor") from error
    is_naive = isinstance(read[0], dt.datetime) and read[0].tzinfo is None  # Which moment it means nobody can say.
    if sorted_by != sort or "\x00" in value or None in read or is_naive:
        raise InvalidError(_("This cursor belongs to a list that was sorted in another way."), field="cursor")
    return read
