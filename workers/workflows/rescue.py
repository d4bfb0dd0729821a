"""Start a machine from another system with its own disk beside; and back to its own disk.

The row names the rescue system from the request on, and `common.define` follows the row. `rescued_at` is written before
the definition becomes the rescue system's, and all of it is wiped when the definition is the machine's own again: so
the row says at every moment which of the two a definition may be, and a worker that comes later goes on from there.
"""

from __future__ import annotations

from django.utils import timezone
from django.utils.translation import gettext as _

from portal.jobs.names import JobName, StepName
from portal.lib.secrets import new_password, unseal
from portal.machines import rescue, services
from portal.machines.models import Machine
from portal.machines.states import PowerState
from workers.hypervisor import cloud_init
from workers.hypervisor.types import SeedSpec
from workers.workflows import common, discs, power
from workers.workflows.base import Context, Step, WorkFailedError, Workflow

_HOSTNAME_CHARACTERS = 56


def bring_system(context: Context[Machine]) -> None:
    machine, driver = context.target, common.driver(context)
    version = machine.rescue_version
    if machine.rescue_iso is not None:
        discs.put_iso(context, machine.rescue_iso, driver)
    if version is None:
        return
    if not driver.has_image(version.pk):
        if not version.path.is_file():
            raise WorkFailedError(_("The image's file is missing in the portal. An operator can build it anew."))
        driver.put_image(version.pk, version.path, progress=context.progress)
    driver.prepare_rescue(machine.pk, image=version.pk, seed=_seed_of(machine))


def _seed_of(machine: Machine) -> SeedSpec:
    """A user and password of this rescue only: whoever sees them learns nothing of the machine's own."""
    return cloud_init.seed(
        instance_id=machine.rescue_key or machine.pk,
        hostname=f"{machine.name[:_HOSTNAME_CHARACTERS]}-rescue",
        user=machine.rescue_user,
        password_hash=cloud_init.hash_password(unseal(machine.rescue_password)),
        ssh_keys=(machine.ssh_key,) if machine.ssh_key else (),
        mac=machine.mac,
        desktop=machine.kind == "desktop",
    )


def remove_system(context: Context[Machine]) -> None:
    common.driver(context).end_rescue(context.target.pk)


def start_system(context: Context[Machine]) -> None:
    rescue.record_begun(context.target)
    power.start_with_new_secret(context)


def define_own(context: Context[Machine]) -> None:
    """Off, and from its next start on itself again."""
    machine, driver = context.target, common.driver(context)
    if not machine.is_in_rescue:
        return
    driver.force_off(machine.pk)
    services.record_power_state(machine.pk, PowerState.SHUT_OFF, at=timezone.now())
    if not unseal(machine.console_secret):
        services.record_secret(machine, new_password(common.SECRET_LENGTH))
    driver.define(common.spec_of(machine, secret=common.stored_secret(machine), own=True))
    rescue.record_own_disk(machine)


WORKFLOWS: tuple[Workflow[Machine], ...] = (
    Workflow(
        JobName.MACHINE_RESCUE,
        load=common.load,
        steps=(
            Step(StepName.RESCUE_SYSTEM, bring_system, undo=remove_system),
            Step(StepName.CUT_POWER, power.cut_power),
            Step(StepName.START, start_system, undo=define_own),
        ),
        on_done=rescue.record_rescued,
        on_failed=lambda machine, message: rescue.record_not_rescued(machine, message=message),
        on_cancelled=rescue.record_not_rescued,
    ),
    Workflow(
        JobName.MACHINE_UNRESCUE,
        load=common.load,
        steps=(
            Step(StepName.CUT_POWER, power.cut_power),
            Step(StepName.DEFINE, define_own),
            Step(StepName.END_RESCUE, remove_system),
            Step(StepName.START, power.start_with_new_secret),
        ),
        on_done=rescue.record_back,
        on_failed=lambda machine, message: rescue.record_back(machine, message=message),
        cancellable=False,
        max_retries=20,
    ),
)
