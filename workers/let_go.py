"""Follow guests that let a device go late: after the job that asked for it had given up."""

from __future__ import annotations

import logging

from portal.hosts.models import Host
from portal.machines import leaving
from portal.machines.models import Machine
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import HostUnreachableError, HypervisorError

logger = logging.getLogger(__name__)


def find_on(host: Host, driver: HypervisorDriver) -> None:
    """Two queries for a host on which nobody was asked."""
    for machine in leaving.machines_that_may_let_go(host):
        try:
            observe(machine, driver)
        except HostUnreachableError:
            raise
        except HypervisorError as error:
            logger.info("machine %s: %s", machine.pk, error)


def observe(machine: Machine, driver: HypervisorDriver) -> None:
    """What is not in the running guest any more goes from its definition, too, and then from the rows."""
    disks, cards = leaving.leaving_disks(machine), leaving.leaving_cards(machine)
    if not disks and not cards:
        return
    there = driver.devices(machine.pk)
    for disk in disks:
        volume = disk.volume_id
        if volume is not None and volume not in there.volumes and driver.detach_disk(machine.pk, volume):
            logger.info("machine %s has let the volume %s go", machine.pk, volume)
            leaving.record_let_go(disk)
    for card in cards:
        if card.mac not in there.macs and driver.detach_nic(machine.pk, card.mac):
            logger.info("machine %s has let the card %s go", machine.pk, card.mac)
            leaving.record_let_go(card)
