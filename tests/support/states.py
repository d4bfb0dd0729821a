"""Every state of the schema that was ever landed, step by step, as installations in the field came to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.migrations.loader import MigrationLoader

from portal.keeping.schema import loader_at

Node = tuple[str, str]


def loader_of_all(connection: Any) -> MigrationLoader:
    """In its graph is what was landed, one after the other, and nothing squashed."""
    return loader_at(connection, [])


def before(loader: MigrationLoader, newest: Iterable[str]) -> list[Node]:
    """The state in which these, "app.name", are the newest of their apps: the ends of all that needs no later ones."""
    wanted = {(app, name) for app, _, name in (named.partition(".") for named in newest)}
    too_new = {
        node
        for app, name in wanted
        for child in loader.graph.node_map[app, name].children
        if child.key[0] == app
        for node in loader.graph.backwards_plan(child.key)
    }
    left = set(loader.graph.nodes) - too_new
    return sorted(left - {parent.key for node in left for parent in loader.graph.node_map[node].parents})


def landed(loader: MigrationLoader) -> list[tuple[str, list[Node]]]:
    """Each state by its newest migration. The first is that of the first apps; each further one adds one.

    An app that came later needs what other apps had come to by then, so its own first migration is a further one.
    """
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
