"""casement.env: what a first start generates or was told, one NAME=value a line. Written once, read ever after."""

import os
from pathlib import Path

HEADER = """\
# Casement's settings, made at the first start of bin/run and never overwritten: edit them here.
# What is set in the environment wins over this file. README.md, "Settings", lists every name.
"""


def read(path: Path) -> dict[str, str]:
    """The settings in the file; empty if there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    settings = {}
    for line in map(str.strip, text.splitlines()):
        name, equals, value = line.removeprefix("export ").partition("=")
        if equals and not line.startswith("#"):
            settings[name.strip()] = _unquoted(value.strip())
    return settings


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'" else value


def write_once(path: Path, settings: dict[str, str]) -> bool:
    """Write the file, readable by its owner alone. False, and nothing done, if there is one."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(HEADER + "".join(f"{name}={value}\n" for name, value in settings.items()))
    try:
        os.link(part, path)  # Unlike a rename, this never replaces.
    except FileExistsError:
        return False
    finally:
        part.unlink()
    return True
