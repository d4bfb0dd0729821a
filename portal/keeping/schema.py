"""States of the schema, each by the names of its migrations, whether they stand for themselves or in a squashed one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import ProjectState

from portal.keeping.archive import KeepingError

Migrations = Mapping[str, Iterable[str]]
Node = tuple[str, str]


def applied(loader: MigrationLoader) -> dict[str, list[str]]:
    """The migrations of the installed apps that the database has. KeepingError if it knows more than this Casement."""
    found: dict[str, list[str]] = {}
    for app, name in sorted(loader.applied_migrations or ()):
        if app in loader.migrated_apps:
            if (app, name) not in loader.disk_migrations:
                raise KeepingError(f"The database is of a newer Casement: {app} {name} is not known here.")
            found.setdefault(app, []).append(name)
    if not found:
        raise KeepingError("The database is empty: there is nothing to back up.")
    return found


def loader_at(connection: Any, nodes: Iterable[Node]) -> MigrationLoader:
    """A loader in whose graph that state is: a squashed migration where all that it replaces are of it.

    Elsewhere those that it replaces. Django's own decides by what the database has, which may be nothing yet.
    """
    loader, wanted = MigrationLoader(connection, replace_migrations=False), set(nodes)
    for key, migration in loader.replacements.items():
        if wanted.issuperset(migration.replaces):
            loader.graph.remove_replaced_nodes(key, migration.replaces)
        else:
            loader.graph.remove_replacement_node(key, migration.replaces)
    return loader


def newest_of(connection: Any, migrations: Migrations) -> tuple[MigrationLoader, list[Node]]:
    """Those that no other of them follows, and a loader that has them. KeepingError for one that is not known here."""
    nodes = {(app, name) for app, names in migrations.items() for name in names}
    loader = loader_at(connection, nodes)
    if unknown := nodes - set(loader.disk_migrations):
        app, name = min(unknown)
        raise KeepingError(f"The backup was made by a newer Casement: {app} {name} is not known here.")
    for key, migration in loader.replacements.items():
        if nodes.issuperset(migration.replaces):
            nodes = nodes - set(migration.replaces) | {key}
        elif key in nodes:
            raise KeepingError(f"The backup has {key[0]} {key[1]} without what it replaces.")
    followed = {parent.key for node in nodes for parent in loader.graph.node_map[node].parents}
    return loader, sorted(nodes - followed)


def make_tables(executor: MigrationExecutor, newest: Iterable[Node]) -> ProjectState:
    """The tables of that state, in an empty database, as its migrations would make them and noted as if they had.

    Each is made once, as it is in the end. Migrations come there over every state in between, and Django puts nearly
    all models together anew for each: ten times the work. This holds as long as none of them does more than change
    tables, which a test makes sure of, as it compares what both ways come to. All or nothing.
    """
    nodes = list(newest)
    state: ProjectState = executor.loader.project_state(nodes)
    with executor.connection.schema_editor(atomic=True) as editor:
        for model in state.apps.get_models():
            if model._meta.managed:
                editor.create_model(model)
        editor.create_model(executor.recorder.Migration)
        for migration, _backwards in executor.migration_plan(nodes, clean_start=True):
            for node in migration.replaces or [(migration.app_label, migration.name)]:
                executor.recorder.record_applied(*node)
    return state
