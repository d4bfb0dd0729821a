"""From a host's row to its driver."""

from pathlib import Path

from portal.hosts.models import Host
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.registry import driver_for
from workers.hypervisor.types import HostConfig


def config_of(host: Host) -> HostConfig:
    return HostConfig(uri=host.uri, pool_dir=Path(host.pool_dir), network=host.network)


def driver_of(host: Host) -> HypervisorDriver:
    """The driver of this process for the host; connected when first used."""
    return driver_for(config_of(host))
