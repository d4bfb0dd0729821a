"""Rows for any model, whatever its fields: for tests that must hold for models that are added later, too."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

from django.db import models, transaction

ROWS = 2
_BEGINNING = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=dt.UTC)

Row = dict[str, Any]

# Of these links a row has exactly one.
ONE_OF = {"pools.entitlement": ("user", "project", "group")}


def fill(wanted: Iterable[type[models.Model]], *, first: int = 0) -> None:
    """Two rows in each table. Foreign keys lead to rows with the same number, so pairs that must be unique are.

    Where a table has rows from here already, `first` is a number that is even and greater than theirs.
    """
    left = list(wanted)
    made: dict[Any, list[models.Model]] = {}
    with transaction.atomic():
        while left:
            ready = [model for model in left if _parents(model).isdisjoint(set(left) - {model})]
            assert ready, f"these need each other: {left}"
            for model in ready:
                made[model] = [_make(model, number, made) for number in range(first, first + ROWS)]
                left.remove(model)


def rows_of(model: type[models.Model]) -> dict[Any, Row]:
    """Every row by its key."""
    return {row[model._meta.pk.attname]: _plain(row) for row in model._base_manager.values()}


def _plain(row: Row) -> Row:
    """PostgreSQL gives bytes as a view of them."""
    return {name: bytes(value) if isinstance(value, memoryview) else value for name, value in row.items()}


def _parents(model: type[models.Model]) -> set[type[models.Model]]:
    return {field.related_model for field in model._meta.local_concrete_fields if isinstance(field, models.ForeignKey)}


def _make(model: type[models.Model], number: int, made: dict[Any, list[models.Model]]) -> models.Model:
    """The first row has all optional links empty."""
    row = model()
    one_of = ONE_OF.get(model._meta.label_lower, ())
    for field in model._meta.local_concrete_fields:
        if isinstance(field, models.ForeignKey):
            some = number % ROWS
            wanted = field.name == one_of[some] if field.name in one_of else bool(some) or not field.null
            if wanted:
                others = made.get(field.related_model)
                setattr(row, field.attname, others[number % ROWS].pk if others else None)
        elif not field.primary_key or not isinstance(field, models.AutoField):
            setattr(row, field.attname, _value(field, number))
    row.save(force_insert=True)
    return row


def _value(field: models.Field[Any, Any], number: int) -> Any:  # noqa: PLR0911 - one line for each type of field
    if field.choices:
        values = [value for value, _words in field.flatchoices]
        return values[number % len(values)]
    if isinstance(field, models.UUIDField):
        return uuid5(NAMESPACE_DNS, f"{field.attname}-{number}")
    if isinstance(field, models.BooleanField):
        return bool(number % ROWS)
    if isinstance(field, models.IntegerField):
        return number + 1
    if isinstance(field, models.FloatField):
        return number + 0.1
    if isinstance(field, models.DateTimeField):
        return _BEGINNING + dt.timedelta(days=number)
    if isinstance(field, models.JSONField):
        return {"ünï": [number, None, "\u2028"]}
    if isinstance(field, models.GenericIPAddressField):
        return f"192.0.2.{number + 1}"
    if isinstance(field, models.BinaryField):
        return bytes((number % 256, 0, 255)) * 5
    if isinstance(field, models.CharField | models.TextField):
        return f"{number}-ü'\"\n{field.name}"[: field.max_length or 200]
    raise AssertionError(f"say what a {type(field).__name__} holds")
