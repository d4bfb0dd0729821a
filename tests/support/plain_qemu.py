"""A machine under plain QEMU, without libvirt: to see an image boot, read its serial line and look at its screen."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

OVMF_CODE, OVMF_VARS = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")


class PlainQemu:
    """One running QEMU. `serial` grows as the guest writes; `qmp` sends one command and returns its answer."""

    def __init__(self, process: "subprocess.Popen[bytes]", directory: Path) -> None:
        self.process = process
        self.directory = directory
        self._serial = _connected(directory / "serial.sock", process)
        self._monitor = _connected(directory / "qmp.sock", process)
        self._qmp = self._monitor.makefile("rw", encoding="utf-8")
        self.serial = ""
        self._qmp.readline()
        self.qmp("qmp_capabilities")

    def close(self) -> None:
        """Let go of both lines; the machine itself runs on."""
        for line in (self._qmp, self._monitor, self._serial):
            line.close()

    def qmp(self, command: str, **arguments: object) -> dict[str, Any]:
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._qmp.flush()
        for line in self._qmp:
            answer = cast(dict[str, Any], json.loads(line))
            if "event" not in answer:
                return answer
        raise EOFError("QEMU closed its monitor")

    def wait_for(self, text: str, *, seconds: float) -> float:
        """Read the serial line until `text` is in it; returns the seconds waited, raises TimeoutError with the line."""
        started = time.monotonic()
        self._serial.settimeout(0.2)
        while text not in self.serial:
            if time.monotonic() - started > seconds:
                raise TimeoutError(f"no {text!r} in {seconds} s; the serial line ends with:\n{self.serial[-3000:]}")
            with contextlib.suppress(TimeoutError):
                self.serial += self._serial.recv(65536).decode(errors="replace")
        return time.monotonic() - started

    def type_serial(self, text: str) -> None:
        self._serial.sendall(text.encode())

    def screenshot(self, path: Path) -> None:
        """The screen as a PPM file."""
        self.qmp("screendump", filename=str(path))


@contextlib.contextmanager
def running(
    disk: Path,
    directory: Path,
    *,
    memory_mib: int = 256,
    uefi: bool = False,
    extra: Sequence[str] = (),
) -> Iterator[PlainQemu]:
    """Boot `disk` (a qcow2, which is not changed) under TCG with the devices that the portal's machines have."""
    directory.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([*_machine(disk, directory, memory_mib), *_firmware(directory, uefi), *extra])
    try:
        with contextlib.closing(PlainQemu(process, directory)) as machine:
            yield machine
    finally:
        process.kill()
        process.wait()


def _machine(disk: Path, directory: Path, memory_mib: int) -> list[str]:
    options: dict[str, Sequence[str]] = {
        "-machine": ["q35"],
        "-accel": ["tcg,thread=multi"],
        "-cpu": ["Nehalem"],
        "-smp": ["2"],
        "-m": [str(memory_mib)],
        "-drive": [f"file={disk},format=qcow2,if=none,id=root,snapshot=on"],
        "-device": ["virtio-blk-pci,drive=root", "virtio-vga", "virtio-net-pci,netdev=net", "virtio-serial-pci"],
        "-netdev": ["user,id=net"],
        "-chardev": [
            f"socket,id=serial,path={directory / 'serial.sock'},server=on,wait=off",
            f"socket,id=agent,path={directory / 'agent.sock'},server=on,wait=off",
        ],
        "-serial": ["chardev:serial"],
        "-qmp": [f"unix:{directory / 'qmp.sock'},server=on,wait=off"],
        "-display": ["none"],
    }
    argv = ["qemu-system-x86_64", "-nodefaults", "-no-user-config"]
    for name, values in options.items():
        argv += [word for value in values for word in (name, value)]
    return [*argv, "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]


def _firmware(directory: Path, uefi: bool) -> list[str]:
    if not uefi:
        return []
    variables = directory / "vars.fd"
    variables.write_bytes(OVMF_VARS.read_bytes())
    drives = (f"file={OVMF_CODE},format=raw,if=pflash,readonly=on", f"file={variables},format=raw,if=pflash")
    return [word for drive in drives for word in ("-drive", drive)]


def _connected(path: Path, process: "subprocess.Popen[bytes]", seconds: float = 60) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)

    def reached() -> bool:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            client.connect(str(path))
            return True
        return False

    deadline = time.monotonic() + seconds
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("QEMU did not start")
        time.sleep(0.05)
    return client
