"""A real worker gives signs of life, names its queues, logs as asked, and says goodbye."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from channels.layers import InMemoryChannelLayer
from pytest_django.fixtures import Settings

from portal.lib import live, pulse
from tests.support.product import wait_for
from tests.support.redis import redis_db, redis_url
from workers import signs

__all__ = ["redis_db", "redis_url"]

ROOT = Path(__file__).resolve().parents[2]


def test_a_worker_lives_while_it_runs(redis_db: str, tmp_path: Path) -> None:
    argv = ["-q", "-A", "workers.celery:app", "worker", "-Q", "default,host.local", "-n", "worker@here", "-P", "solo"]
    environment = {
        "PATH": os.environ["PATH"],
        "CASEMENT_HOME": str(tmp_path),
        "SECRET_KEY": "0123456789abcdefghijklmnopqrstuvwxyz" * 2,
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "REDIS_URL": redis_db,
        "LOG_FORMAT": "json",
    }
    log = tmp_path / "worker.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", *argv, "--without-gossip", "--without-mingle"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for("the worker's first sign", lambda: process.poll() is None and pulse.living().workers, seconds=180)
        wait_for("it works", lambda: " ready." in log.read_text(), seconds=60)
        living = pulse.living()
        assert living.workers == ("worker@here",)
        assert living.queues == {"default", "host.local"}
        assert not living.watcher
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert pulse.living().workers == (), "it said goodbye, so nobody waits for its silence"
    # Celery's signal handler has its last word without any logging.
    written = [line for line in log.read_text().splitlines() if line and not line.startswith("worker: Warm shutdown")]
    lines = [json.loads(line) for line in written]
    assert "worker@here ready." in {line["message"] for line in lines}, "INFO, as LOG_LEVEL says"


def test_a_redis_that_is_away_stops_nobody(settings: Settings, tmp_path: Path) -> None:
    settings.REDIS_URL = f"unix://{tmp_path}/none.sock"
    pulse.beat("worker|x|y")
    pulse.end("worker|x|y")


def test_its_children_tell_tabs_from_one_loop_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop for each message would connect to Redis for each."""
    monkeypatch.setattr(live, "_loop", None)
    layer = InMemoryChannelLayer()
    monkeypatch.setattr(live, "get_channel_layer", lambda: layer)
    channel = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("operators", channel)
    signs._begin_child()
    loop = live._loop
    assert loop is not None
    seen: list[asyncio.AbstractEventLoop] = []
    monkeypatch.setattr(layer, "group_send", _noting(seen, layer.group_send))
    live._publish([("operators", ["machines"], False)])
    live._publish([("operators", ["jobs"], False)])
    assert [async_to_sync(layer.receive)(channel)["topics"] for _each in "12"] == [["machines"], ["jobs"]]
    assert seen == [loop, loop]
    loop.call_soon_threadsafe(loop.stop)
    wait_for("its loop has stopped", lambda: not loop.is_running(), seconds=60)
    loop.close()


Send = Callable[..., Awaitable[None]]


def _noting(seen: list[asyncio.AbstractEventLoop], send: Send) -> Send:
    async def noted(*args: object) -> None:
        seen.append(asyncio.get_running_loop())
        await send(*args)

    return noted
