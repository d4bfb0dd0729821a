"""What it takes to run Casement as a user without rights, from a test that runs as root.

The user gets a copy of the sources, the installed packages as they are (read-only), and a home made from that of a
running product, so that nothing is installed and no image is built again. Disks go to a file system of its own, whose
size a test can change.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.product import ROOT, Product

USER = "nobody"
SITE_PACKAGES = f"var/venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
GIB = 1024**3
# Of the settings that bin/run wrote, those that belong to the place and not to what is stored there.
_OF_THE_PLACE = ("POOL_DIR=", "CASEMENT_URL=", "PORT=", "BIND=", "REDIS_URL=")
_MOST = 500 * GIB  # A limit only: the memory that is taken is what is written.


@dataclass(frozen=True)
class PlainUser:
    """`folder` is the user's HOME and holds everything else."""

    folder: Path

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def python(self) -> Path:
        return self.folder / "python"

    @property
    def modules(self) -> Path:
        """Above the checkout, where Node looks as well."""
        return self.folder / "node_modules"

    @property
    def home(self) -> Path:
        """CASEMENT_HOME."""
        return self.folder / "casement"

    @property
    def pool(self) -> Path:
        return self.home / "pool"

    @property
    def runtime(self) -> Path:
        return self.folder / "runtime"

    @property
    def prefix(self) -> Sequence[str]:
        """Put before a command, it makes the command the user's."""
        return ("setpriv", f"--reuid={USER}", f"--regid={pwd.getpwnam(USER).pw_gid}", "--clear-groups", "--")

    @property
    def environment(self) -> dict[str, str]:
        places = {"HOME": self.folder, "XDG_RUNTIME_DIR": self.runtime, "POOL_DIR": self.pool}
        places |= {f"XDG_{kind}_HOME": self.folder / kind[:2].lower() for kind in ("CONFIG", "CACHE", "DATA", "STATE")}
        if sysconfig.get_config_var("Py_ENABLE_SHARED"):
            # The interpreter would look for its library where it was installed, and find the system's instead.
            places["LD_LIBRARY_PATH"] = self.python / "lib"
        return {"USER": USER, "LOGNAME": USER, **{name: str(path) for name, path in places.items()}}

    @property
    def uri(self) -> str:
        """The user's own libvirt, as root reaches it."""
        return f"qemu+unix:///session?socket={self.runtime}/libvirt/libvirt-sock"

    def libvirtd(self) -> int:
        """The process id of the user's own libvirtd."""
        return int((self.runtime / "libvirt" / "libvirtd.pid").read_text(encoding="ascii"))

    def resize_pool(self, size_bytes: int = _MOST) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(self.pool)], check=True)


@contextlib.contextmanager
def plain_user(copy_of: Product) -> Iterator[PlainUser]:
    """With `copy_of`'s accounts and its server image. Nothing of the user is left at the end."""
    account = pwd.getpwnam(USER)
    owner = f"{account.pw_uid}:{account.pw_gid}"
    # Very short, because libvirt adds 84 characters to it for a socket whose path may have 107.
    with tempfile.TemporaryDirectory(prefix="cp-") as name, contextlib.ExitStack() as undo:
        user = PlainUser(Path(name))
        undo.callback(_end_processes, user)
        _copy_sources(user)
        _copy_home(copy_of.home, user.home)
        for folder in (user.python, user.modules, user.pool):
            folder.mkdir()
        user.runtime.mkdir(mode=0o700)
        subprocess.run(["chown", "-Rh", owner, name], check=True)
        # The interpreter too, because it may lie in a folder that is closed to others.
        undo.callback(_mounted("--bind", "-o", "ro", sys.base_prefix, user.python))
        _make_environment(user)
        undo.callback(_mounted("--bind", "-o", "ro", _real(SITE_PACKAGES), user.checkout / SITE_PACKAGES))
        undo.callback(_mounted("--bind", "-o", "ro", _real("node_modules"), user.modules))
        size = f"size={_MOST},mode=0711,uid={account.pw_uid},gid={account.pw_gid}"
        undo.callback(_mounted("-t", "tmpfs", "-o", size, "casement-plain", user.pool))
        yield user


def _real(folder: str) -> Path:
    return (ROOT / folder).resolve()


def _mounted(*arguments: str | Path) -> Callable[[], None]:
    """Mount, and give back how to unmount. What is not the user's own is read-only: no mistake here can spoil it."""
    subprocess.run(["mount", *arguments], check=True)

    def unmount() -> None:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True)

    return unmount


def _copy_sources(user: PlainUser) -> None:
    left_out = shutil.ignore_patterns("var", "node_modules", ".git", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, user.checkout, ignore=left_out)
    # bin/frontend builds in this folder, so it is the user's own, and only what it holds is everyone's.
    own = user.checkout / "node_modules"
    own.mkdir()
    for path in _real("node_modules").iterdir():
        if path.name.startswith(".casement-"):
            if path.is_file():
                shutil.copyfile(path, own / path.name)
        else:
            (own / path.name).symlink_to(user.modules / path.name)


def _make_environment(user: PlainUser) -> None:
    """As bin/run would, without fetching anything."""
    venv = user.checkout / "var" / "venv"
    python = user.python / "bin" / "python3"
    command: list[str | Path] = [*user.prefix, python, "-m", "venv", "--without-pip", venv]
    subprocess.run(command, cwd=user.folder, env={**os.environ, **user.environment}, check=True)
    for stamp in (ROOT / "var" / "venv").glob(".installed-*"):
        shutil.copyfile(stamp, venv / stamp.name)


def _copy_home(source: Path, home: Path) -> None:
    home.mkdir()
    with contextlib.closing(sqlite3.connect(f"file:{source / 'db.sqlite3'}?mode=ro", uri=True)) as original:
        with contextlib.closing(sqlite3.connect(home / "db.sqlite3")) as copy:
            original.backup(copy)
        ((image,),) = original.execute(
            "SELECT v.id FROM images_imageversion v JOIN images_image i ON v.image_id = i.id"
            " WHERE i.slug = 'debian-12-server' AND v.status = 'ready' ORDER BY v.number DESC LIMIT 1"
        ).fetchall()
    (home / "images").mkdir()
    for path in (source / "images").glob("*.qcow2"):
        if path.stem.replace("-", "") == image:
            shutil.copyfile(path, home / "images" / path.name)
    # It holds the administrator's password.
    shutil.copyfile(source / "bin-run.out", home / "bin-run.out")
    lines = (source / "casement.env").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(_OF_THE_PLACE)]
    (home / "casement.env").write_text("\n".join([*kept, ""]), encoding="utf-8")


def _end_processes(user: PlainUser) -> None:
    """The user's libvirt goes on for two minutes after its last client."""
    mark = f"XDG_RUNTIME_DIR={user.runtime}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
