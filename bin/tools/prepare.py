"""Bring the database and the static files up to date, in a process of its own: Django is set up once for all steps.

`python -m tools.prepare URI POOL_DIR` prints what the administrator must read (the first password) and nothing else.
"""

import hashlib
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import django
from django.conf import settings
from django.core.management import call_command

from tools.options import ROOT


def main(argv: list[str]) -> None:
    uri, pool_dir = argv
    django.setup()
    _make_database_private()
    call_command("migrate", interactive=False, verbosity=0)
    _collect_static()
    call_command("create_first_admin")
    call_command("bootstrap", pool_dir=pool_dir, verbosity=0)
    call_command("register_host", "local", uri=uri, pool_dir=pool_dir, verbosity=0)


def _make_database_private() -> None:
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        # SQLite gives its journals the mode of the database.
        Path(database["NAME"]).touch(mode=0o600)


def _collect_static() -> None:
    """Compressing takes seconds, so it is done only when a file or a package has changed."""
    stamp = Path(settings.STATIC_ROOT).with_name(".static-stamp")
    wanted = hashlib.sha256("\n".join(_static_facts()).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted and Path(settings.STATIC_ROOT).is_dir():
        return
    stamp.unlink(missing_ok=True)
    shutil.rmtree(settings.STATIC_ROOT, ignore_errors=True)
    call_command("collectstatic", interactive=False, verbosity=0, stdout=io.StringIO())
    stamp.write_text(wanted, encoding="ascii")


def _static_facts() -> Iterator[str]:
    yield (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for folder in settings.STATICFILES_DIRS:
        for path in sorted(Path(folder).rglob("*")):
            status = path.stat()
            yield f"{path} {status.st_size} {status.st_mtime_ns}"


if __name__ == "__main__":
    main(sys.argv[1:])
