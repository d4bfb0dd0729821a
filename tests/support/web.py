"""Real web processes: uvicorn on loopback, with the options of `bin/run` that matter, and a browser's part of HTTP."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.db import connection

from portal.accounts.models import User

START_S = 120
CSRF = "c" * 32
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str
    location: str
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Web:
    """A web process that answers."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """What it has used so far; other programs on the machine do not blur it."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def web_processes(count: int, environment: Mapping[str, str], log_dir: Path) -> Iterator[list[Web]]:
    """Yield `count` web processes on this process's database. `environment` is added to their own."""
    sockets = [socket.create_server((HOST, 0), backlog=4096) for _ in range(count)]
    for listener in sockets:
        # Handed down to what it accepts. uvicorn takes a socket that it is given for a UNIX one and does not set it
        # itself, which would add the 40 ms of a delayed acknowledgement to every answer.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ports = [listener.getsockname()[1] for listener in sockets]
    with contextlib.ExitStack() as stack:
        webs = [
            Web(port, stack.enter_context(web_process(listener, port, environment, log_dir / f"web-{port}.log")))
            for listener, port in zip(sockets, ports, strict=True)
        ]
        for web in webs:
            wait_for_web(web.port)
        yield webs


@contextlib.contextmanager
def web_process(listener: socket.socket, port: int, environment: Mapping[str, str], log: Path) -> Iterator[int]:
    """The socket is ours, so that no other program can take the port in between."""
    argv = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--fd", str(listener.fileno())]
    frames = ["--ws", "portal.console.stream:StreamProtocol", "--ws-per-message-deflate", "false"]
    frames += ["--ws-ping-interval", "20"]
    others = ["--no-access-log", "--lifespan", "off", "--no-proxy-headers", "--timeout-graceful-shutdown", "1"]
    own = {"DATABASE_URL": database_url(), "CASEMENT_URL": f"http://localhost:{port}", "CASEMENT_TESTING": "1"}
    with log.open("wb") as output, listener:
        process = subprocess.Popen(
            [*argv, *frames, *others],
            env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings", **own, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def database_url() -> str:
    """The database that this process is connected to, in a test the test database."""
    values = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{values['NAME']}"
    return f"postgres://{values['USER']}@/{values['HOST']}/{values['NAME']}"


def cookie_of(user: User) -> str:
    """A Cookie header of someone who has signed in."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    return f"{settings.SESSION_COOKIE_NAME}={session.session_key}; {settings.CSRF_COOKIE_NAME}={CSRF}"


def request(
    connected: http.client.HTTPConnection, path: str, *, cookie: str, form: Mapping[str, object] | None = None
) -> Answer:
    """GET, or with a form POST, on a connection that stays open."""
    headers = {"Cookie": cookie, "Host": "localhost"}
    if form is None:
        connected.request("GET", path, headers=headers)
    else:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        connected.request("POST", path, urlencode({**form, "csrfmiddlewaretoken": CSRF}), headers)
    answer = connected.getresponse()
    policy = answer.getheader("Content-Security-Policy") or ""
    return Answer(answer.status, answer.read().decode(), answer.getheader("Location") or "", policy)


def wait_for_web(port: int) -> None:
    """Until Django answers there: its imports take seconds, during which the socket only queues."""
    deadline = time.monotonic() + START_S
    while True:
        connected = http.client.HTTPConnection(HOST, port, timeout=START_S)
        try:
            connected.request("GET", "/login/", headers={"Host": "localhost"})
            connected.getresponse().read()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
        finally:
            connected.close()
