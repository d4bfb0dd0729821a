"""Run the processes under supervisord, tell the terminal what happens to them, and stop them all in order."""

import contextlib
import ctypes
import http.client
import signal
import subprocess
import sys
import time
import xmlrpc.client  # Our own supervisor, over a socket that only we can open.
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast
from urllib.parse import urlsplit

from supervisor.xmlrpc import SupervisorTransport

from tools.options import ROOT, Options

POLL_S = 0.5
LAST_LINES = 8
# Longer than every process's own time limit together.
STOP_LIMIT_S = 90.0
STEADY_S = 10
TROUBLE = {"BACKOFF", "FATAL", "EXITED"}
_LIBC = ctypes.CDLL(None)
_PR_SET_CHILD_SUBREAPER = 36


def _waits_for_orphans() -> None:
    """A guest's process is nobody's child, and libvirtd believes that it ended only when somebody has waited for it.

    The first process of a machine that has no init system may take seconds for that, or never do it.
    """
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Supervisor:
    """supervisord as our child. It gets no Ctrl-C of its own, and ends when we do."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.stop_asked = 0
        argv = [
            sys.executable,
            "-m",
            "supervisor.supervisord",
            "-n",
            "-s",
            "-c",
            str(options.run_dir / "supervisord.conf"),
        ]
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *argv],
            cwd=ROOT,
            env=options.child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(options.log_dir / "supervisord.err").open("w", encoding="utf-8"),
            start_new_session=True,
            preexec_fn=_waits_for_orphans,  # noqa: PLW1509 - One call of the kernel, nothing that a thread may hold.
        )
        self._told: dict[str, str] = {}

    def stop_on_signals(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_stop)

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_asked += 1

    @property
    def is_stopping(self) -> bool:
        return bool(self.stop_asked) or self.process.poll() is not None

    def wait_for(self, condition: Callable[[], bool], *, seconds: float) -> bool:
        """True once `condition` holds; False when the time is over or all is to stop. Tells of trouble meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.is_stopping:
            if condition():
                return True
            self.tell_trouble()
            time.sleep(POLL_S / 2)
        return False

    def watch(self) -> None:
        """Until a signal comes or the supervisor ends."""
        while not self.is_stopping:
            self.tell_trouble()
            time.sleep(POLL_S)

    def tell_trouble(self) -> None:
        """A line, and the end of its log, once for each time that a process gets into trouble."""
        for process in self._processes():
            name, state = process["name"], process["statename"]
            # A process that fails again and again is the same trouble until it has run for a while.
            if state == "RUNNING" and process["now"] - process["start"] >= STEADY_S:
                self._told.pop(name, None)
            elif state in TROUBLE and self._told.get(name) != _trouble(state):
                self._told[name] = _trouble(state)
                self._tell(name, state, process)

    def _tell(self, name: str, state: str, process: dict[str, Any]) -> None:
        log = self.options.log_dir / f"{name}.log"
        what_next = "It has failed too often and is not started again" if state == "FATAL" else "It is started again"
        ended = process["spawnerr"] if state == "FATAL" else f"exit code {process['exitstatus']}"
        print(f"{name} ended unexpectedly ({ended}). {what_next}; the last lines of {log}:", file=sys.stderr)
        for line in last_lines(log):
            print(f"  {line}", file=sys.stderr)

    def _processes(self) -> list[dict[str, Any]]:
        url = f"unix://{self.options.run_dir / 'supervisor.sock'}"
        proxy = xmlrpc.client.ServerProxy("http://localhost", transport=SupervisorTransport(None, None, url))
        # It may not listen yet, or no longer.
        with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error), proxy:
            return cast(list[dict[str, Any]], proxy.supervisor.getAllProcessInfo())
        return []

    def stop(self) -> None:
        """End everything, in order; a second Ctrl-C or a passed limit ends it at once."""
        asked_before = self.stop_asked
        if self.process.poll() is None:
            self.process.terminate()
        deadline = time.monotonic() + STOP_LIMIT_S
        while self.process.poll() is None and time.monotonic() < deadline and self.stop_asked <= asked_before:
            time.sleep(0.05)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def _trouble(state: str) -> str:
    return "given up" if state == "FATAL" else "failing"


def last_lines(log: Path, count: int = LAST_LINES) -> Iterator[str]:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(log.stat().st_size - 16384, 0))
        yield from file.read().decode(errors="replace").splitlines()[-count:]


def web_answers(options: Options) -> bool:
    """True once the portal gives an answer that is not its own failure."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.bind, options.bind)  # noqa: S104 - compared, not bound
    connection = http.client.HTTPConnection(host, options.port, timeout=10)
    try:
        connection.request("GET", f"{urlsplit(options.url).path}/", headers={"Host": urlsplit(options.url).netloc})
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
