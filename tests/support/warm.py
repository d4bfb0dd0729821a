"""Python processes that start warm: forked from one that has imported Django and its company, and nothing of ours.

What starts is as cold as `python …` in everything that tests care about: it reads its own environment and settings, and
can be killed. It only spends no time on importing what never changes.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
_PRELOADED: Final = [
    "tests.support.warm", "PIL.Image", "celery.app.base", "channels_redis.core", "cryptography.fernet",
    "django.contrib.admin", "django.core.handlers.asgi", "django.core.management",
    "django.db.backends.postgresql.psycopg_any", "django.db.backends.sqlite3.base", "django.db.migrations.loader",
    "django.views.generic", "prometheus_client", "psycopg", "pydantic", "redis", "unfold", "urllib3.poolmanager",
    "uvicorn", "whitenoise", "yaml",
]  # fmt: skip


def python(
    argv: Sequence[str], *, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """`python ARGV` at the root of the tree, with this environment alone: a script with arguments, or `-c CODE`.

    Its return code is negative for a signal, as with `subprocess.run`; subprocess.TimeoutExpired past the limit.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory(prefix="casement-warm-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = context.Process(target=_run, args=(list(argv), dict(environment), str(out), str(err)))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(argv), timeout_s)
        said = [path.read_text(errors="replace") if path.exists() else "" for path in (out, err)]
        return subprocess.CompletedProcess(list(argv), process.exitcode, *said)


def _run(argv: list[str], environment: Mapping[str, str], *outputs: str) -> None:
    for number, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    if argv[0] == "-c":
        sys.argv = argv[:1] + argv[2:]
        exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as `python -c` does
    else:
        sys.argv = argv
        runpy.run_path(argv[0], run_name="__main__")
