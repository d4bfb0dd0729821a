"""From every state of the schema that was ever landed to the newest, with rows in every table. New ones are found."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.models import Model

from portal.keeping.scratch import scratch_database
from tests.support.filling import ROWS, fill, rows_of

Node = tuple[str, str]

# What a migration changes in rows on purpose: "app.model.field".
MEANT_TO_CHANGE: frozenset[str] = frozenset()


def landed() -> list[tuple[str, list[Node]]]:
    """Each state by its newest migration. The first is that of the first apps; each further one adds one.

    An app that came later needs what other apps had come to by then, so its own first migration is a further one.
    """
    loader = MigrationLoader(None)
    ours = {app for app in loader.migrated_apps if (loader.migrations_module(app)[0] or "").startswith("portal.")}
    leaves = loader.graph.leaf_nodes()
    others = [node for node in leaves if node[0] not in ours]
    whole: list[Node] = list(dict.fromkeys(node for leaf in leaves for node in loader.graph.forwards_plan(leaf)))
    plan = [node for node in whole if node[0] in ours]
    state = [*others, *(node for node in plan if _is_of_the_first(loader, node, ours))]
    later = [node for node in plan if node not in state]
    states = [("first", list(state))]
    for node in later:
        state.append(node)
        states.append((".".join(node), list(state)))
    return states


def _is_of_the_first(loader: MigrationLoader, node: Node, ours: set[str]) -> bool:
    needed = loader.graph.forwards_plan(node)
    return all(name.startswith("0001") for app, name in needed if app in ours)


def test_every_landed_migration_is_tried() -> None:
    loader = MigrationLoader(None)
    tried = {node for _name, state in landed() for node in state}
    assert {
        node for node in loader.graph.nodes if loader.disk_migrations[node].__module__.startswith("portal.")
    } <= tried


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("state", [state for _name, state in landed()], ids=[name for name, _state in landed()])
def test_rows_come_whole_to_the_newest_state(state: list[Node]) -> None:
    with scratch_database():
        before = _filled(state)
        executor = MigrationExecutor(connection)
        executor.migrate(executor.loader.graph.leaf_nodes())
        connection.check_constraints()
        after = _models(MigrationLoader(connection), None)
        for label, rows in before.items():
            _compare(label, rows, after[label])


def _filled(state: list[Node]) -> dict[str, dict[Any, Any]]:
    executor = MigrationExecutor(connection)
    executor.migrate(state)
    models = _models(MigrationLoader(connection), state)
    fill(models.values())
    return {label: rows_of(model) for label, model in models.items()}


def _models(loader: MigrationLoader, state: list[Node] | None) -> dict[str, type[Model]]:
    apps = loader.project_state(state).apps
    return {model._meta.label_lower: model for model in apps.get_models(include_auto_created=True)}


def _compare(label: str, rows: dict[Any, Any], model: type[Model]) -> None:
    """Each row is there, and what it held that is still kept is what it was."""
    now = rows_of(model)
    assert len(rows) == ROWS and set(rows) <= set(now), label
    for key, row in rows.items():
        kept = {name for name in row if name in now[key] and f"{label}.{name}" not in MEANT_TO_CHANGE}
        assert {name: now[key][name] for name in kept} == {name: row[name] for name in kept}, label
