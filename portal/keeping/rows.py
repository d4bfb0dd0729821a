"""The database's rows as lines of JSON, and back, for any state of the schema and for both databases.

They go by the models as the migrations describe them and not by today's classes, so that a backup of last year's schema
is loaded into last year's tables, which are then migrated like any others.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from itertools import islice
from typing import Any, Final
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.management.color import no_style
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.state import ProjectState
from django.db.models import Field, Model
from django.db.models.sql import InsertQuery
from django.utils.duration import duration_iso_string

from portal.keeping.archive import KeepingError
from portal.keeping.schema import Migrations, make_tables, newest_of

# Who was signed in at the time of a backup may have lost that right since: everyone signs in again. Figures are many
# times all the rest, and a month of charts is nothing that anybody restores a portal for.
NOT_KEPT: Final = frozenset({"sessions.session", "figures.series"})
BATCH: Final = 500

Convert = Callable[[Any], Any]


def models_at(migrations: Migrations) -> dict[str, type[Model]]:
    """By label, the models of that state whose rows are kept; tables between two models are among them."""
    loader, newest = newest_of(None, migrations)
    return _kept(loader.project_state(newest))


def _kept(state: ProjectState) -> dict[str, type[Model]]:
    apps = state.apps
    models = [model for model in apps.get_models(include_auto_created=True) if model._meta.managed]
    return {model._meta.label_lower: model for model in models if model._meta.label_lower not in NOT_KEPT}


def dumped(model: type[Model]) -> Iterator[bytes]:
    """First a line with the columns' names, then a line for each row, in the order of their keys."""
    columns = [field.attname for field in _fields(model)]
    yield _line(columns)
    rows = model._base_manager.order_by("pk").values_list(*columns)
    for row in rows.iterator(chunk_size=2000):
        yield _line(row)


def build_at(migrations: Migrations) -> dict[str, type[Model]]:
    """Make the tables of that state in an empty database; its models, whose tables are empty."""
    executor = MigrationExecutor(connection)
    executor.loader, newest = newest_of(connection, migrations)
    return _kept(make_tables(executor, newest))


def load(model: type[Model], lines: Iterable[bytes], convert: Convert) -> int:
    """Insert the rows of `dumped`; how many. KeepingError for what does not fit the table."""
    remaining = iter(lines)
    fields = _columns(model, next(remaining, b""))
    count = 0
    while batch := list(islice(remaining, _batch_size(fields))):
        objects = [_object(model, fields, line, convert) for line in batch]
        query: Any = InsertQuery(model)
        query.insert_values(fields, objects, raw=True)  # Raw: dates of creation stay those of the backup.
        query.get_compiler(connection=connection).execute_sql()
        count += len(objects)
    return count


def reset_sequences(models: Iterable[type[Model]]) -> None:
    """The next key that the database gives comes after those that were loaded."""
    with connection.cursor() as cursor:
        for statement in connection.ops.sequence_reset_sql(no_style(), list(models)):
            cursor.execute(statement)


def _fields(model: type[Model]) -> list[Field[Any, Any]]:
    return list(model._meta.local_concrete_fields)


def _line(values: Iterable[Any]) -> bytes:
    return json.dumps(list(values), default=_plain, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _plain(value: Any) -> str:
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    if isinstance(value, dt.timedelta):
        return duration_iso_string(value)
    raise KeepingError(f"A backup cannot hold a {type(value).__name__}.")


def _columns(model: type[Model], line: bytes) -> list[Field[Any, Any]]:
    known = {field.attname: field for field in _fields(model)}
    names = _parsed(model, line)
    if not all(isinstance(name, str) for name in names) or sorted(names) != sorted(known):
        raise KeepingError(f"The backup's columns of {model._meta.label_lower} are not those of the table.")
    return [known[name] for name in names]


def _object(model: type[Model], fields: list[Field[Any, Any]], line: bytes, convert: Convert) -> Model:
    values = _parsed(model, line)
    if len(values) != len(fields):
        raise KeepingError(f"The backup has a row of {model._meta.label_lower} with too few or too many values.")
    try:
        return model(
            **{field.attname: field.to_python(convert(value)) for field, value in zip(fields, values, strict=True)}
        )
    except (ValidationError, ValueError, TypeError, OverflowError) as error:
        raise KeepingError(f"The backup has a value of {model._meta.label_lower} that cannot be used.") from error


def _parsed(model: type[Model], line: bytes) -> list[Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KeepingError(f"The backup's rows of {model._meta.label_lower} cannot be read.") from error
    if not isinstance(values, list):
        raise KeepingError(f"The backup's rows of {model._meta.label_lower} are not rows.")
    return values


def _batch_size(fields: list[Field[Any, Any]]) -> int:
    most = connection.features.max_query_params
    return min(BATCH, most // len(fields)) if most else BATCH
