"""Brings the log of a machine's serial port to the portal, while somebody looks at it."""

from __future__ import annotations

import logging
from uuid import UUID

from portal.console.serial_log import keep, keep_problem
from portal.machines.models import Machine
from workers.hosts import driver_of
from workers.hypervisor.errors import HypervisorError

logger = logging.getLogger(__name__)


def read_log(machine_id: UUID) -> None:
    machine = Machine.objects.live().select_related("host").filter(pk=machine_id).first()
    if machine is None:
        return
    try:
        keep(machine.pk, driver_of(machine.host).console_log(machine.pk))
    except HypervisorError as error:
        logger.info("console log of machine %s: %s", machine.pk, error)
        keep_problem(machine.pk, str(error.message))
