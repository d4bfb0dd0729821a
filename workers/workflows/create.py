"""From a request to a guest that answers: forked from one that runs, where there is one; else image, disk, seed,
definition, start, boot. And its address."""

import time
from typing import TypeVar
from uuid import UUID

from django.utils import timezone
from django.utils.translation import gettext as _

from portal.copies import cloning
from portal.images.models import ImageVersion
from portal.jobs.names import JobName, StepName
from portal.lib.secrets import new_password
from portal.machines import forking, services
from portal.machines.models import Machine
from portal.pools import filling
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import HypervisorError
from workers.workflows import common, forks, seeds
from workers.workflows.base import Again, Context, Step, WorkFailedError, Workflow

# How often a booting guest is asked whether it is up: one agent call; the page knows it that much later.
BOOT_POLL_S = 1.0
GIB = 1024**3

T = TypeVar("T")


def put_image(context: Context[Machine]) -> None:
    machine = context.target
    services.record_building(machine)
    if not machine.made_by and (reason := forking.why_not_forked(machine)):
        forking.record_booted(machine, reason=reason)
    put_version(context, _version_of(machine), common.driver(context))


def put_version(context: Context[T], version: ImageVersion, driver: HypervisorDriver) -> None:
    if driver.has_image(version.pk):
        return
    if not version.path.is_file():
        raise WorkFailedError(_("The image's file is missing in the portal. An operator can build it anew."))
    driver.put_image(version.pk, version.path, progress=context.progress)


def create_disk(context: Context[Machine]) -> None:
    machine = context.target
    version = _version_of(machine)
    common.driver(context).create_disk(machine.pk, image=version.pk, size_bytes=machine.disk_gib * GIB)


def _version_of(machine: Machine) -> ImageVersion:
    if machine.image_version is None:
        raise WorkFailedError(_("The image of this machine is not known: it was found on its host and taken over."))
    return machine.image_version


def write_seed(context: Context[Machine]) -> None:
    """A clone that keeps everything as it is goes on being the original to what reads its seed."""
    original = cloning.original_inside(context.target)
    _write_seed(context, original.pk, hostname=original.name)


def write_new_seed(context: Context[Machine]) -> None:
    """Another instance to the guest inside, so that it takes a new name, user and address at its next start."""
    _write_seed(context, context.target.genid, hostname=context.target.name)


def _write_seed(context: Context[Machine], instance_id: UUID, *, hostname: str) -> None:
    seeds.write(context.target, common.driver(context), instance_id=instance_id, hostname=hostname)


def define(context: Context[Machine]) -> None:
    """The secret is stored before the domain knows it, so whatever runs can be reached after a crash in between."""
    machine = context.target
    if not machine.console_secret:
        services.record_secret(machine, new_password(common.SECRET_LENGTH))
    common.define(machine, common.driver(context))


def delete_storage(context: Context[Machine]) -> None:
    common.driver(context).delete_storage(context.target.pk)


def undefine(context: Context[Machine]) -> None:
    common.driver(context).undefine(context.target.pk)


def wait_for_boot(context: Context[Machine]) -> None:
    """Until the agent answers; an image without one counts as up when its address is known or its time is over."""
    machine = context.target
    driver = common.driver(context)
    if common.is_off(machine, driver):
        raise WorkFailedError(
            _("The guest switched itself off while starting. Its image may be broken."), code="guest-off"
        )
    if driver.agent_ready(machine.pk):
        return
    late = machine.boot_deadline is not None and timezone.now() > machine.boot_deadline
    if _has_agent(machine):
        if late:
            raise WorkFailedError(_never_came_up(), code="guest-boot-timeout")
    elif _addresses(context):
        return
    elif late:
        context.progress(0, _("Nothing was heard from the guest; its screen shows how far it came."))
        return
    raise Again(BOOT_POLL_S)


def ask_address(context: Context[Machine]) -> None:
    """Give DHCP a moment; a machine without an address is ready all the same, and the watcher asks again later."""
    machine = context.target
    addresses = _addresses(context)
    if forking.is_forked(machine):
        addresses = addresses or _soon(context)
        services.record_addresses(machine, addresses)
        return
    started = context.step.started_at if context.step else None
    waited_s = (timezone.now() - started).total_seconds() if started else 0
    if not addresses and _has_agent(machine) and waited_s < ADDRESS_WAIT_S:
        raise Again(BOOT_POLL_S)
    services.record_addresses(machine, addresses)


ADDRESS_WAIT_S = 20.0


def _soon(context: Context[Machine]) -> tuple[str, ...]:
    """A copy that runs asks for an address at once. Nobody waits long for it: the next look at the host knows it."""
    until = time.monotonic() + FORK_ADDRESS_WAIT_S
    while time.monotonic() < until:
        time.sleep(0.1)
        if addresses := _addresses(context):
            return addresses
    return ()


FORK_ADDRESS_WAIT_S = 1.0


def _has_agent(machine: Machine) -> bool:
    return machine.image_version is not None and machine.image_version.image.has_agent


def _addresses(context: Context[Machine]) -> tuple[str, ...]:
    try:
        return common.driver(context).addresses(context.target.pk)
    except HypervisorError:
        return ()  # Not knowing the address yet is no reason to fail; the next look may know it.


def _never_came_up() -> str:
    return _(
        "The guest did not come up in time. The machine was taken back. Try a larger size, or another image; "
        "an operator can raise the limit (GUEST_BOOT_TIMEOUT_S)."
    )


def _boots(machine: Machine) -> bool:
    return not forking.is_forked(machine)


def record_built(machine: Machine) -> None:
    services.record_ready(machine)
    filling.machine_ready(machine)


def record_failed(machine: Machine, message: str) -> None:
    services.record_build_failed(machine, message=message)
    filling.machine_over(machine)


WORKFLOW: Workflow[Machine] = Workflow(
    JobName.MACHINE_CREATE,
    load=common.load,
    steps=(
        Step(StepName.FORK, forks.fork, undo=forks.remove, needed=forking.is_to_be_forked),
        Step(StepName.FORK_IDENTITY, forks.give_identity, needed=forking.is_forked),
        Step(StepName.IMAGE, put_image, needed=_boots),
        Step(StepName.DISK, create_disk, undo=delete_storage, needed=_boots),
        Step(StepName.SEED, write_seed, needed=_boots),
        Step(StepName.DEFINE, define, undo=undefine, needed=_boots),
        Step(StepName.START, common.start, needed=_boots),
        Step(StepName.BOOT, wait_for_boot, needed=_boots),
        Step(StepName.ADDRESS, ask_address),
    ),
    on_done=record_built,
    on_failed=record_failed,
    on_cancelled=lambda machine: record_failed(machine, _("Building was stopped on request.")),
)
