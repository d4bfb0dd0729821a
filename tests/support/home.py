"""A CASEMENT_HOME for a test run or a tool that was given none, and its end.

A run that is killed, and mypy, which ends itself without any clean-up, leave theirs: the next run removes what belongs
to no living process.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from pathlib import Path

_NAME = re.compile(r"casement-tests-(\d+)-.+")


def own_home() -> str:
    """A new folder that goes with this process."""
    remove_leftovers(Path(tempfile.gettempdir()))
    home = tempfile.mkdtemp(prefix=f"casement-tests-{os.getpid()}-")
    atexit.register(_remove, home, os.getpid())
    return home


def remove_leftovers(parent: Path) -> None:
    """Of dead processes of this user only."""
    for folder in parent.iterdir():
        name = _NAME.fullmatch(folder.name)
        if name and not Path(f"/proc/{name[1]}").exists() and folder.lstat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)


def _remove(home: str, owner: int) -> None:
    # A forked child that ends in the usual way comes by here as well.
    if os.getpid() == owner:
        shutil.rmtree(home, ignore_errors=True)
