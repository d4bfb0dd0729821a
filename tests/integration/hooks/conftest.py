"""Workers as processes, with a real database and Redis, and an outside world on this machine's own addresses."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from celery import Celery
from pytest_django.fixtures import Settings
from tools import programs

from portal import settings as portal_settings
from portal.lib import bus
from tests.support.outside import Outside, outside_world
from tests.support.product import ROOT
from tests.support.redis import redis_db, redis_url
from tests.support.web import database_url

__all__ = ["redis_db", "redis_url"]

ADDRESS = "127.0.0.2"
StartWorker = Callable[..., AbstractContextManager[subprocess.Popen[bytes]]]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with outside_world(tmp_path / "outside") as world:
        yield world


@pytest.fixture
def environment(
    outside: Outside, redis_db: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, str]:
    """Of processes that share database, Redis and files with this one. Only tests may let loopback in: see settings."""
    layer = portal_settings.CHANNEL_LAYERS["default"]
    host = {**layer["CONFIG"]["hosts"][0], "address": redis_db}  # type: ignore[index]
    settings.CHANNEL_LAYERS = {"default": {**layer, "CONFIG": {**layer["CONFIG"], "hosts": [host]}}}  # type: ignore[dict-item]
    settings.BUS_IN_TESTS = True
    settings.IMAGES_DIR, settings.UPLOADS_DIR = tmp_path / "home" / "images", tmp_path / "home" / "uploads"
    app = Celery("portal", broker=redis_db.replace("unix://", "redis+socket://", 1), set_as_current=False)
    app.conf.update(broker_transport_options=bus.BROKER_OPTIONS, task_ignore_result=True)
    monkeypatch.setattr(bus, "_app", app)
    return {
        **os.environ,
        "CASEMENT_TESTING": "1",
        "CASEMENT_HOME": str(tmp_path / "home"),
        "DJANGO_SETTINGS_MODULE": "tests.bench.scale.settings",
        "PYTHONPATH": f"{ROOT / 'bin'}:{ROOT}",
        "DATABASE_URL": database_url(),
        "REDIS_URL": redis_db,
        "FETCH_PRIVATE_NETWORKS": f"{ADDRESS}/32",
        "SSL_CERT_FILE": str(outside.authority.ca),
    }


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> StartWorker:
    """Starts one as `bin/run` does."""

    @contextmanager
    def start(name: str, concurrency: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        argv = programs._celery_worker(name, name, str(concurrency), *more)
        with (tmp_path / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return start
