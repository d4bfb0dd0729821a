"""`manage.py migrate`, which makes the tables of an empty database at once and goes through no old states of them."""

from typing import Any

from django.core.management.commands import migrate
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from portal.keeping.schema import make_tables


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        asks_only = any(options[name] for name in ("plan", "check_unapplied", "prune"))
        if not asks_only and options["app_label"] is None and not connection.introspection.table_names():
            executor = MigrationExecutor(connection)
            make_tables(executor, executor.loader.graph.leaf_nodes())
            if options["verbosity"]:
                self.stdout.write("The database was empty: all tables are made.")
        super().handle(*args, **options)
