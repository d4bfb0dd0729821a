"""A Redis of the tests' own, on a UNIX socket in a temporary directory; it ends with the session."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
from pytest_django import Settings
from tools.programs import redis_server


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with private_redis() as url:
        yield url


@contextlib.contextmanager
def private_redis() -> Iterator[str]:
    # Not pytest's own directory: a UNIX socket's path must be short.
    with TemporaryDirectory(prefix="casement-redis-") as directory:
        path = Path(directory) / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", directory]
        process = subprocess.Popen([redis_server(Path(directory)), *options], stdout=subprocess.DEVNULL)
        url = f"unix://{path}"
        try:
            _wait_for(url)
            yield url
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def redis_db(redis_url: str, settings: Settings) -> str:
    """An empty Redis that the settings point to."""
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    settings.REDIS_URL = redis_url
    return redis_url


def _wait_for(url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return
