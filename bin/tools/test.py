"""`bin/test`: every check and every test as stages, all run to their end, with a summary of what failed."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.support.postgres import private_postgres
from tools.options import ROOT

STAGE_LIMIT_S = 40 * 60
# Of our own names, those that whoever runs the tests may set.
FOR_TESTS = {"CASEMENT_ARTEFACTS", "CASEMENT_E2E_HOME"}
UNIT = ("tests/portal", "tests/workers", "tests/install", "tests/support")
RACES = "tests/integration/races"  # They are as much about the database as about us, so they run on both.


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
    only, arguments = _split(argv)
    # Whatever a stage leaves in its home is gone afterwards.
    with tempfile.TemporaryDirectory(prefix="casement-test-") as home:
        os.environ["CASEMENT_TEST_HOME"] = home
        return _all(only, arguments)


def _all(only: Sequence[str], arguments: Sequence[str]) -> int:
    if arguments:
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments], env=_environment({}), check=False
        ).returncode
    outcomes = [*_run_checks(_chosen(checks(), only)), *_run_tests(only)]
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


def _run_tests(only: Sequence[str]) -> Iterator[Outcome]:
    """One after the other: they share two cores, ports and libvirt."""
    for name, folders in (
        ("unit", UNIT),
        ("postgresql", (*UNIT[:2], RACES)),
        ("integration", ("tests/integration",)),
        ("e2e", ("tests/e2e",)),
    ):
        if only and name not in only:
            continue
        existing = [folder for folder in folders if (ROOT / folder).is_dir()]
        stage = Stage(name, _module("pytest", *existing), missing="" if existing else f"there is no {folders[0]}")
        with _database(name) as environment:
            yield _run(stage, environment, show=True)


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
    if show:
        print(f"\n=== {stage.name}: {' '.join(stage.argv[1:])}", flush=True)
    started = time.monotonic()
    output = None if show else subprocess.PIPE
    try:
        done = subprocess.run(
            stage.argv,
            cwd=ROOT,
            env=_environment({**stage.environment, **extra}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if show else subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STAGE_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Outcome(stage, 124, time.monotonic() - started, f"took longer than {STAGE_LIMIT_S // 60} minutes")
    except OSError as error:
        return Outcome(stage, 127, 0.0, str(error))
    return Outcome(stage, done.returncode, time.monotonic() - started, done.stdout or "")


def _summary(outcomes: Sequence[Outcome]) -> int:
    print("\nStages:")
    for outcome in outcomes:
        print(f"  {_line(outcome)}")
    failed = [outcome.stage.name for outcome in outcomes if outcome.code]
    print(f"\nFailed: {', '.join(failed)}" if failed else "\nEverything passed.")
    return 1 if failed else 0


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


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Nothing of a running portal's: tests make their own folders, keys and databases."""
    ours = (
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
    own["CASEMENT_HOME"] = os.environ["CASEMENT_TEST_HOME"]
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
