"""`bin/test`: every check and every test as stages, all run to their end, with a summary of what failed.

Two lanes of tests run beside each other: one has the machine's hypervisor to itself, the other does without. What needs
neither the one nor the other's place is taken by whichever lane is through first.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Lock

from tests.support.postgres import private_postgres
from tools.options import ROOT

STAGE_LIMIT_S = 60 * 60
# Of our own names, those that whoever runs the tests may set.
FOR_TESTS = {"CASEMENT_ARTEFACTS", "CASEMENT_E2E_HOME"}
UNIT = ("tests/portal", "tests/workers", "tests/install", "tests/support")
RACES = "tests/integration/races"  # They are as much about the database as about us, so they run on both.
FAULTS = "tests/integration/faults"
BROWSERS = "tests/integration/console"
ACCESSIBILITY = "tests/integration/test_accessibility.py"
_ALONE = ("hypervisor", "profiles", "crash/test_real.py", "crash/test_real_devices.py")
TWO = ("-n", "2", "--dist", "worksteal")
NEED_HYPERVISOR = tuple(f"tests/integration/{name}" for name in _ALONE)
PRINTING = Lock()
ELSEWHERE = (*NEED_HYPERVISOR, FAULTS, BROWSERS, ACCESSIBILITY)
# pytest's: the list of what failed; and of each a line with its name, the error's lines, and where it was raised.
FAILED = re.compile(r"(FAILED|ERROR) ")
WHY = re.compile(r"(____* \S+ ____*$|E   |(tests|portal|workers|bin)/\S+\.py:\d+: \w+$)")
MOST_RECALLED = 40


@dataclass(frozen=True)
class Stage:
    """One command. `missing` says in one sentence why it cannot be run here; it then counts as skipped."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass(frozen=True)
class Outcome:
    stage: Stage
    code: int
    seconds: float
    output: str = ""


def main(argv: list[str]) -> int:
    only, arguments = _split([word for word in argv if word != "--all"])
    turn = None if "--all" in argv else _turn()
    # Whatever a stage leaves in its home is gone afterwards.
    with tempfile.TemporaryDirectory(prefix="casement-test-") as home:
        os.environ["CASEMENT_TEST_HOME"] = home
        return _all(only, arguments, turn)


