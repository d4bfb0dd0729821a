"""KVM or software? Only a boot tells.

/dev/kvm that opens, and libvirt's capabilities, are no proof: on some nested hosts a guest hangs or dies minutes later.
So a real Linux kernel is started with KVM up to its first user process. That process is a few bytes of machine code
made here, which print a word on the serial port and switch off.

The kernel is the first that is there: the one given, `<pool>/probe/vmlinuz` (the image builder may put one there), the
newest `/boot/vmlinuz-*`, `/lib/modules/*/vmlinuz`. Without any, KVM cannot be proved and software is used.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from workers.hypervisor.types import Accelerator

KVM_DEVICE = Path("/dev/kvm")
PROBE_LIMIT_S = 12.0
_WORD = b"casement-probe-ok"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def find_accelerator(pool_dir: Path, *, qemu_version: str, kernel: Path | None = None) -> Accelerator:
    """The remembered answer for this boot, kernel and QEMU, or a new probe's."""
    cache = pool_dir / "accelerator.json"
    kernel = kernel or find_kernel(pool_dir)
    key = f"{os.uname().release} {qemu_version} {_boot_id()} {kernel} {KVM_DEVICE.exists()}"
    remembered = _read_cache(cache, key)
    if remembered is None:
        remembered = probe(kernel)
        _write_cache(cache, key, remembered)
    return remembered


def find_kernel(pool_dir: Path) -> Path | None:
    by_name = [*sorted(Path("/boot").glob("vmlinuz-*")), *sorted(Path("/lib/modules").glob("*/vmlinuz"))]
    candidates = [pool_dir / "probe" / "vmlinuz", *reversed(by_name)]
    return next((path for path in candidates if path.is_file() and os.access(path, os.R_OK)), None)


def probe(kernel: Path | None, *, limit_s: float = PROBE_LIMIT_S) -> Accelerator:
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return Accelerator("tcg", "This host offers no KVM that Casement may use, so machines run in software.")
    if kernel is None:
        return Accelerator("tcg", "KVM is there but could not be tried: no Linux kernel was found for a test boot.")
    problem = test_boot(kernel, accelerator="kvm", limit_s=limit_s)
    if problem:
        return Accelerator("tcg", f"KVM is there but does not work: {problem}")
    return Accelerator("kvm", "A test boot with KVM succeeded.")


def test_boot(kernel: Path, *, accelerator: str, limit_s: float) -> str | None:
    """None if the kernel reached its first process, else what happened instead."""
    with tempfile.TemporaryDirectory(prefix="casement-probe-") as folder:
        initramfs = Path(folder) / "initramfs"
        initramfs.write_bytes(probe_initramfs())
        try:
            done = subprocess.run(
                _qemu_command(kernel, initramfs, accelerator), check=False, capture_output=True, timeout=limit_s,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"the test boot did not get through within {limit_s:g} seconds."
        except OSError:
            return "QEMU could not be started."
    if _WORD in done.stdout:
        return None
    return "QEMU gave up during the test boot." if done.returncode else "the test boot ended early."


def _qemu_command(kernel: Path, initramfs: Path, accelerator: str) -> list[str]:
    cpu = "host" if accelerator == "kvm" else "qemu64"
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35",
        "-accel", accelerator, "-cpu", cpu, "-m", "256", "-serial", "stdio",
        "-kernel", str(kernel), "-initrd", str(initramfs), "-append", "console=ttyS0 quiet panic=-1",
    ]  # fmt: skip


def probe_initramfs() -> bytes:
    """A cpio archive with /dev/console and the static program as /init."""
    entries = [
        _cpio_entry("dev", mode=0o040755),
        _cpio_entry("dev/console", mode=0o020600, device=(5, 1)),
        _cpio_entry("init", mode=0o100755, content=probe_init()),
        _cpio_entry("TRAILER!!!", mode=0),
    ]
    return b"".join(entries)


def _cpio_entry(name: str, *, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One entry in the "newc" format: 13 fields of eight hexadecimal digits, then name and content, each padded."""
    raw_name = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw_name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw_name
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def probe_init() -> bytes:
    """A static x86-64 program: write(1, word), reboot(power off), then wait for ever."""
    base, headers = 0x400000, 64 + 56
    word = b"\n" + _WORD + b"\n"
    before = b"\xb8\x01\0\0\0\xbf\x01\0\0\0"  # mov eax, 1 (write); mov edi, 1
    after = b"".join(
        [
            b"\xba" + struct.pack("<I", len(word)) + b"\x0f\x05",  # mov edx, length; syscall
            b"\xb8\xa9\0\0\0\xbf\xad\xde\xe1\xfe",  # mov eax, 169 (reboot); mov edi, LINUX_REBOOT_MAGIC1
            b"\xbe\x69\x19\x12\x28\xba\xdc\xfe\x21\x43\x0f\x05",  # mov esi, MAGIC2; mov edx, POWER_OFF; syscall
            b"\xb8\x22\0\0\0\x0f\x05\xeb\xfe",  # pause(); then stay here
        ]
    )
    # lea rsi, [rip + distance]: the word follows the code.
    code = before + b"\x48\x8d\x35" + struct.pack("<i", len(after)) + after
    size = headers + len(code) + len(word)
    elf = b"\x7fELF\x02\x01\x01" + b"\0" * 9
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return elf + code + word


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _read_cache(path: Path, key: str) -> Accelerator | None:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return Accelerator(saved["kind"], saved["reason"]) if saved["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_cache(path: Path, key: str, accelerator: Accelerator) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps({"key": key, **asdict(accelerator)}), encoding="utf-8")
        part.rename(path)
    except OSError:
        # The answer is only kept to save seconds.
        part.unlink(missing_ok=True)
