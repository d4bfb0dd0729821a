"""Queries whose SQL Django works out once for a process, for those that are asked many times a second.

Building a query takes Django several times as long as the database takes to answer it. A function that is marked here
builds its query once, with stand-ins in the place of its arguments; from then on only the arguments are put in.
So it may depend on nothing but them: what it decides with them, or reads from the clock, would hold for ever.
"""

from __future__ import annotations

import datetime as dt
import functools
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final, ParamSpec, TypeVar, cast
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connections, models, transaction
from django.db.models.expressions import Expression
from django.db.models.sql import UpdateQuery

Asked = ParamSpec("Asked")
Row = TypeVar("Row")

_FIELDS: Final[dict[object, models.Field[Any, Any]]] = {
    UUID: models.UUIDField(),
    int: models.BigIntegerField(),
    str: models.CharField(),
    dt.datetime: models.DateTimeField(),
}


class _Argument(Expression):
    """Stands where the value of an argument will be."""

    def __init__(self, name: str, field: models.Field[Any, Any]) -> None:
        super().__init__(output_field=field)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:  # type: ignore[override] # stand-ins
        return "%s", [self]


class _Query:
    """SQL, and what is put in its places: values, and stand-ins for arguments."""

    def __init__(self, sql: str, places: Iterable[Any]) -> None:
        self.sql = sql
        self.places = tuple(places)

    def values(self) -> list[Any]:
        return [place for place in self.places if not isinstance(place, _Argument)]

    def execute(self, arguments: dict[str, Any], cursor: Any, connection: Any) -> None:
        values = [
            place.output_field.get_db_prep_value(_there(arguments[place.name]), connection)
            if isinstance(place, _Argument)
            else place
            for place in self.places
        ]
        cursor.execute(self.sql, values)


def _there(value: Any) -> Any:
    if value is None:
        message = "a prepared query cannot be asked for what is not there: SQL has another question for that"
        raise TypeError(message)
    return value


class _Rows:
    """A query that reads."""

    def __init__(self, queryset: models.QuerySet[Any, Any]) -> None:
        compiler = queryset.query.get_compiler(connection=connections[DEFAULT_DB_ALIAS])
        self.query = _Query(*compiler.as_sql())
        self._locks = bool(queryset.query.select_for_update)
        self._is_flat = issubclass(queryset._iterable_class, models.query.FlatValuesListIterable)
        columns = [column[0] for column in compiler.select[: compiler.col_count]]
        self._converters = compiler.get_converters(columns).items()

    def fetch(self, arguments: dict[str, Any]) -> list[Any]:
        connection = connections[DEFAULT_DB_ALIAS]
        if self._locks and not connection.in_atomic_block:
            message = "rows are locked in a transaction only"
            raise transaction.TransactionManagementError(message)
        with connection.cursor() as cursor:
            self.query.execute(arguments, cursor, connection)
            rows = [list(row) for row in cursor.fetchall()]
        for place, (converters, expression) in self._converters:
            for row in rows:
                for convert in converters:
                    row[place] = convert(row[place], expression, connection)
        return [row[0] for row in rows] if self._is_flat else [tuple(row) for row in rows]


class _Update:
    """A query that writes, and tells how many rows it met."""

    def __init__(self, queryset: models.QuerySet[Any, Any], values: dict[str, Any]) -> None:
        query = cast("UpdateQuery", queryset.query.chain(UpdateQuery))
        query.clear_ordering(force=True)
        query.add_update_values(values)
        self.query = _Query(*query.get_compiler(connection=connections[DEFAULT_DB_ALIAS]).as_sql())

    def execute(self, arguments: dict[str, Any]) -> int:
        connection = connections[DEFAULT_DB_ALIAS]
        with connection.cursor() as cursor:
            self.query.execute(arguments, cursor, connection)
            return int(cursor.rowcount)


Made = TypeVar("Made", _Rows, _Update)


def rows(build: Callable[Asked, models.QuerySet[Any, Row]]) -> Callable[Asked, list[Row]]:
    """What a `values_list` finds. Arguments are given in the order of the function, and none is None."""
    prepared = functools.cache(lambda: _same(lambda: _Rows(_built(build))))
    names = _names(build)

    @functools.wraps(build)
    def fetch(*arguments: Asked.args, **_named: Asked.kwargs) -> list[Row]:
        return prepared().fetch(dict(zip(names, arguments, strict=True)))

    return fetch


def update(build: Callable[Asked, tuple[models.QuerySet[Any, Any], dict[str, Any]]]) -> Callable[Asked, int]:
    """What an `update` does: of which rows, and what they get. As with `rows`."""
    prepared = functools.cache(lambda: _same(lambda: _Update(*_built(build))))
    names = _names(build)

    @functools.wraps(build)
    def execute(*arguments: Asked.args, **_named: Asked.kwargs) -> int:
        return prepared().execute(dict(zip(names, arguments, strict=True)))

    return execute


def _names(build: Callable[..., Any]) -> tuple[str, ...]:
    code = build.__code__
    return code.co_varnames[: code.co_argcount]


def _built(build: Callable[..., Any]) -> Any:
    """With a stand-in for each argument."""
    kinds = typing.get_type_hints(build)
    return build(**{name: _Argument(name, _FIELDS[kinds[name]]) for name in _names(build)})


def _same(make: Callable[[], Made]) -> Made:
    """Whatever is made twice the same. What goes by the clock as well differs, and would stand still."""
    first, second = make(), make()
    if (first.query.sql, first.query.values()) != (second.query.sql, second.query.values()):
        message = "a prepared query depends on something that is not among its arguments"
        raise TypeError(message)
    return first
