"""From a host's configuration to its driver: one driver per process and configuration."""

from __future__ import annotations

import os
import threading

from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import HypervisorError
from workers.hypervisor.fake import FakeDriver, fake_host
from workers.hypervisor.types import HostConfig

_FAKE = "fake://"
_lock = threading.Lock()
# The process is part of the key: a worker that Celery forked must not use its parent's connection.
_drivers: dict[tuple[int, HostConfig], HypervisorDriver] = {}


def driver_for(config: HostConfig) -> HypervisorDriver:
    """`qemu…` is a real host, `fake://name` one in memory. Nothing is opened before the driver's first call."""
    key = (os.getpid(), config)
    with _lock:
        if key not in _drivers:
            _drivers[key] = _make(config)
        return _drivers[key]


def close_all() -> None:
    """End this process's connections, for a clean end of a worker."""
    with _lock:
        mine = [key for key in _drivers if key[0] == os.getpid()]
        drivers = [_drivers.pop(key) for key in mine]
    for driver in drivers:
        driver.close()


def _make(config: HostConfig) -> HypervisorDriver:
    if config.uri.startswith(_FAKE):
        return FakeDriver(fake_host(config.uri.removeprefix(_FAKE)))
    if config.uri.startswith("qemu"):
        # Imported here and nowhere else, so that processes with fake hosts only (most tests) need no libvirt.
        from workers.hypervisor.kvm.driver import KvmDriver  # noqa: PLC0415

        return KvmDriver(config)
    raise HypervisorError("The host's address is of no kind that Casement knows.", code="unknown-host-kind")
