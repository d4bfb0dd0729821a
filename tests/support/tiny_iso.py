"""A disc of a few MiB that starts by BIOS and by UEFI: GRUB, which says on the serial port whether the disc is there.

It goes on saying so for ever, so that a disc that is taken out of a running guest is seen to go. Nothing in it is
signed; another one starts by UEFI only, from Debian's own signed boot loaders, as Secure Boot asks for.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

IS_IN = b"the disc is in"
IS_OUT = b"the disc is out"
MENU = """\
insmod serial
insmod echo
insmod test
insmod sleep
insmod true
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
while true; do
  if [ -f ($root)/marker ]; then echo "the disc is in"; else echo "the disc is out"; fi
  sleep 3
done
"""


# Its modules are in it, and its console is the firmware's, which is on the serial port as well.
SIGNED_MENU = """\
while true; do echo "the disc is in"; sleep 3; done
"""
SIGNED_PACKAGES = ("shim-signed", "grub-efi-amd64-signed")


def build_tiny_iso(cache_dir: Path) -> Path:
    """Built once per `cache_dir` and per text of this file."""
    return _built(cache_dir, "tiny", _build)


def build_signed_iso(cache_dir: Path) -> Path:
    return _built(cache_dir, "signed", _build_signed)


def _built(cache_dir: Path, name: str, build: Callable[[Path, Path], None]) -> Path:
    cache_dir.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    iso, scratch = cache_dir / f"{name}-{key}.iso", cache_dir / f"{name}-build"
    with (cache_dir / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not iso.exists():
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            build(iso, scratch)
            shutil.rmtree(scratch)
    return iso


def _build(iso: Path, scratch: Path) -> None:
    (scratch / "boot/grub").mkdir(parents=True)
    (scratch / "boot/grub/grub.cfg").write_text(MENU, encoding="ascii")
    (scratch / "marker").write_bytes(b"casement\n")
    part = iso.with_suffix(".part")
    _run("grub-mkrescue", "--fonts=", "--themes=", "--locales=", "-o", part, scratch)
    part.rename(iso)


def _build_signed(iso: Path, scratch: Path) -> None:
    """Microsoft signed the shim, which starts a GRUB that Debian signed. Both are downloaded, and not installed."""
    packages, tree, loaders = scratch / "packages", scratch / "tree", scratch / "efi.img"
    with tempfile.TemporaryDirectory() as name:
        downloads = Path(name)
        downloads.chmod(0o777)  # apt's own download user has to write here.
        _run("apt-get", "-qq", "download", *SIGNED_PACKAGES, cwd=downloads)
        for package in sorted(downloads.glob("*.deb")):
            _run("dpkg-deb", "-x", package, packages)
    shim = packages / "usr/lib/shim/shimx64.efi.signed"
    grub = packages / "usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed"
    for folder in ("boot/grub", "EFI/debian"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "grub.cfg").write_text(SIGNED_MENU, encoding="ascii")
    (tree / "marker").write_bytes(b"casement\n")
    with loaders.open("wb") as file:
        file.truncate(8 * 1024 * 1024)
    _run("mkfs.fat", loaders)
    _run("mmd", "-i", loaders, "::EFI", "::EFI/BOOT")
    _run("mcopy", "-i", loaders, shim, "::EFI/BOOT/BOOTX64.EFI")
    _run("mcopy", "-i", loaders, grub, "::EFI/BOOT/grubx64.efi")
    shutil.move(loaders, tree / "efi.img")
    part = iso.with_suffix(".part")
    _run("xorriso", "-as", "mkisofs", "-R", "-e", "efi.img", "-no-emul-boot", "-o", part, tree)
    part.rename(iso)


def _run(*argv: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(argv, cwd=cwd, check=True, capture_output=True)
