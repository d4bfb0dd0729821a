"""SIGKILL between any two lines of a backup or a restore: what was there before, or what shall be; never half of it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portal.keeping import archive
from portal.keeping.archive import KeepingError
from tests.portal.keeping.conftest import Make, Saved
from tests.portal.keeping.installation import Installation, replace_database

pytestmark = pytest.mark.timeout(900)

KILLED = -9
HARNESS = "tests/portal/keeping/killed.py"


def points(here: Installation, *command: str, most: int) -> Iterator[int]:
    """At most so many numbers of lines, spread over all that the command runs through; the last one is among them."""
    done = here.python(HARNESS, "0", *command)
    assert done.returncode == 0, done.stderr
    lines = int(done.stdout.rpartition("lines=")[2])
    assert lines > 50
    yield from sorted({round(1 + number * (lines - 1) / (most - 1)) for number in range(most)})


def test_a_backup_that_is_killed_leaves_no_half_file(make: Make, tmp_path: Path) -> None:
    here = make("sqlite")
    here.make()
    here.fill()
    whole = 0
    for point in points(here, "backup", str(tmp_path / "all.zip"), most=8):
        path = tmp_path / f"{point}.zip"
        assert here.python(HARNESS, str(point), "backup", str(path)).returncode == KILLED
        if path.exists():
            whole += 1
            read(path)
        else:
            here.manage("backup", str(path))
            read(path)
        assert not path.with_name(f".{path.name}.part").exists(), "the next try uses up what the first one left"
    assert whole < 4


def read(path: Path) -> None:
    with archive.opened(path) as reader:
        reader.verify()


@pytest.mark.parametrize("engine", [pytest.param("sqlite"), pytest.param("postgresql")])
def test_a_restore_that_is_killed_leaves_the_old_or_the_new(
    make: Make, saved: Saved, engine: str, tmp_path: Path
) -> None:
    there, path = make(engine), saved("sqlite")
    there.make()
    there.manage("bootstrap", "-v0")
    old = there.project_names()
    keep = state_keeper(there, tmp_path / "kept")
    command = ("restore", str(path), "--force")
    states = []
    for point in points(there, *command, most=12 if engine == "sqlite" else 6):
        keep()
        assert there.python(HARNESS, str(point), *command).returncode == KILLED
        states.append(there.project_names())
    new = there.project_names() if there.manage(*command) else ""
    assert old != new
    assert set(states) == {old, new}, states
    assert states == sorted(states, key=[old, new].index), "first the old one, then the new one"
    assert there.first_passwords() == "{'first-password'}"
    assert list(there.home.glob(".*")) == []


def state_keeper(here: Installation, kept: Path) -> Callable[[], None]:
    """Puts the folder, or the database, back to what it is now."""
    if not here.database:
        shutil.copytree(here.home, kept)

        def put_back() -> None:
            shutil.rmtree(here.home)
            shutil.copytree(kept, here.home)

        return put_back
    server, _, name = here.database.rpartition("/")
    replace_database(server, f"{name}_kept", template=name)
    return lambda: replace_database(server, name, template=f"{name}_kept")


KILL_IN_COPY = """
import os, sys
from pathlib import Path
from portal.keeping import scratch

scratch.PAGES_A_STEP, calls = 1, 0

def trace(frame, event, argument):
    global calls
    calls += frame.f_code.co_name == "check"
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), 9)

sys.settrace(trace)
scratch._copy_sqlite(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("step", [1, 10, 40])
def test_killed_half_way_through_the_copy_sqlite_takes_it_back(make: Make, tmp_path: Path, step: int) -> None:
    """One page a step; the copy is more than fifty pages long."""
    old, new = tmp_path / "old.sqlite3", tmp_path / "new.sqlite3"
    for path, rows in ((old, 1), (new, 60_000)):
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE t (i INTEGER)")
            database.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(rows)])
            database.commit()
    killed = make("sqlite").python("-c", KILL_IN_COPY, str(new), str(old), str(step))
    assert killed.returncode == KILLED, killed.stderr
    with contextlib.closing(sqlite3.connect(old)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_killed_in_an_empty_folder_it_can_be_tried_again(make: Make, saved: Saved) -> None:
    there, path = make("sqlite"), saved("sqlite")
    command = ("restore", str(path))
    for point in points(there, *command, most=5):
        shutil.rmtree(there.home)
        assert there.python(HARNESS, str(point), *command).returncode == KILLED
        if not tables(there):
            there.manage(*command)
        assert there.first_passwords() == "{'first-password'}"


def tables(here: Installation) -> list[str]:
    path = here.home / "db.sqlite3"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [name for (name,) in database.execute("SELECT name FROM sqlite_master")]


def test_two_at_once_are_one_too_many(tmp_path: Path) -> None:
    with (
        archive.written(tmp_path / "one.zip"),
        pytest.raises(KeepingError, match="Another backup"),
        archive.written(tmp_path / "one.zip"),
    ):
        pass
