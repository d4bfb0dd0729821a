"""The programs that are measured beside each other, each on a core of its own, and the two ends that measure them.

A door is a context manager that starts a server in front of the display at `Stage.display` and yields a `Door`. Another
one joins by being put into `DOORS`.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import redis

from portal.console import tickets
from portal.console.tickets import SUBPROTOCOL_PREFIX, Claim, Mode
from tests.support.redis import private_redis

SOURCE: Final = Path(__file__).with_name("screens.c")
SECRET: Final = "s3cr3t"
CORES: Final = sorted(os.sched_getaffinity(0))
SERVER_CORE: Final = {CORES[0]}
CLIENT_CORE: Final = {CORES[-1]}
"""With one core only, both ends share it, and the numbers say little."""
WIDE: Final = 0
"""As the server has it itself."""
NARROW: Final = 8192
UVICORN: Final = ("--ws", "portal.console.stream:StreamProtocol", "--ws-per-message-deflate", "false")
QUIET: Final = ("--no-access-log", "--lifespan", "off", "--log-level", "warning", "--timeout-graceful-shutdown", "1")


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a measurement takes place: the compiled program, the display's socket, Redis."""

    folder: Path
    program: Path
    display: Path
    redis_url: str
    admissions: Callable[[int], list[str]] | None = None
    """Header lines for so many connections to a whole door."""

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """No core sleeps meanwhile, so that a core's waking up does not count as a relay's time."""
        argv = [str(self.program), "awake"]
        with running(argv, SERVER_CORE), running(argv, CLIENT_CORE):
            yield


