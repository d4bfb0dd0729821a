"""A test run's folder goes with it, also when the run is killed."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.home import remove_leftovers

ROOT = Path(__file__).parents[2]
MAKE = "from tests.support.home import own_home; print(own_home(), flush=True);"


def _home_of(then: str, temporary: Path) -> Path:
    """What a process printed that made itself a home and then ended by `then`."""
    done = subprocess.run(
        [sys.executable, "-c", MAKE + then],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
    )
    return Path(done.stdout.strip())


def test_it_goes_when_the_process_ends(tmp_path: Path) -> None:
    home = _home_of("", tmp_path)
    assert home.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_that_ends_leaves_it(tmp_path: Path) -> None:
    fork = (
        "import os, sys; pid = os.fork(); pid or sys.exit(); os.waitpid(pid, 0); print(len(os.listdir(sys.argv[-1])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", MAKE + fork, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "1"


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    home = _home_of("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert home.is_dir()
    other = tmp_path / f"casement-tests-{os.getpid()}-of-a-living-one"
    other.mkdir()
    (tmp_path / "something-else").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "something-else"]
