"""When a guest's desktop has come to rest: what it does at the moment of a capture, each fork of it does again."""

from __future__ import annotations

from uuid import UUID

from tests.support.libvirtd import wait_until
from workers.hypervisor.driver import HypervisorDriver

BOOT_S = 900.0


def wait_for_desktop(driver: HypervisorDriver, machine: UUID, *, quiet: bool = True) -> None:
    """Until its panel and background are there and, if asked for, nothing goes on any more."""
    wait_until(lambda: driver.agent_ready(machine), BOOT_S)
    wait_until(lambda: _is_drawn(driver, machine), BOOT_S)
    if quiet:
        wait_until(lambda: _is_quiet(driver, machine), BOOT_S)


def _is_drawn(driver: HypervisorDriver, machine: UUID) -> bool:
    return driver.run_in_guest(machine, ("/bin/sh", "-c", "pgrep -x xfdesktop && pgrep -x xfce4-panel")).exit_code == 0


def _is_quiet(driver: HypervisorDriver, machine: UUID) -> bool:
    """Of its processors, less than a tenth is used for five seconds, and all that starts has started."""
    script = "a=$(head -1 /proc/stat); sleep 5; echo $a; head -1 /proc/stat; systemctl is-system-running; true"
    said = driver.run_in_guest(machine, ("/bin/sh", "-c", script)).stdout.decode().splitlines()
    first, second = ([int(number) for number in line.split()[1:9]] for line in said[:2])
    spent = [now - then for then, now in zip(first, second, strict=True)]
    return said[2] not in ("starting", "initializing") and 1 - spent[3] / sum(spent) < 0.1
