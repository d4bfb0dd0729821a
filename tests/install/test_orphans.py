"""Processes that outlived their supervisor are ended; nobody else's are."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.orphans import end_orphans, marked


def _sleeper(home: Path, *, stubborn: bool = False, **environ: str) -> "subprocess.Popen[bytes]":
    command = 'trap "" TERM; while :; do sleep 1; done' if stubborn else "exec sleep 60"
    environment = {"PATH": os.environ["PATH"], "CASEMENT_SUPERVISED": str(home), **environ}
    return subprocess.Popen(["bash", "-c", command], env=environment, start_new_session=True)


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_the_marked_are_ended_and_others_spared(tmp_path: Path, started: list["subprocess.Popen[bytes]"]) -> None:
    ours, others = _sleeper(tmp_path / "a"), _sleeper(tmp_path / "b")
    mere_home = _sleeper(tmp_path / "b", CASEMENT_HOME=str(tmp_path / "a"))
    started += [ours, others, mere_home]
    _wait_for(ours.pid, tmp_path / "a")
    assert end_orphans(tmp_path / "a") == 1
    assert ours.wait(60) == -15
    assert others.poll() is None
    assert mere_home.poll() is None
    assert end_orphans(tmp_path / "a") == 0


def test_one_that_does_not_listen_is_killed(tmp_path: Path, started: list["subprocess.Popen[bytes]"]) -> None:
    process = _sleeper(tmp_path, stubborn=True)
    started.append(process)
    _wait_for(process.pid, tmp_path)
    _wait_for_its_trap(process.pid)
    assert end_orphans(tmp_path, grace_s=0.5) >= 1
    assert process.wait(60) == -9


def test_it_does_not_end_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASEMENT_SUPERVISED", str(tmp_path))
    assert end_orphans(tmp_path) == 0


def _wait_for_its_trap(pid: int) -> None:
    """Until the kernel says that it ignores or catches SIGTERM."""
    deadline = time.monotonic() + 60
    while not any(_mask(pid, name) & 1 << (signal.SIGTERM - 1) for name in ("SigIgn", "SigCgt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _mask(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith(f"{name}:"))


def _wait_for(pid: int, home: Path) -> None:
    deadline = time.monotonic() + 60
    while pid not in set(marked(home)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
