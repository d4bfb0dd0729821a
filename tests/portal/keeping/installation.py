"""Casement in a folder of its own, spoken to as an administrator does: by `manage.py` in processes of their own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import environ
import psycopg

from tests.support.warm import ROOT, python

__all__ = ["ROOT", "Installation", "replace_database", "rows_in"]


@dataclass(frozen=True)
class Installation:
    """`database` is a DATABASE_URL; empty for the SQLite file in `home`. `more` is further environment."""

    home: Path
    database: str = ""
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        own = {"PATH": os.environ["PATH"], "CASEMENT_HOME": str(self.home), "PYTHONPATH": str(ROOT), **self.more}
        return own | ({"DATABASE_URL": self.database} if self.database else {})

    def manage(self, *arguments: str, fails: bool = False) -> str:
        """What the command printed. It must fail exactly when that is expected."""
        done = self.python("manage.py", *arguments)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def shell(self, code: str) -> str:
        """What the code printed, run with Django set up."""
        done = self.python("-c", f"import django; django.setup()\n{code}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def python(self, *argv: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | {"DJANGO_SETTINGS_MODULE": "portal.settings"}
        return python(argv, environment=environment, timeout_s=250)

    def make(self) -> None:
        """The settings that bin/run writes, and the tables."""
        self._write_settings()
        if self.database:
            server, _, name = self.database.rpartition("/")
            replace_database(server, name, template=_migrated_postgresql(server))
        else:
            (self.home / "db.sqlite3").write_bytes(_migrated_sqlite())

    def make_older(self, *migrations: str) -> None:
        """The tables of a state in which these of its apps were the newest, and nothing that needs later ones."""
        self._write_settings()
        self.shell(
            "from django.db import connection\n"
            "from django.db.migrations.executor import MigrationExecutor\n"
            "from tests.support.states import before, loader_of_all\n"
            "executor = MigrationExecutor(connection)\n"
            "executor.loader = loader_of_all(connection)\n"
            f"executor.migrate(before(executor.loader, {migrations!r}))"
        )

    def _write_settings(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        if "SECRET_KEY" not in self.more:
            (self.home / "casement.env").write_text(f"SECRET_KEY={secrets.token_urlsafe(50)}\nTRUST_PROXY=true\n")

    def fill(self) -> None:
        """Two rows in every table of the state that the database is in, and a sealed secret."""
        self.shell(
            "from django.db import connection\n"
            "from django.db.migrations.loader import MigrationLoader\n"
            "from portal.keeping import rows, schema\n"
            "from portal.lib.secrets import seal\n"
            "from tests.support.filling import fill\n"
            "models = rows.models_at(schema.applied(MigrationLoader(connection)))\n"
            "fill(models.values())\n"
            "models['machines.machine'].objects.update(login_password=seal('first-password'))"
        )

    def first_passwords(self) -> str:
        """As the page would show them."""
        return self.shell(
            "from portal.lib.secrets import unseal\nfrom portal.machines.models import Machine\n"
            "print({unseal(machine.login_password) for machine in Machine.objects.all()})"
        )

    def project_names(self) -> str:
        return self.shell(
            "from portal.accounts.models import Project\nprint(sorted(Project.objects.values_list('name', flat=True)))"
        )

    def rows(self, folder: Path) -> dict[str, list[Any]]:
        """Every row of every table that is kept, read through a backup."""
        path = folder / f"rows-{secrets.token_hex(4)}.zip"
        self.manage("backup", str(path))
        return rows_in(path)


# Databases with all tables and no rows, made once: migrating takes longer than most of what is tried.


@cache
def _migrated_sqlite() -> bytes:
    with _elsewhere() as there:
        return (there.home / "db.sqlite3").read_bytes()


@cache
def _migrated_postgresql(server: str) -> str:
    name = "casement_migrated"
    replace_database(server, name)
    with _elsewhere(f"{server}/{name}"):
        return name


@contextmanager
def _elsewhere(database: str = "") -> Iterator[Installation]:
    with tempfile.TemporaryDirectory(prefix="casement-tests-") as folder:
        home = Path(folder)
        (home / "casement.env").write_text(f"SECRET_KEY={secrets.token_urlsafe(50)}\n")
        there = Installation(home, database)
        there.manage("migrate", "-v0")
        yield there


def replace_database(server: str, name: str, *, template: str = "template0") -> None:
    """An empty one, or a copy, on this server of the tests' own."""
    settings = environ.Env.db_url_config(f"{server}/postgres")
    with psycopg.connect(
        host=settings["HOST"], user=settings["USER"], dbname=settings["NAME"], autocommit=True
    ) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())  # Whoever was killed may linger.
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())


def rows_in(path: Path) -> dict[str, list[Any]]:
    """The rows of a backup, by model, as they stand there: columns first."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("rows/")]
        return {
            name.removeprefix("rows/").removesuffix(".jsonl"): [
                json.loads(line) for line in archive.read(name).splitlines()
            ]
            for name in names
        }
