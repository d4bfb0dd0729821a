"""From every state of the schema that was ever landed to the newest, with rows in every table. New ones are found.

An installation goes the way of the migrations that it has not had yet. One that begins today has squashed ones instead,
and must come to the same tables.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState
from django.db.models import Model

from portal.keeping.rows import build_at
from portal.keeping.schema import applied
from portal.keeping.scratch import scratch_database
from tests.support.filling import ROWS, Row, fill, rows_of
from tests.support.states import Node, landed, loader_of_all
from tests.support.tables import tables

Rows = dict[str, dict[Any, Row]]

# What a migration changes in rows on purpose: "app.model.field".
MEANT_TO_CHANGE: frozenset[str] = frozenset()


def test_every_landed_migration_is_tried() -> None:
    loader = loader_of_all(None)
    tried = {node for _name, state in landed(loader) for node in state}
    tried |= set(loader.replacements)  # Of these, the test below compares what they make.
    assert {
        node for node, migration in loader.disk_migrations.items() if migration.__module__.startswith("portal.")
    } <= tried


@pytest.mark.timeout(900)
@pytest.mark.django_db(transaction=True)
def test_rows_of_every_landed_state_come_whole_to_the_newest() -> None:
    """One way through all states: in each of them every table gets rows, which go on from there with those before."""
    made_today = tables(connection)
    with scratch_database():
        found, made, way = {}, [], Way()
        while way.left:
            name = way.step()
            found[name] = way.filled()
            made.append((way.migrations(), tables(connection)))
        connection.check_constraints()
        after = _models(MigrationLoader(connection).project_state())
        for name, before in found.items():
            for label, rows in before.items():
                _compare(name, label, rows, after[label])
        assert way.planned() == set(), "nothing is left to migrate"
        assert tables(connection) == made_today
    # A backup of any of these states is built up in such tables, which are made at once: some of them show that.
    for migrations, expected in made[::4]:
        with scratch_database():
            build_at(migrations)
            assert tables(connection) == expected, max(migrations.values())
            assert applied(MigrationLoader(connection)) == migrations


class Way:
    """An empty database on its way from the first state to the newest. `left`: the states that are still to come."""

    def __init__(self) -> None:
        self._executor = MigrationExecutor(connection)
        self._executor.loader = loader_of_all(connection)
        self.left = landed(self._executor.loader)
        self._all = set(self._executor.loader.graph.nodes)
        self._state = ProjectState()
        self._had: set[Node] = set()
        self._seen: dict[str, set[Any]] = {}
        self._number = 0

    def step(self) -> str:
        """To the next state; its name."""
        name, nodes = self.left.pop(0)
        plan = [
            (migration, backwards)
            for migration, backwards in self._executor.migration_plan(nodes)
            if (migration.app_label, migration.name) not in self._had
        ]
        self._state = self._executor.migrate(nodes, plan=plan, state=self._state)
        self._had = {had for node in nodes for had in self._executor.loader.graph.forwards_plan(node)}
        # Whoever starts from here goes through just the states that follow here.
        assert self.planned() == self._all - self._had, f"from {name} Django goes another way: try that one, too"
        return name

    def migrations(self) -> dict[str, list[str]]:
        """Those that the database has, by app."""
        return applied(MigrationLoader(connection, replace_migrations=False))

    def planned(self) -> set[Node]:
        """What `manage.py migrate` would do now."""
        executor = MigrationExecutor(connection)
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        return {(migration.app_label, migration.name) for migration, _backwards in plan}

    def filled(self) -> Rows:
        """New rows in every table: by model, as they are now."""
        self._state.clear_delayed_apps_cache()
        models = _models(self._state)
        fill(models.values(), first=self._number)
        self._number += ROWS
        found = {}
        for label, model in models.items():
            seen = self._seen.setdefault(label, set())
            found[label] = {key: row for key, row in rows_of(model).items() if key not in seen}
            assert len(found[label]) == ROWS, label
            seen.update(found[label])
        return found


def _models(state: ProjectState) -> dict[str, type[Model]]:
    return {model._meta.label_lower: model for model in state.apps.get_models(include_auto_created=True)}


def _compare(name: str, label: str, rows: dict[Any, Row], model: type[Model]) -> None:
    """Each row is there, and what it held that is still kept is what it was."""
    now = rows_of(model)
    assert set(rows) <= set(now), (name, label)
    for key, row in rows.items():
        kept = {field for field in row if field in now[key] and f"{label}.{field}" not in MEANT_TO_CHANGE}
        assert {field: now[key][field] for field in kept} == {field: row[field] for field in kept}, (name, label)
