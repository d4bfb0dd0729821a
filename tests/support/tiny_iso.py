"""A disc of a few MiB that starts by BIOS and by UEFI: GRUB, which says on the serial port whether the disc is there.

It goes on saying so for ever, so that a disc that is taken out of a running guest is seen to go. Nothing in it is
signed.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
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


def build_tiny_iso(cache_dir: Path) -> Path:
    """Built once per `cache_dir` and per text of this file."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    iso = cache_dir / f"tiny-{key}.iso"
    with (cache_dir / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not iso.exists():
            _build(iso, cache_dir / "tiny-build")
    return iso


def _build(iso: Path, scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "boot/grub").mkdir(parents=True)
    (scratch / "boot/grub/grub.cfg").write_text(MENU, encoding="ascii")
    (scratch / "marker").write_bytes(b"casement\n")
    part = iso.with_suffix(".part")
    modules = "--install-modules=normal iso9660 serial echo test sleep true terminal biosdisk part_gpt part_msdos fat"
    subprocess.run(
        ["grub-mkrescue", modules, "--fonts=", "--themes=", "--locales=", "-o", part, scratch],
        check=True,
        capture_output=True,
    )
    part.rename(iso)
    shutil.rmtree(scratch)
