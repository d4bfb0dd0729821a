"""Two web processes with one database and one Redis behind them, and a gateway with a web process for its tickets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings

from portal.accounts.models import User
from portal.console.models import ConsoleSession
from portal.console.tickets import SUBPROTOCOL_PREFIX
from portal.lib.secrets import seal
from portal.machines.models import Machine
from tests.integration.console.doors.screens import SECRET
from tests.integration.console.doors.wire import GREETING, Closed, Wire
from tests.support.redis import redis_db, redis_url
from tests.support.web import HOST, Web, cookie_of, database_url, request, web_processes

__all__ = ["redis_db", "redis_url"]

ROOT = Path(__file__).resolve().parents[4]
LIMITS = {"USER": 4, "MACHINE": 6, "PROCESS": 10}
HANDSHAKE = 12 + 2 + 4 + 24 + len("beacon")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a browser: `cookie` is the header that it sends."""

    user: User
    cookie: str


@dataclass
class Door:
    """Where browsers knock. `webs` are the portal's web processes; `pid` is the process whose memory counts."""

    name: str
    port: int
    path: str
    webs: list[Web]
    pid: int
    log_dir: Path
    wires: list[Wire] = field(default_factory=list)

    @property
    def ports(self) -> list[int]:
        """All that may be knocked at."""
        return [web.port for web in self.webs] if self.name == "portal" else [self.port]

    def origin(self, port: int) -> str:
        """That of the pages that open this port."""
        return f"http://localhost:{port if self.name == 'portal' else self.webs[0].port}"

    def grant(self, person: Person, machine: Machine, *, mode: str = "control", web: int = 0) -> dict[str, str]:
        """What the ticket's page answers, which must be good."""
        answer = self.ask(person, f"/machines/{machine.pk}/console/ticket", {"mode": mode}, web=web)
        assert answer.status == 200, answer.text
        grant: dict[str, str] = json.loads(answer.text)
        return grant

    def ask(self, person: Person, path: str, form: dict[str, object] | None = None, *, web: int = 0) -> Any:
        """An ordinary request to one of the web processes."""
        connection = http.client.HTTPConnection(HOST, self.webs[web % len(self.webs)].port, timeout=60)
        with contextlib.closing(connection):
            return request(connection, path, cookie=person.cookie, form=form)

    def wire(self, port: int | None = None) -> Wire:
        """A bare connection, which is closed with the test at the latest."""
        self.wires.append(Wire(port or self.port))
        return self.wires[-1]

    def knock(
        self,
        cookie: str = "",
        *subprotocols: str,
        origins: tuple[str, ...] | None = None,
        port: int | None = None,
        behind: bytes = b"",
        target: str | None = None,
    ) -> Wire:
        """A WebSocket request; its answer is in `status`."""
        port = port or self.port
        wire = self.wire(port)
        headers = [("Host", f"localhost:{port}"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
        headers += [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Version", "13")]
        headers += [("Sec-WebSocket-Protocol", ", ".join(["binary", *subprotocols]))]
        headers += [("Origin", origin) for origin in (origins if origins is not None else (self.origin(port),))]
        headers += [("Cookie", cookie)] if cookie else []
        wire.ask(target or self.path, headers, behind=behind)
        return wire

    def enter(self, person: Person, machine: Machine, *, mode: str = "control") -> Wire:
        """A screen that is open."""
        wire = self.knock(person.cookie, SUBPROTOCOL_PREFIX + self.grant(person, machine, mode=mode)["ticket"])
        assert wire.status == 101
        wire.send(GREETING)
        wire.until(HANDSHAKE)
        return wire

    def refused(self, person: Person | None, *subprotocols: str) -> Closed:
        wire = self.knock(person.cookie if person else "", *subprotocols)
        assert wire.status == 101
        return wire.closed()

    def processes(self) -> list[int]:
        """The process, and its children if it has any."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def memory_kib(self) -> int:
        """What they hold themselves, in KiB: of forked processes, that which they do not share."""
        return sum(_private_kib(pid) for pid in self.processes())

    def logs(self) -> str:
        return "".join(path.read_text() for path in self.log_dir.glob("*.log"))


def _private_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def environment_with(redis: str) -> dict[str, str]:
    limits = {f"CONSOLE_MAX_SESSIONS_PER_{name}": str(count) for name, count in LIMITS.items()}
    return {"REDIS_URL": redis, "LOG_LEVEL": "DEBUG", **limits}


@pytest.fixture(scope="session")
def portal_door(
    django_db_setup: None, django_db_blocker: Any, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    log_dir = tmp_path_factory.mktemp("portal-door")
    # Both are the portal: its pages may come from either and open the console at the other.
    with contextlib.ExitStack() as stack:
        webs = stack.enter_context(web_processes(2, environment_with(redis_url), log_dir))
        yield Door("portal", webs[0].port, "/ws/console/", webs, webs[0].pid, log_dir)


@pytest.fixture(scope="session")
def gateway_door(
    django_db_setup: None, django_db_blocker: Any, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    with running_gateway(redis_url, tmp_path_factory.mktemp("gateway-door")) as door:
        yield door


@contextlib.contextmanager
def running_gateway(redis: str, log_dir: Path) -> Iterator[Door]:
    listener = socket.create_server((HOST, 0), backlog=1024)
    port = listener.getsockname()[1]
    environment = environment_with(redis) | {"CONSOLE_GATEWAY_URL": f"ws://localhost:{port}/screens"}
    with listener, web_processes(1, environment, log_dir) as webs:
        own = {"CASEMENT_URL": f"http://localhost:{webs[0].port}", "DATABASE_URL": database_url()}
        with (log_dir / "gateway.log").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "gateway", "--fd", str(listener.fileno())],
                cwd=ROOT,
                env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **environment, **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[listener.fileno()],
            )
        try:
            _wait_for_gateway(port)
            yield Door("gateway", port, "/screens", webs, process.pid, log_dir)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) is not None


def _wait_for_gateway(port: int) -> None:
    """Its socket is ours and takes connections at once; it answers when it is there."""
    wire = Wire(port)
    wire.socket.settimeout(120)
    assert wire.ask("/", [("Host", "localhost")]) == 404
    wire.socket.close()


@pytest.fixture(params=["portal", "gateway"])
def door(request: pytest.FixtureRequest, transactional_db: None, redis_db: str) -> Iterator[Door]:
    chosen: Door = request.getfixturevalue(f"{request.param}_door")
    yield chosen
    while chosen.wires:
        chosen.wires.pop().socket.close()
    # The next test begins with empty tables and an empty Redis, so nothing of this one may still be on its way there.
    eventually(lambda: not ConsoleSession.objects.filter(ended_at=None).exists())


@pytest.fixture
def sit_down() -> Callable[[User], Person]:
    return lambda user: Person(user, cookie_of(user))


@pytest.fixture
def screen(machine: Machine, socket_path: str) -> Machine:
    """Alice's machine, with a display behind it that counts as QEMU's."""
    machine.console_socket, machine.console_secret = socket_path, seal(SECRET)
    machine.save()
    return machine


@pytest.fixture
def socket_paths() -> Iterator[Callable[[], str]]:
    """Further paths for UNIX sockets."""
    with TemporaryDirectory(prefix="casement-vnc-") as directory:
        numbers = iter(range(1000))
        yield lambda: str(Path(directory) / f"{next(numbers)}.sock")


def eventually(condition: Callable[[], object], patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def within(seconds: float, attempt: Callable[[], float]) -> None:
    """`attempt` gives how long something took."""
    took = attempt()
    assert took < seconds, took


def copy_of(machine: Machine, number: int, **values: object) -> Machine:
    """Another machine like it, on the same display unless `values` name one."""
    row = Machine.objects.get(pk=machine.pk)
    row.pk, row.request_key, row._state.adding = uuid4(), uuid4(), True
    own = {"name": f"copy-{number}", "mac": f"52:54:00:00:01:{number:02x}", **values}
    for name, value in own.items():
        setattr(row, name, value)
    row.save()
    return row


def session_key(person: Person) -> str:
    return person.cookie.partition(f"{django_settings.SESSION_COOKIE_NAME}=")[2].partition(";")[0]
