"""Run the tools of the trade as argv lists: watched, limited, and never left behind."""

import contextlib
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Timer

from workers.imaging.errors import CommandFailed

TAIL_LINES = 60
GRACE_SECONDS = 5
# Package scripts run with this environment, so it must not hand them the worker's secrets.
PASSED_ON = (
    "CASEMENT_SUPERVISED",  # By this mark bin/run finds, after a crash, what it had started.
    "HOME",
    "LOGNAME",
    "PATH",
    "USER",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)


@dataclass(frozen=True)
class Limits:
    """Limits for one child, None for no limit: address space and file size in bytes, CPU and clock in seconds."""

    address_space: int | None = None
    file_size: int | None = None
    cpu_seconds: int | None = None
    timeout: float | None = None


def run(
    argv: Sequence[str],
    *,
    limits: Limits = Limits(),
    on_line: Callable[[str], None] = lambda line: None,
    stdin: str | None = None,
    extra_env: Mapping[str, str] | None = None,
    keep_lines: int | None = TAIL_LINES,
    merge_errors: bool = True,
) -> str:
    """Run `argv` to its end and return the last `keep_lines` of its output (None for all of it).

    The output is stdout and stderr together, or without `merge_errors` stdout alone.

    `on_line` sees each line as it comes; if it raises, the whole process group is ended and the exception goes on.
    `stdin` must be small (below a pipe's 64 KiB), because it is written before the output is read.
    Raises CommandFailed when the tool cannot be started, fails, or exceeds a limit.
    """
    tail: deque[str] = deque(maxlen=keep_lines)
    with _started(argv, limits, stdin, extra_env, merge_errors) as child, _deadline(child, limits.timeout) as expired:
        for line in child.stdout or ():
            tail.append(line.rstrip())
            on_line(line.rstrip())
        code = child.wait()
    text = "\n".join(tail)
    if expired.is_set():
        raise CommandFailed(f"{Path(argv[0]).name} took longer than {limits.timeout:.0f} s.", text)
    if code != 0:
        raise CommandFailed(f"{Path(argv[0]).name} {_how_it_ended(code)}.", text)
    return text


def _how_it_ended(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"


@contextlib.contextmanager
def _started(
    argv: Sequence[str],
    limits: Limits,
    stdin: str | None,
    extra_env: Mapping[str, str] | None,
    merge_errors: bool,
) -> Iterator["subprocess.Popen[str]"]:
    try:
        child = subprocess.Popen(
            [*_wrapper(limits), *argv],
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merge_errors else subprocess.DEVNULL,
            text=True,
            errors="replace",
            env=_environment(extra_env or {}),
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(f"{Path(argv[0]).name} could not be started: {error.strerror}.") from error
    try:
        if child.stdin is not None and stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # Its exit code tells the story better.
                child.stdin.write(stdin)
                child.stdin.close()
        yield child
    finally:
        _end(child)


def _wrapper(limits: Limits) -> list[str]:
    """util-linux's setpriv and prlimit in front of the tool: no Python code runs between fork and exec.

    The parent's death is passed on as SIGTERM, so that a worker's SIGKILL leaves no tool at work on its files.
    """
    wanted = {"--as": limits.address_space, "--fsize": limits.file_size, "--cpu": limits.cpu_seconds}
    options = [f"{name}={value}" for name, value in wanted.items() if value is not None]
    return ["setpriv", "--pdeathsig", "TERM", "--", "prlimit", "--core=0", *options, "--"]


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    # Administrators' tools live in sbin, which is not on an ordinary user's PATH.
    passed["PATH"] = passed.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"
    return {**passed, "LC_ALL": "C.UTF-8", **extra}


@contextlib.contextmanager
def _deadline(child: "subprocess.Popen[str]", seconds: float | None) -> Iterator[Event]:
    expired = Event()

    def expire() -> None:
        expired.set()
        _signal_group(child, signal.SIGKILL)

    timer = Timer(seconds, expire) if seconds is not None else None
    if timer is not None:
        timer.start()
    try:
        yield expired
    finally:
        if timer is not None:
            timer.cancel()


def _end(child: "subprocess.Popen[str]") -> None:
    if child.poll() is None:
        _signal_group(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
        _signal_group(child, signal.SIGKILL)
        child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _signal_group(child: "subprocess.Popen[str]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)
