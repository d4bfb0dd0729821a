"""A web process with a real Redis, which this process's changes reach as a worker's do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from portal import settings as portal_settings
from portal.accounts.models import ApiToken, User
from portal.accounts.tokens import make_token
from portal.machines.models import Machine
from tests.integration.api.shell import Shell
from tests.support.redis import redis_db, redis_url
from tests.support.web import Web, web_processes

__all__ = ["redis_db", "redis_url"]


@pytest.fixture(scope="module")
def process(django_db_setup: None, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One for all tests of a file: it takes seconds to start, and keeps nothing of its own between requests."""
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_url}
    with web_processes(1, environment, tmp_path_factory.mktemp("web")) as (one,):
        yield one


@pytest.fixture
def web(process: Web, machine: Machine, redis_db: str, settings: Settings) -> Web:
    layer = portal_settings.CHANNEL_LAYERS["default"]
    host = {**layer["CONFIG"]["hosts"][0], "address": redis_db}  # type: ignore[index]
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": {**layer["CONFIG"], "hosts": [host]}}}  # type: ignore[dict-item]
    return process


@pytest.fixture
def shell(web: Web, alice: User, tmp_path: Path) -> Iterator[Shell]:
    day = dt.timedelta(days=1)
    _row, secret = make_token(alice, actor=alice, name="cli", scope=ApiToken.Scope.WRITE, lifetime=day)
    found = Shell(tmp_path, f"http://localhost:{web.port}", secret)
    yield found
    found.end()
