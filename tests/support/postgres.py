"""A PostgreSQL of the tests' own: in a temporary folder, on a UNIX socket, gone afterwards."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

# What is lost in a crash of the machine does not matter here, so nothing waits for the disk.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300", "shared_buffers=64MB")
SYSTEM_USER = "postgres"


def binaries() -> Path | None:
    """The folder of the newest server that is installed; Debian keeps it off the PATH."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


@contextlib.contextmanager
def private_postgres() -> Iterator[str]:
    """Start a server and yield its DATABASE_URL. It refuses to run as root, so root runs it as the system's user."""
    bin_dir = binaries()
    if bin_dir is None:
        raise FileNotFoundError("PostgreSQL's server is not installed; bin/test installs it.")
    # Short, because of the socket in it.
    folder = Path(tempfile.mkdtemp(prefix="casement-pg-"))
    user, prefix = _user()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, user, user)
        _run(*prefix, bin_dir / "initdb", "-D", folder / "data", "-U", "casement", "-A", "trust", "-E", "UTF8", "-N")
        options = ["-c listen_addresses=", f"-k {folder}", *(f"-c {setting}" for setting in FAST)]
        (folder / "options").write_text(" ".join(options))
        url = f"postgres://casement@/{folder}/postgres"
        start(url)
        try:
            yield url
        finally:
            stop(url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(url: str) -> None:
    """The server of this address, which was stopped."""
    folder = _folder(url)
    _control(folder, "-l", folder / "log", "-o", (folder / "options").read_text(), "start")


def stop(url: str) -> None:
    """At once, as if its machine had lost power. Stopping what has stopped is no fault."""
    if (_folder(url) / "data" / "postmaster.pid").exists():
        _control(_folder(url), "-m", "immediate", "stop")


def _folder(url: str) -> Path:
    return Path(url.removeprefix("postgres://casement@/").rpartition("/")[0])


def _control(folder: Path, *arguments: str | Path) -> None:
    bin_dir = binaries()
    assert bin_dir is not None
    _run(*_user()[1], bin_dir / "pg_ctl", "-D", folder / "data", "-w", "-t", "60", *arguments)


def _user() -> tuple[str, tuple[str, ...]]:
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name, ()
    return SYSTEM_USER, ("setpriv", f"--reuid={SYSTEM_USER}", f"--regid={SYSTEM_USER}", "--init-groups", "--")


def _run(*argv: str | Path) -> None:
    # The server would hold a pipe open, so what is printed goes to a file.
    with tempfile.TemporaryFile() as output:
        code = subprocess.run(
            list(map(str, argv)), check=False, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output
        ).returncode
        if code != 0:
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise RuntimeError(f"{' '.join(map(str, argv))} failed:\n{text}")
