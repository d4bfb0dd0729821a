"""What a database's tables are, as the database itself says it: to compare two that came about in different ways."""

from __future__ import annotations

import re
from typing import Any

_POSTGRESQL = (
    "SELECT 'column', table_name, column_name, data_type, is_nullable, character_maximum_length::text, column_default,"
    " is_identity FROM information_schema.columns WHERE table_schema = current_schema()",
    "SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', '', ''"
    " FROM pg_constraint WHERE connamespace = current_schema()::regnamespace",
    "SELECT 'index', tablename, indexname, indexdef, '', '', '', ''"
    " FROM pg_indexes WHERE schemaname = current_schema()",
)


def tables(connection: Any) -> list[tuple[str, ...]]:
    """Columns, constraints and indexes, sorted."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE sql <> ''")
            return sorted((name, part) for name, sql in cursor.fetchall() for part in _parts(sql))
        cursor.execute("SELECT current_schema()")
        (schema,) = cursor.fetchone()
        rows = []
        for query in _POSTGRESQL:
            cursor.execute(query)
            rows += cursor.fetchall()
    return sorted(tuple(re.sub(rf"\b{schema}\.", "", value or "") for value in row) for row in rows)


def _parts(sql: str) -> list[str]:
    """Of SQLite's own text, which is what we gave it: a table's columns and constraints, whose order does not matter.

    What an index is on stays together: there the order does.
    """
    if not sql.startswith("CREATE TABLE"):
        return [sql]
    head, _, rest = sql.partition("(")
    inside, _, tail = rest.rpartition(")")
    depth, parts = 0, [""]
    for letter in inside:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [f"{head}{tail}", *(part.strip() for part in parts)]
