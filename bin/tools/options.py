"""What to run and where: from the command line, else the environment, else casement.env, else a default."""

import argparse
import hashlib
import ipaddress
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tools import envfile

ROOT = Path(__file__).resolve().parents[2]
# Linux takes 107 bytes for a UNIX socket's path; the longest name that we add is "/supervisor.sock".
RUN_DIR_LIMIT = 90


class UsageError(Exception):
    """One sentence: what is wrong, and how to mend it."""


@dataclass(frozen=True)
class Options:
    """`file` holds casement.env's settings, `environ` those of the environment. `is_root` decides on libvirt's mode."""

    home: Path
    bind: str
    port: int
    run_dir: Path
    pool_dir: Path
    is_root: bool
    file: Mapping[str, str]
    environ: Mapping[str, str]
    gateway_port: int | None = None

    @property
    def env_file(self) -> Path:
        return self.home / "casement.env"

    @property
    def log_dir(self) -> Path:
        return self.home / "log"

    @property
    def libvirt_uri(self) -> str:
        """Only root can give files to QEMU's user, so everyone else runs machines as themselves."""
        return "qemu:///system" if self.is_root else "qemu:///session"

    @property
    def own_redis_url(self) -> str:
        return f"unix://{self.run_dir / 'redis.sock'}"

    @property
    def runs_redis(self) -> bool:
        """False where settings name another Redis than one that an earlier start wrote down as its own."""
        named = self.setting("REDIS_URL")
        return not named or (named.startswith("unix://") and named.endswith(f"{installation_id(self.home)}/redis.sock"))

    @property
    def is_local_only(self) -> bool:
        return self.bind == "localhost" or ipaddress.ip_address(self.bind).is_loopback

    @property
    def url(self) -> str:
        """The address that people type. One that an earlier start made up for another port does not count."""
        named = self.setting("CASEMENT_URL").rstrip("/")
        stale = "CASEMENT_URL" not in self.environ and named == _local_url(self.file.get("PORT", ""))
        if named and not stale:
            return named
        host = "localhost" if self.is_local_only else _host_for_others(self.bind)
        return f"http://{host}:{self.port}"

    def setting(self, name: str, default: str = "") -> str:
        return self.environ.get(name) or self.file.get(name) or default

    def child_environment(self) -> dict[str, str]:
        """What every process of ours is started with. CASEMENT_SUPERVISED marks it, to be found if it outlives us."""
        environment = {name: value for name, value in self.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
        environment |= {
            "CASEMENT_HOME": str(self.home),
            "CASEMENT_SUPERVISED": str(self.home),
            "CASEMENT_URL": self.url,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "PYTHONUNBUFFERED": "1",
            "PATH": ":".join([str(ROOT / "var/venv/bin"), _path_with_sbin(self.environ.get("PATH", "/usr/bin:/bin"))]),
        }
        if self.runs_redis:
            environment["REDIS_URL"] = self.own_redis_url
        if self.gateway_port and not self.setting("CONSOLE_GATEWAY_URL"):
            environment["CONSOLE_GATEWAY_URL"] = self._gateway_url(self.gateway_port)
        if not self.setting("CSRF_TRUSTED_ORIGINS"):
            environment["CSRF_TRUSTED_ORIGINS"] = ",".join(self._origins())
        return environment

    def _gateway_url(self, port: int) -> str:
        """The portal's own host, so that browsers bring the session along; TLS there is the proxy's matter, as here."""
        url = urlsplit(self.url)
        host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
        return f"{'wss' if url.scheme == 'https' else 'ws'}://{host}:{port}/"

    def _origins(self) -> list[str]:
        """On the machine itself people open any of its names."""
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(self.url))
        return list(dict.fromkeys([origin, f"http://localhost:{self.port}", f"http://127.0.0.1:{self.port}"]))

    def first_settings(self) -> dict[str, str]:
        """For casement.env, at the first start."""
        settings = {
            "SECRET_KEY": self.environ.get("SECRET_KEY") or secrets.token_urlsafe(50),
            "CASEMENT_URL": self.url,
            "BIND": self.bind,
            "PORT": str(self.port),
            "POOL_DIR": str(self.pool_dir),
        }
        if self.run_dir != self.home / "run" and self.runs_redis:
            settings["REDIS_URL"] = self.own_redis_url
        return settings


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ, *, is_root: bool | None = None) -> Options:
    """Raises UsageError for what cannot be used."""
    parser = argparse.ArgumentParser(prog="bin/run", add_help=False)
    parser.add_argument("--port")
    parser.add_argument("--bind")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args(argv)
    root = os.geteuid() == 0 if is_root is None else is_root
    home = Path(environ.get("CASEMENT_HOME") or ROOT / "var").expanduser().resolve()
    file = envfile.read(home / "casement.env")
    named = {**file, **{name: value for name, value in environ.items() if value}}
    return Options(
        home=home,
        bind=_address(arguments.bind or named.get("BIND", "127.0.0.1")),
        port=_port(arguments.port or named.get("PORT", "8000")),
        run_dir=_run_dir(home, environ, is_root=root),
        pool_dir=_pool_dir(home, named.get("POOL_DIR"), is_root=root),
        is_root=root,
        file=file,
        environ=dict(environ),
        gateway_port=_port(named["GATEWAY_PORT"]) if named.get("GATEWAY_PORT") else None,
    )


def installation_id(home: Path) -> str:
    """Tells installations on one machine apart."""
    return f"casement-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"


def _local_url(port: str) -> str:
    return f"http://localhost:{port}"


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UsageError(f"The port must be a number from 1 to 65535, not {text!r}: give another with --port or PORT.")
    return int(text)


def _address(text: str) -> str:
    try:
        return text if text == "localhost" else str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise UsageError(
            f"BIND must be an address of this machine, such as 127.0.0.1 or 0.0.0.0, not {text!r}."
        ) from None


def _run_dir(home: Path, environ: Mapping[str, str], *, is_root: bool) -> Path:
    """For sockets and pid files: $CASEMENT_HOME/run, or a folder elsewhere when that path is too long for sockets."""
    if len(os.fsencode(home / "run")) < RUN_DIR_LIMIT:
        return home / "run"
    parent = "/run" if is_root else environ.get("XDG_RUNTIME_DIR", "")
    if not parent:
        raise UsageError(f"The path {home} is too long for UNIX sockets: set CASEMENT_HOME to a shorter one.")
    return Path(parent) / installation_id(home)


def _pool_dir(home: Path, named: str | None, *, is_root: bool) -> Path:
    """Outside of home for root: QEMU's own user must get at the disks, and a checkout may lie under /root."""
    if named:
        return Path(named).expanduser().resolve()
    return Path("/var/lib/libvirt/images") / installation_id(home) if is_root else home / "pool"


def _host_for_others(bind: str) -> str:
    """An address at which other machines reach this one: where packets to the world would leave. Nothing is sent."""
    address = ipaddress.ip_address(bind)
    if not address.is_unspecified:
        return f"[{bind}]" if address.version == 6 else bind
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _path_with_sbin(path: str) -> str:
    """Administrators' tools are not on everyone's PATH."""
    parts = path.split(":")
    return ":".join([*parts, *(folder for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin") if folder not in parts)])