@dataclass(slots=True)
class Door:
    """A server that listens. `lines` gives header lines for so many connections, None for a door without WebSocket."""

    stage: Stage
    port: int
    process: subprocess.Popen[bytes]
    lines: Callable[[int], list[str]] | None
    narrow: Door | None = None
    """The same server again, which reads no more than 8 KiB of the display at once."""
    _files: list[Path] = field(default_factory=list)

    def run(self, what: str, *arguments: int | str, connections: int) -> dict[str, Any]:
        """One measurement by the program; what it prints last."""
        with self.client(what, *arguments, connections=connections) as client:
            output, _ = client.communicate(timeout=300)
        if client.returncode:
            raise RuntimeError(f"the measurement {what} failed at port {self.port}")
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result

    @contextlib.contextmanager
    def client(self, what: str, *arguments: int | str, connections: int) -> Iterator[subprocess.Popen[bytes]]:
        kind = "raw"
        if self.lines is not None:
            path = self.stage.folder / f"{what}-{secrets.token_hex(4)}"
            path.write_text("".join(f"{line}\n" for line in self.lines(connections)))
            kind = str(path)
        argv = [str(self.stage.program), what, str(self.port), kind, *map(str, arguments)]
        client = pinned(argv, CLIENT_CORE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            yield client
        finally:
            if client.poll() is None:
                client.kill()
            client.wait()
            for pipe in (client.stdin, client.stdout):
                assert pipe is not None
                pipe.close()

    def cpu_seconds(self) -> float:
        """Of the server and all that it has started, also of those that have ended."""
        return sum(_cpu_seconds(pid) for pid in family(self.process.pid))

    def memory(self) -> int:
        """Bytes that belong to the server and what it has started, and to nobody else."""
        return sum(_private_bytes(pid) for pid in family(self.process.pid))


@contextlib.contextmanager
def stage(admissions: Callable[[int], list[str]] | None = None) -> Iterator[Stage]:
    """Compile the program and start the display and Redis."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("this benchmark needs a C compiler (apt install gcc)")
    with tempfile.TemporaryDirectory(prefix="casement-bench-") as name, private_redis() as redis_url:
        folder = Path(name)
        program, display = folder / "screens", folder / "display.sock"
        subprocess.run([compiler, "-O2", "-o", str(program), str(SOURCE)], check=True)
        with running([str(program), "display", str(display)], CLIENT_CORE):
            _until(display.exists, "the display")
            yield Stage(folder, program, display, redis_url, admissions)


@contextlib.contextmanager
def door_one(stage: Stage, reads: int = WIDE) -> Iterator[Door]:
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "REDIS_URL": stage.redis_url,
        "BENCH_DISPLAY": str(stage.display),
        "BENCH_SECRET": SECRET,
        "BENCH_READS": str(reads),
        "LOG_LEVEL": "ERROR",
    }
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "tests.bench.screens.door:application", "--port", str(port)]
    with running([*argv, *UVICORN, *QUIET], SERVER_CORE, {**os.environ, **environment}) as process:
        _until(lambda: _answers(port), "door 1")
        yield Door(stage, port, process, lambda count: with_tickets(stage.redis_url, count))


@contextlib.contextmanager
def websockify(stage: Stage, reads: int = WIDE) -> Iterator[Door]:
    port = free_port()
    argv = [*_reading(reads, "websockify"), "--unix-target", str(stage.display), f"127.0.0.1:{port}"]
    with running(argv, SERVER_CORE, quiet=True) as process:
        _until(lambda: _answers(port), "websockify")
        yield Door(stage, port, process, lambda _count: ["Sec-WebSocket-Protocol: binary"])


@contextlib.contextmanager
def raw_relay(stage: Stage, reads: int = WIDE) -> Iterator[Door]:
    port = free_port()
    argv = [str(stage.program), "relay", str(port), str(stage.display), str(reads)]
    with running(argv, SERVER_CORE) as process:
        _until(lambda: _answers(port), "the raw relay")
        yield Door(stage, port, process, None)


Opens = Callable[[Stage, int], AbstractContextManager[Door]]

DOORS: dict[str, Opens] = {
    "door 1": door_one,
    "websockify": websockify,
    "raw": raw_relay,
}


@contextlib.contextmanager
def in_both_widths(opens: Opens, stage: Stage) -> Iterator[Door]:
    with opens(stage, WIDE) as door, opens(stage, NARROW) as narrow:
        door.narrow = narrow
        yield door


def _reading(reads: int, what: str) -> list[str]:
    return [sys.executable, "-m", "tests.bench.screens.reads", str(reads), what]


@contextlib.contextmanager
def whole_door_one(stage: Stage) -> Iterator[Door]:
    """The portal itself: the session's cookie, the live permission, the row and the audit row come with it."""
    port = free_port()
    argv = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--port", str(port)]
    with running([*argv, *UVICORN, *QUIET], SERVER_CORE, _portal(stage)) as process:
        _until(lambda: _answers(port), "the portal", 60)
        yield Door(stage, port, process, stage.admissions)


@contextlib.contextmanager
def whole_door_two(stage: Stage, reads: int = WIDE) -> Iterator[Door]:
    """The gateway, which has no other form than the whole one."""
    port = free_port()
    argv = [*_reading(reads, "gateway"), "--port", str(port)]
    with running(argv, SERVER_CORE, _portal(stage)) as process:
        _until(lambda: _answers(port), "the gateway", 60)
        yield Door(stage, port, process, stage.admissions)


def _portal(stage: Stage) -> dict[str, str]:
    limits = {f"CONSOLE_MAX_SESSIONS_PER_{name}": "10000" for name in ("USER", "MACHINE", "PROCESS")}
    own = {"REDIS_URL": stage.redis_url, "CASEMENT_URL": "http://localhost", "LOG_LEVEL": "ERROR"}
    return {**os.environ, **limits, **own}


def with_tickets(redis_url: str, count: int, claim: Claim | None = None) -> list[str]:
    """Header lines, each with a fresh ticket, made as the portal makes them."""
    claim = claim or Claim(1, "session", uuid4(), Mode.CONTROL)
    with redis.Redis.from_url(redis_url) as client, client.pipeline(transaction=False) as pipe:
        found = []
        for _ in range(count):
            token, key, value = tickets.prepare(replace(claim, number=uuid4()))
            pipe.set(key, value, ex=300)
            found.append(f"Sec-WebSocket-Protocol: binary, {SUBPROTOCOL_PREFIX}{token}")
        pipe.execute()
    return found


@contextlib.contextmanager
def running(
    argv: list[str], cores: set[int], environment: dict[str, str] | None = None, *, quiet: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    output = subprocess.DEVNULL if quiet else None
    process = pinned(argv, cores, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        for pid in reversed(family(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 15)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pinned(argv: list[str], cores: set[int], **how: Any) -> subprocess.Popen[bytes]:
    """A process that runs on these cores only, and whatever it starts as well."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        return subprocess.Popen(argv, **how)
    finally:
        os.sched_setaffinity(0, before)


def family(pid: int) -> list[int]:
    """The process and its descendants that live."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _cpu_seconds(pid: int) -> float:
    """Its own, and that of its children that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _private_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_", "Swap:")))


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def _until(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come up")
        time.sleep(0.05)
