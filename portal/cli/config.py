"""Which portals there are, and the token for each: one file, readable by its owner alone.

    current = "work"
    [portals.work]
    url = "https://desktops.example.org"
    token = "casement_…"

`CASEMENT_PORTAL` names another one for one command, `CASEMENT_TOKEN` replaces the token; a portal that stands in no
file is given by its address.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from portal.cli.errors import NOT_SIGNED_IN, CliError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Portal:
    """`ca` is a file of certificates that are trusted beside the system's."""

    name: str
    url: str
    token: str = field(repr=False)
    ca: str = ""


@dataclass
class Config:
    current: str = ""
    portals: dict[str, Portal] = field(default_factory=dict)

    def chosen(self, name: str | None) -> Portal:
        """The portal that is asked for, by the command line or the environment, or the one signed in to last."""
        wanted = name or os.environ.get("CASEMENT_PORTAL") or self.current
        token = os.environ.get("CASEMENT_TOKEN", "")
        if wanted in self.portals:
            found = self.portals[wanted]
            return Portal(found.name, found.url, token or found.token, found.ca)
        if "://" in wanted and token:
            return Portal(wanted, checked_url(wanted), token)
        known = ", ".join(sorted(self.portals)) or "none"
        what = f"There is no portal “{wanted}” here (there are: {known})." if wanted else "You are not signed in."
        raise CliError(f"{what} Sign in by: casement login https://…", NOT_SIGNED_IN)


def path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(os.environ.get("CASEMENT_CONFIG") or Path(base) / "casement" / "config.toml")


def load() -> Config:
    try:
        values = tomllib.loads(path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CliError(f"{path()} cannot be read: {error}") from error
    portals = {
        name: Portal(name, str(one.get("url", "")), str(one.get("token", "")), str(one.get("ca", "")))
        for name, one in values.get("portals", {}).items()
    }
    return Config(str(values.get("current", "")), portals)


def save(config: Config) -> None:
    """Written beside and put in place: a command that is cut off leaves the old one. Nobody else may read it."""
    lines = [f"current = {_text(config.current)}"]
    for name, one in config.portals.items():
        lines += ["", f"[portals.{_text(name)}]", f"url = {_text(one.url)}", f"token = {_text(one.token)}"]
        lines += [f"ca = {_text(one.ca)}"] if one.ca else []
    target = path()
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=target.parent, prefix=".config-")  # It is made with mode 0600.
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        Path(beside).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        raise


def checked_url(url: str) -> str:
    """Without its last slash. Plain http would show the token to everybody on the way, so it stays on this machine."""
    url = url.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise CliError(f"{url!r} is no address of a portal; it is like https://desktops.example.org")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise CliError("The token would travel in the clear: use https:// for a portal on another machine.")
    return url


def _text(text: str) -> str:
    """TOML's basic strings are JSON's, as long as nothing beyond the basic plane is escaped."""
    return json.dumps(text, ensure_ascii=False)
