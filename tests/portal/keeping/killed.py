"""`killed.py N COMMAND…` runs a command of manage.py and kills itself before the Nth new line of portal/keeping.

With N = 0 nothing is killed, and the number of lines is printed. Of a line that runs often, only the first time counts,
but of the progress of SQLite's copy each: between two of its calls the database is half written.

Django's migrations are not looked into: no line of portal/keeping runs in there, and being traced takes them long.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

from django.core.management import execute_from_command_line
from django.core.management.commands import migrate
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.state import StateApps

from portal.keeping import fresh

KEEPING = str(Path(fresh.__file__).parent)
OFTEN = {"check"}

kill_at = int(sys.argv[1])
seen: set[tuple[str, int]] = set()
count = 0


def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
    return on_line if frame.f_code.co_filename.startswith(KEEPING) else None


def on_line(frame: FrameType, event: str, _argument: Any) -> Any:
    global count  # noqa: PLW0603 - a tracer has no other place
    here = (frame.f_code.co_filename, frame.f_lineno)
    if event == "line" and (here not in seen or frame.f_code.co_name in OFTEN):
        seen.add(here)
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    return on_line


def untraced(run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def runs(*args: Any, **kwargs: Any) -> Any:
        tracing = sys.gettrace()
        sys.settrace(None)
        try:
            return run(*args, **kwargs)
        finally:
            sys.settrace(tracing)

    return runs


for owner, name in (
    (MigrationExecutor, "migrate"),
    (MigrationLoader, "__init__"),
    (StateApps, "__init__"),
    (migrate.Command, "handle"),
):
    setattr(owner, name, untraced(getattr(owner, name)))

arguments = sys.argv[2:]
if arguments[0] == "restore":
    fresh.take_settings(arguments[1:])
sys.settrace(on_call)
execute_from_command_line(["manage.py", *arguments])
sys.settrace(None)
if not kill_at:
    sys.stdout.write(f"lines={count}")