def _turn() -> int:
    """Another one with each commit."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return int(done.stdout[:4] or "0", 16)


def _all(only: Sequence[str], arguments: Sequence[str], turn: int | None) -> int:
    if arguments:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments], env=_environment({}, name="some"), check=False
        ).returncode
    outcomes = [*_run_checks(_chosen(checks(), only)), *_run_tests(only, turn)]
    return _summary(outcomes)


def checks() -> list[Stage]:
    """What needs no running tests; these print only when they fail."""
    scripts = shell_scripts()
    dockerfiles = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "bin" / "docker").glob("Dockerfile*"))
    frontend = ROOT / "bin" / "frontend"
    return [
        Stage(
            "mypy",
            _module(
                "mypy", "--cache-dir", "var/mypy-cache", "-p", "portal", "-p", "workers", "-p", "tests", "-p", "tools"
            ),
        ),
        Stage("ruff", _module("ruff", "check", ".")),
        Stage("format", _module("ruff", "format", "--check", ".")),
        Stage("imports", _tool("lint-imports")),
        Stage("templates", _module("djlint", "templates", "--lint", "--quiet")),
        Stage("frontend", (str(frontend), "--lint"), missing="" if frontend.exists() else "there is no front end"),
        Stage("migrations", _manage("makemigrations", "--check", "--dry-run")),
        Stage("deploy", _manage("check", "--deploy", "--fail-level", "ERROR"), {"CASEMENT_URL": "https://example.org"}),
        Stage("shell", ("shellcheck", "--external-sources", *scripts), missing=_not_found("shellcheck")),
        Stage("docker", (*_tool("hadolint"), *dockerfiles), missing=_not_found(*_tool("hadolint"))),
    ]


def lanes(turn: int | None) -> tuple[tuple[Stage, ...], ...]:
    """Stages of one lane run one after the other: they share the database's cores, or libvirt and the screen.

    Without a `turn` everything is run. With one, a test that uses the database has one of the two, and with the next
    commit the other; of the moments at which workers are killed a third has its turn on hosts in memory, and half of
    them on real ones; and pages are looked at in one of two ways.
    """
    here, there = ([], []) if turn is None else (["--half", str(turn % 2)], ["--half", str((turn + 1) % 2)])
    moments = _by_turns(turn)
    return (
        (
            # Many of them wait for a process they started, so two run at a time.
            _tests("unit", *UNIT, *here, *TWO),
            # What tries both databases by itself, or needs none, is not run a second time.
            _tests("postgresql", *UNIT[:2], RACES, "--only-database", *there, *_ignored("tests/portal/keeping"), *TWO),
            _tests("integration", "tests/integration", *_ignored(*ELSEWHERE), *moments, *TWO),
        ),
        (
            # Guests take their time to boot, and libvirt to set up its firewall: two files of tests share it, and one
            # after the other stops it.
            _tests(
                "hypervisor",
                *NEED_HYPERVISOR,
                *("-m", "not restarts_libvirtd", "-n", "2", "--dist", "loadfile", *moments),
            ),
            _tests("libvirtd", *NEED_HYPERVISOR, "-m", "restarts_libvirtd"),
            _tests("e2e", "tests/e2e"),
        ),
    )


def leftovers(turn: int | None) -> tuple[Stage, ...]:
    """Stages for whichever lane is through first."""
    return (
        _tests("browsers", BROWSERS),
        _tests("pages", ACCESSIBILITY, *_by_turns(turn)),
        # They wait most of the time, for leases to run out and databases to come back.
        _tests("faults", FAULTS, "-n", "3"),
        Stage("fuzz", _module("tests.fuzz"), missing=_no_fuzzer()),
    )


def _by_turns(turn: int | None) -> list[str]:
    return [] if turn is None else ["--turn", str(turn)]


def _no_fuzzer() -> str:
    return "" if importlib.util.find_spec("atheris") else "atheris, the fuzzer, has no wheel for this machine"


def _ignored(*paths: str) -> list[str]:
    return [f"--ignore={path}" for path in paths]


def _tests(name: str, *arguments: str) -> Stage:
    return Stage(name, _module("pytest", *arguments))


def _run_tests(only: Sequence[str], turn: int | None) -> list[Outcome]:
    chosen = [_chosen(lane, only) for lane in lanes(turn)]
    rest = deque(_chosen(leftovers(turn), only))
    show = sum(len(lane) for lane in chosen) + len(rest) == 1
    with _kernel_in_a_hurry(), ThreadPoolExecutor(max_workers=len(chosen)) as pool:
        done = pool.map(lambda lane: _run_lane(chain(lane, _taken_from(rest)), show=show), chosen)
        return list(chain.from_iterable(done))


@contextlib.contextmanager
def _kernel_in_a_hurry() -> Iterator[None]:
    """For root, while the tests run: whoever changes the firewall does not wait for all processors to come by.

    libvirt changes it by some eighty commands, one after the other, for each machine that starts or ends, and most of
    the time that tests with machines took was this waiting.
    """
    knob = Path("/sys/kernel/rcu_expedited")
    try:
        before = knob.read_text()
        knob.write_text("1")
    except OSError:
        yield
        return
    try:
        yield
    finally:
        knob.write_text(before)


def _taken_from(stages: deque[Stage]) -> Iterator[Stage]:
    """One after the other, until there is none that nobody has taken."""
    with contextlib.suppress(IndexError):
        while True:
            yield stages.popleft()


def _run_lane(stages: Iterable[Stage], *, show: bool) -> list[Outcome]:
    outcomes = []
    for stage in stages:
        with _database(stage.name) as environment:
            outcome = _run(stage, environment, show=show)
        with PRINTING:
            print(f"\n=== {stage.name}: {' '.join(stage.argv[1:])}\n{outcome.output}\n{_line(outcome)}", flush=True)
        outcomes.append(outcome)
    return outcomes


@contextlib.contextmanager
def _database(name: str) -> Iterator[dict[str, str]]:
    if name != "postgresql":
        yield {}
        return
    with private_postgres() as url:
        yield {"DATABASE_URL": url}


def _run_checks(stages: Sequence[Stage]) -> list[Outcome]:
    """Two at a time; the longest is first in the list."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        outcomes = []
        for outcome in pool.map(lambda stage: _run(stage, {}), stages):
            outcomes.append(outcome)
            print(_line(outcome), flush=True)
            if outcome.code:
                print(outcome.output, flush=True)
        return outcomes


