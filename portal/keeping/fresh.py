"""Settings for a restore into an empty folder, where there are none: those of the backup. Knows no Django.

They must be in place before Django reads its settings, so `manage.py` asks for this first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from portal.keeping import archive
from portal.keeping.archive import KeepingError

ROOT = Path(__file__).resolve().parents[2]
HEADER = (
    '# Casement\'s settings, brought back from a backup: edit them here. README.md, "Settings", lists every name.\n'
)

_taken: dict[str, str] = {}


def take_settings(arguments: Sequence[str]) -> None:
    """Put the backup's settings into the environment, unless this installation has a SECRET_KEY of its own."""
    home = Path(os.environ.get("CASEMENT_HOME") or ROOT / "var").resolve()
    named = [Path(argument) for argument in arguments if not argument.startswith("-")]
    if os.environ.get("SECRET_KEY") or os.environ.get("CASEMENT_TESTING") or (home / "casement.env").exists():
        return
    if not named:
        return
    try:
        with archive.opened(named[0]) as reader:
            found = _of_this_machine(reader.settings(), home)
    except KeepingError as error:
        sys.exit(f"CommandError: {error}")
    _taken.update(found)
    for name, value in found.items():
        os.environ.setdefault(name, value)


def write_settings(home: Path) -> None:
    """Keep what was taken, before anything else is written: without its key the database is worth little."""
    if not _taken:
        return
    path = home / "casement.env"
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(HEADER + archive.settings_text(_taken))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    archive.sync_folder(home)


def _of_this_machine(settings: Mapping[str, str], home: Path) -> dict[str, str]:
    """A socket of the other installation's folder is nobody's here; bin/run makes its own."""
    socket = settings.get("REDIS_URL", "")
    foreign = socket.startswith("unix://") and not socket.startswith(f"unix://{home}/")
    return {name: value for name, value in settings.items() if not (foreign and name == "REDIS_URL")}
