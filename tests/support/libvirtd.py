"""A libvirtd for tests: the one that runs on this machine, or one that the test run starts as root and stops.

Several test runs may share it: each holds a shared lock, and whoever is the last stops what a test run has started.
Everything a run makes carries its process id, so a later run can remove what a killed one left, and nothing else.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import libvirt

from workers.hypervisor.kvm import daemon

URI = "qemu:///system"
PREFIX = "cmtest"
_RUN_DIR = Path("/run/casement-test-libvirtd")
_POOLS = Path("/var/tmp")  # noqa: S108 - QEMU's user must get through, which pytest's own folders forbid.
_NAME = re.compile(rf"{PREFIX}-(\d+)(-.*)?")


def unavailable() -> str | None:
    """Why real QEMU cannot be used here, or None."""
    if os.geteuid() != 0:
        return "needs root for libvirt's bridge and pool"
    missing = [tool for tool in ("libvirtd", "qemu-system-x86_64", "qemu-img", "dnsmasq") if not shutil.which(tool)]
    return f"not installed: {', '.join(missing)}" if missing else None


def run_name(suffix: str = "") -> str:
    """A name for a domain or network of this test run."""
    return f"{PREFIX}-{os.getpid()}{suffix}"


@dataclass
class Libvirtd:
    """`ours` says that a test run started it, so that a test may restart it."""

    ours: bool
    uri: str = URI

    def pid(self) -> int:
        return int((_RUN_DIR / "pid").read_text(encoding="ascii"))

    def stop(self) -> None:
        pid = self.pid()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not _is_alive(pid), 120)

    def start(self) -> None:
        _start()

    def restart(self) -> None:
        self.stop()
        self.start()


@contextlib.contextmanager
def running_libvirtd() -> Iterator[Libvirtd]:
    _RUN_DIR.mkdir(exist_ok=True)
    with (_RUN_DIR / "users").open("w") as users:
        with alone():
            fcntl.flock(users, fcntl.LOCK_SH)  # Free at once: exclusive it is held only in here.
            if not daemon.is_running():
                _start()
            libvirtd = Libvirtd(ours=_started_by_tests())
            remove_leftovers()  # Of two that do it at once, one would find gone what the other took away.
        _in_use.append(libvirtd)
        try:
            yield libvirtd
        finally:
            _in_use.remove(libvirtd)
            if not _in_use:
                remove_leftovers(of_this_run=True)
            with alone():
                _stop_if_last(users.fileno(), libvirtd)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """For what two test runs must not do at once: start or stop the daemon, or look for a free network."""
    with (_RUN_DIR / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def temporary_pool() -> Iterator[Path]:
    pool = Path(tempfile.mkdtemp(prefix=run_name("-"), dir=_POOLS))
    pool.chmod(0o711)
    try:
        yield pool
    finally:
        shutil.rmtree(pool, ignore_errors=True)


def wait_until(condition: Callable[[], bool], seconds: float, instead: Callable[[], object] = str) -> None:
    """Ask until it is true. The pause bounds how often is asked; nothing depends on its length.

    `instead` says for the failure's report what is there in place of it.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            # Where each thread stands tells who was waited for.
            faulthandler.dump_traceback(2, all_threads=True)
            raise AssertionError(f"still not so after {seconds:g} s; {instead()}")
        time.sleep(0.02)


def remove_leftovers(*, of_this_run: bool = False) -> None:
    """Domains, networks and pools whose test run is dead (or, at its end, this one's)."""
    conn = libvirt.open(URI)
    for domain in conn.listAllDomains():
        if _is_leftover(domain.name(), of_this_run=of_this_run):
            is_defined = domain.isPersistent()
            with contextlib.suppress(libvirt.libvirtError):
                domain.destroy()
            if is_defined:  # A template, or half a fork, is gone by now.
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM | libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
    for network in conn.listAllNetworks():
        if _is_leftover(network.name(), of_this_run=of_this_run):
            if network.isActive():
                network.destroy()
            network.undefine()
    conn.close()
    for pool in _POOLS.glob(f"{PREFIX}-*"):
        if _is_leftover(pool.name, of_this_run=of_this_run):
            subprocess.run(["umount", "--quiet", "--lazy", str(pool)], check=False, capture_output=True)
            shutil.rmtree(pool, ignore_errors=True)


def foreign_domain_xml(name: str, uuid: str) -> str:
    """A domain that someone else made: the least that libvirt takes."""
    return (
        f"<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    )


def unique_suffix() -> str:
    return f"-{uuid4().hex[:8]}"


def _is_leftover(name: str, *, of_this_run: bool) -> bool:
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    pid = int(match[1])
    return (of_this_run and pid == os.getpid()) or not _is_alive(pid)


def _start() -> None:
    daemon_command = [sys.executable, "-m", "workers.hypervisor.kvm.daemon", "--run-dir", str(_RUN_DIR)]
    command = [sys.executable, "-m", "tests.support.reaper", str(_RUN_DIR / "pid"), *daemon_command]
    root = Path(__file__).parents[2]
    with (_RUN_DIR / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=root, stdout=output, stderr=output, start_new_session=True)
    _children.append(process)
    wait_until(lambda: daemon.is_running() or process.poll() is not None, 120)
    if process.poll() is not None:
        raise AssertionError(f"libvirtd did not start: {(_RUN_DIR / 'output').read_text()}")


# Kept so that a stopped child is waited for; otherwise it would stay behind as a zombie and seem alive.
_children: list[subprocess.Popen[bytes]] = []
# By fixtures of this process: the first of them that ends must not take the others' machines along.
_in_use: list[Libvirtd] = []


def _started_by_tests() -> bool:
    try:
        pid = int((_RUN_DIR / "pid").read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return str(_RUN_DIR) in command


def _stop_if_last(users: int, libvirtd: Libvirtd) -> None:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _started_by_tests():
            libvirtd.stop()


def _is_alive(pid: int) -> bool:
    """One that ended and that its parent, another test run, has not waited for does not live."""
    for child in _children:
        child.poll()
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
