"""Become libvirtd as soon as no other serves this machine: `python bin/tools/standby.py RUN_DIR`.

Someone else may have started one by hand, or another installation here has; when that goes away, this one steps in.
"""

import os
import socket
import sys
import time
from pathlib import Path

LOOK_EVERY_S = 5


def serves(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(LOOK_EVERY_S)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True  # It is there, only busy.
        except OSError:
            return False
    return True


def main(run_dir: str, libvirt_socket: str = "/run/libvirt/libvirt-sock") -> None:
    while serves(Path(libvirt_socket)):
        time.sleep(LOOK_EVERY_S)
    os.execv(sys.executable, [sys.executable, "-m", "workers.hypervisor.kvm.daemon", "--run-dir", run_dir])  # noqa: S606 - an argv list


if __name__ == "__main__":
    main(*sys.argv[1:])
