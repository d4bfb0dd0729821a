"""A guest that is on and does nothing at all: its boot sector halts the processor for good.

For whatever is done to a machine from outside. What boots takes ten seconds of a processor first, for each machine.
"""

from pathlib import Path

from workers.imaging import qemu_img

HALT = bytes.fromhex("fa f4 eb fd")  # cli; hlt; and from the top, should anything wake it.
SIZE_BYTES = 128 << 20


def build_still_guest(image: Path) -> Path:
    raw = image.with_suffix(".raw")
    with raw.open("wb") as disk:
        disk.write(HALT.ljust(510, b"\0") + b"\x55\xaa")
        disk.truncate(SIZE_BYTES)
    qemu_img.convert(raw, image, source_format="raw")
    raw.unlink()
    return image
