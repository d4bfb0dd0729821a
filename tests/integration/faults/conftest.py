"""A Casement without browser and hypervisor: real Redis, real database, real worker and beat as processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from tools.programs import redis_server

from tests.support.product import ROOT, wait_for

WORKER = "tests.integration.faults.slow_worker:app"


@dataclass
class Backend:
    """Processes are kept by name, so that a test may stop one and start it again."""

    home: Path
    environment: dict[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def socket(self) -> Path:
        return self.home / "redis.sock"

    def start(self, name: str, *argv: str) -> None:
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(argv, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def start_redis(self) -> None:
        """Nothing is written to disk: whoever starts it anew gets an empty one."""
        options = ("--port", "0", "--unixsocket", str(self.socket), "--save", "", "--appendonly", "no")
        self.start("redis", redis_server(self.home), *options, "--dir", str(self.home))
        wait_for("Redis answers", self._redis_answers, seconds=60, every=0.05)

    def _redis_answers(self) -> bool:
        with redis.Redis.from_url(f"unix://{self.socket}") as client, contextlib.suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    def start_worker(self) -> None:
        """Threads, because a host in memory is one process's."""
        options = ("-Q", "default,images,host.local", "--pool", "threads", "--concurrency", "4", "--loglevel", "INFO")
        self.start("worker", sys.executable, "-m", "celery", "-A", WORKER, "worker", *options)

    def start_beat(self) -> None:
        self.start("beat", sys.executable, "-m", "celery", "-A", WORKER, "beat", "--pidfile=")

    def portal(self) -> Portal:
        """Another process of the portal."""
        argv = [sys.executable, "-m", "tests.integration.faults.portal_process"]
        process = subprocess.Popen(
            argv, cwd=ROOT, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.running[f"portal-{process.pid}"] = process  # type: ignore[assignment]  # In text mode; only ended there.
        return Portal(process)

    def log(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.home.glob("*.log")))


@dataclass
class Portal:
    process: subprocess.Popen[str]

    def __call__(self, command: str) -> Any:
        answer = self.ask(command)
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@pytest.fixture
def backend() -> Iterator[Backend]:
    with TemporaryDirectory(prefix="casement-faults-") as folder:
        home = Path(folder)
        environment = {name: value for name, value in os.environ.items() if name != "CASEMENT_TESTING"}
        environment |= {
            "CASEMENT_HOME": folder,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "SECRET_KEY": "abcdefghij" * 6,
            "DATABASE_URL": f"sqlite:///{home / 'db.sqlite3'}",
            "REDIS_URL": f"unix://{home / 'redis.sock'}",
            "PYTHONPATH": str(ROOT),
        }
        backend = Backend(home, environment)
        try:
            yield backend
        except BaseException:
            sys.stderr.write(backend.log())
            raise
        finally:
            for name in list(backend.running):
                backend.stop(name)
