"""A machine as a copy of one that runs: forked, given its own identity, and only then put on the network.

Whatever goes wrong with that, nothing of it is left, and the machine is booted from its image in the same job.
"""

from __future__ import annotations

import logging
import secrets
import time

from django.utils.translation import gettext as _

from portal.lib.secrets import new_password, unseal
from portal.machines import forking, services
from portal.machines.models import Machine, MadeBy
from portal.parents import services as parents
from workers import admission
from workers.hypervisor import cloud_init, guest_identity
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import (
    DomainNotFoundError,
    ForkFailedError,
    GuestAgentError,
    HypervisorError,
    VolumeNotFoundError,
)
from workers.hypervisor.guest_identity import GuestIdentity
from workers.workflows import common, seeds
from workers.workflows.base import Again, Context

logger = logging.getLogger(__name__)

# A fork's agent answers in a fraction of a second: so long a worker waits for it, and then it comes back.
LOOKED_FOR_S = 2.0
LOOKED_EVERY_S = 0.05
COME_BACK_S = 0.5
# On a busy host the program takes its time; one that is begun anew only makes the host busier.
PROGRAM_S = 120.0
# A fork that has not its own identity after this is none. Giving up early is dear: a boot costs the host far more.
IDENTITY_S = 300.0
SEED_BYTES = 64


def fork(context: Context[Machine]) -> None:
    """The screen's secret and the seed are there before the machine is; so it can be reached, and started cold."""
    machine, driver = context.target, common.driver(context)
    if machine.parent_id is None:
        admission.wait_for_turn(context, driver)
    parent = forking.take_parent(machine)
    if parent is None:
        return  # It was retired since: as if there had been none.
    services.record_building(machine)
    if not machine.console_secret:
        services.record_secret(machine, new_password(common.SECRET_LENGTH))
    try:
        seeds.write(machine, driver, instance_id=machine.pk, hostname=machine.name)
        spec = common.spec_of(machine, secret=common.stored_secret(machine))
        services.record_room(machine, vcpus=spec.most_vcpus, memory_mib=spec.most_memory_mib)
        forked = driver.fork(spec, parent.pk)
        forking.record_forked(machine, MadeBy(forked.how), reason=forked.reason)
        common.record_running(machine, driver)
    except HypervisorError as error:
        if error.retryable:
            raise
        _boot_instead(machine, driver, error)
        if isinstance(error, ForkFailedError | VolumeNotFoundError):
            parents.record_broken(parent, reason=error.message)


def give_identity(context: Context[Machine]) -> None:
    """Name, user, keys, random stream and clock first; the network card after that."""
    machine, driver = context.target, common.driver(context)
    try:
        _wait_for_agent(machine, driver)
        _tell_who_it_is(machine, driver)
        driver.attach_nic(machine.pk, common.nic_of(machine, machine.mac))
    except HypervisorError as error:
        if isinstance(error, GuestAgentError):
            if context.seconds_in_step() < IDENTITY_S:
                raise Again(COME_BACK_S) from error
        elif error.retryable:
            raise
        _boot_instead(machine, driver, error)


def _wait_for_agent(machine: Machine, driver: HypervisorDriver) -> None:
    until = time.monotonic() + LOOKED_FOR_S
    while not driver.agent_ready(machine.pk):
        if common.is_off(machine, driver):
            raise DomainNotFoundError(_("The guest switched itself off."))
        if time.monotonic() > until:
            raise GuestAgentError(_("The guest's agent does not answer."))
        time.sleep(LOOKED_EVERY_S)


def _tell_who_it_is(machine: Machine, driver: HypervisorDriver) -> None:
    argv, stdin = guest_identity.program(identity_of(machine))
    result = driver.run_in_guest(machine.pk, argv, stdin=stdin, timeout_s=PROGRAM_S)
    said = result.stdout.decode(errors="replace").splitlines()
    if result.exit_code != 0 or f"{guest_identity.DONE} {machine.pk}" not in said:
        logger.warning("machine %s took no identity: %s", machine.pk, result.stderr.decode(errors="replace")[-500:])
        raise ForkFailedError(_("The guest did not take its own name and user."))


def identity_of(machine: Machine) -> GuestIdentity:
    return GuestIdentity(
        hostname=machine.name,
        user=machine.login_user,
        password_hash=cloud_init.hash_password(unseal(machine.login_password)),
        ssh_keys=(machine.ssh_key,) if machine.ssh_key else (),
        seed=secrets.token_bytes(SEED_BYTES),
        machine_id=machine.pk,
    )


def _boot_instead(machine: Machine, driver: HypervisorDriver, error: HypervisorError) -> None:
    logger.warning("machine %s is booted, it could not be forked: %s", machine.pk, error, exc_info=error.__cause__)
    _remove(machine, driver)
    forking.record_booted(machine, reason=str(error.message))


def _remove(machine: Machine, driver: HypervisorDriver) -> None:
    driver.undefine(machine.pk)
    driver.delete_storage(machine.pk)


def remove(context: Context[Machine]) -> None:
    _remove(context.target, common.driver(context))