def _run(stage: Stage, extra: Mapping[str, str], *, show: bool = False) -> Outcome:
    if stage.missing:
        return Outcome(stage, 0, 0.0)
    started = time.monotonic()
    output = None if show else subprocess.PIPE
    try:
        done = subprocess.run(
            stage.argv,
            cwd=ROOT,
            env=_environment({**stage.environment, **extra}, name=stage.name),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if show else subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STAGE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.output.decode(errors="replace") if isinstance(error.output, bytes) else error.output or ""
        message = f"{said}\ntook longer than {STAGE_LIMIT_S // 60} minutes"
        return Outcome(stage, 124, time.monotonic() - started, message)
    except OSError as error:
        return Outcome(stage, 127, 0.0, str(error))
    return Outcome(stage, done.returncode, time.monotonic() - started, done.stdout or "")


def _summary(outcomes: Sequence[Outcome]) -> int:
    print("\nStages:")
    for outcome in outcomes:
        print(f"  {_line(outcome)}")
    _recall([outcome for outcome in outcomes if outcome.code])
    failed = [outcome.stage.name for outcome in outcomes if outcome.code]
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nEverything passed.")
    return 1 if failed else 0


def _recall(failed: Sequence[Outcome]) -> None:
    """What went wrong once more, at the end: whoever sees only the last lines of a long output sees why."""
    for outcome in failed:
        lines = outcome.output.splitlines()
        told = [*filter(FAILED.match, lines)][:MOST_RECALLED] + [*filter(WHY.match, lines)][:MOST_RECALLED]
        print(f"\n{outcome.stage.name}:")
        for line in told or lines[-10:]:
            print(f"  {line[:300]}")


def _line(outcome: Outcome) -> str:
    if outcome.stage.missing:
        return f"{outcome.stage.name:12} skipped: {outcome.stage.missing}"
    word = f"FAILED ({outcome.code})" if outcome.code else "passed"
    return f"{outcome.stage.name:12} {word:12} {outcome.seconds:6.1f} s"


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Stages named with --only, and the rest, which is pytest's."""
    only, rest = [], list(argv)
    while "--only" in rest[:-1]:
        place = rest.index("--only")
        only.append(rest[place + 1])
        del rest[place : place + 2]
    return only, rest


def _chosen(stages: Sequence[Stage], only: Sequence[str]) -> list[Stage]:
    return [stage for stage in stages if not only or stage.name in only]


def _environment(extra: Mapping[str, str], *, name: str) -> dict[str, str]:
    """Nothing of a running portal's: tests make their own folders, keys and databases, each stage its own home."""
    home = Path(os.environ["CASEMENT_TEST_HOME"]) / name
    home.mkdir(exist_ok=True)
    ours = (
        # Hundreds of processes start; each would compile what it imports anew.
        "PYTHONDONTWRITEBYTECODE",
        "CASEMENT_",
        "DATABASE_URL",
        "REDIS_URL",
        "SECRET_KEY",
        "DJANGO_SETTINGS_MODULE",
        "PYTHONPATH",
        "PORT",
        "BIND",
    )
    kept = {name: value for name, value in os.environ.items() if name in FOR_TESTS or not name.startswith(ours)}
    paths = [str(ROOT / "var/venv/bin"), kept.get("PATH", ""), "/usr/sbin", "/sbin"]
    own = {"PATH": ":".join(filter(None, paths)), "PYTHONPATH": f"{ROOT / 'bin'}:{ROOT}", "MYPYPATH": str(ROOT / "bin")}
    own["CASEMENT_HOME"] = str(home)
    return kept | own | {"DJANGO_SETTINGS_MODULE": "tests.settings"} | dict(extra)


def shell_scripts() -> list[str]:
    """Every file of ours that bash runs."""
    candidates = [*(ROOT / "bin").rglob("*"), *(ROOT / ".ci").iterdir()]
    return sorted(
        str(path.relative_to(ROOT)) for path in candidates if path.is_file() and _is_bash(path.read_bytes()[:40])
    )


def _is_bash(head: bytes) -> bool:
    return head.startswith((b"#!/usr/bin/env bash", b"#!/bin/sh", b"# shellcheck shell=bash"))


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *arguments)


def _manage(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "manage.py", *arguments)


def _tool(name: str) -> tuple[str]:
    """A program that a Python package brought into the venv."""
    return (str(ROOT / "var/venv/bin" / name),)


def _not_found(program: str) -> str:
    return "" if shutil.which(program) else f"{program} is not installed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
