"""A web process with a real Redis, which this process's changes reach as a worker's do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from portal import settings as portal_settings
from portal.machines.models import Machine
from tests.support.redis import redis_db, redis_url
from tests.support.web import Web, web_processes

__all__ = ["redis_db", "redis_url"]


@pytest.fixture
def web(machine: Machine, redis_db: str, settings: Settings, tmp_path: Path) -> Iterator[Web]:
    layer = portal_settings.CHANNEL_LAYERS["default"]
    host = {**layer["CONFIG"]["hosts"][0], "address": redis_db}  # type: ignore[index]
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": {**layer["CONFIG"], "hosts": [host]}}}  # type: ignore[dict-item]
    environment = {"DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings", "REDIS_URL": redis_db}
    with web_processes(1, environment, tmp_path) as (one,):
        yield one
