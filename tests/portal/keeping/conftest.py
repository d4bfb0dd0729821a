"""Installations on both databases, made and thrown away."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.portal.keeping.installation import Installation, replace_database
from tests.support.postgres import private_postgres
from tests.support.redis import redis_db, redis_url

__all__ = ["redis_db", "redis_url"]

# These bring databases of their own, of both kinds: once is enough, whatever database the other tests run on.
collect_ignore = ["test_backup.py", "test_hostile.py", "test_killed.py"] if os.environ.get("DATABASE_URL") else []

ENGINES = ["sqlite", "postgresql"]

Make = Callable[..., Installation]
Saved = Callable[[str], Path]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with private_postgres() as url:
        yield url


def _installation(engine: str, home: Path, request: pytest.FixtureRequest, more: dict[str, str]) -> Installation:
    # No Redis: bin/run's ends with the portal, and a restore is done while it does not run.
    more = {"REDIS_URL": f"unix://{home}/none.sock", **more}
    if engine == "sqlite":
        return Installation(home, more=more)
    server = request.getfixturevalue("postgres").rpartition("/")[0]
    name = f"casement_{secrets.token_hex(6)}"
    replace_database(server, name)
    return Installation(home, f"{server}/{name}", more)


@pytest.fixture
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Make:
    """An empty folder with an empty database of this engine; nothing is in it yet."""
    return lambda engine, **more: _installation(engine, tmp_path / secrets.token_hex(6), request, more)


@pytest.fixture(scope="session")
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The backup of an installation with rows in every table, made once; tests only read it."""

    @cache
    def of(engine: str) -> Path:
        here = _installation(engine, tmp_path_factory.mktemp(engine), request, {})
        here.make()
        here.fill()
        here.manage("backup", str(here.home / "casement.zip"))
        return here.home / "casement.zip"

    return of


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)
