"""A machine's seed: what the system in it learns of itself at its first start, or finds to be so already."""

from __future__ import annotations

from uuid import UUID

from portal.lib.secrets import unseal
from portal.machines import userdata
from portal.machines.models import Machine
from workers.hypervisor import cloud_init
from workers.hypervisor.driver import HypervisorDriver


def write(machine: Machine, driver: HypervisorDriver, *, instance_id: UUID, hostname: str) -> None:
    if machine.iso_name:
        return  # Nobody is there to read it.
    seed = cloud_init.seed(
        instance_id=instance_id,
        hostname=hostname,
        user=machine.login_user,
        password_hash=cloud_init.hash_password(unseal(machine.login_password)),
        ssh_keys=(machine.ssh_key,) if machine.ssh_key else (),
        mac=machine.mac,
        desktop=machine.kind == "desktop",
        extra=userdata.parsed(unseal(machine.user_data)),
    )
    driver.write_seed(machine.pk, seed)
