"""A machine made anew from an image. Until its disk is replaced it is left as it is; from then on it goes forward."""

from django.utils.translation import gettext as _

from portal.copies import rebuilding
from portal.images.models import ImageVersion, VersionStatus
from portal.jobs.names import JobName, StepName
from portal.machines.models import Machine
from workers.workflows import common, create, power
from workers.workflows.base import Context, Step, WorkFailedError, Workflow


def put_image(context: Context[Machine]) -> None:
    """Nothing is lost yet: what is missing is told now."""
    version, driver = _next(context.target), common.driver(context)
    if version.status != VersionStatus.READY:
        raise WorkFailedError(_("This image has been deleted meanwhile. The machine was left as it was."))
    create.put_version(context, version, driver)


def _next(machine: Machine) -> ImageVersion:
    if machine.next_version is None:
        raise WorkFailedError(_("What it was to be rebuilt from is not known any more."))
    return machine.next_version


def renew_disk(context: Context[Machine]) -> None:
    machine = context.target
    size = machine.disk_gib * create.GIB
    common.driver(context).renew_disk(machine.pk, image=_next(machine).pk, size_bytes=size)
    rebuilding.record_renewed(machine)


def define(context: Context[Machine]) -> None:
    """Without its old firmware's memory, which knows the old disk's systems."""
    create.undefine(context)
    create.define(context)


WORKFLOW: Workflow[Machine] = Workflow(
    JobName.MACHINE_REBUILD,
    load=common.load,
    steps=(
        Step(StepName.IMAGE, put_image),
        Step(StepName.CUT_POWER, power.cut_power),
        Step(StepName.RENEW_DISK, renew_disk),
        Step(StepName.SEED, create.write_seed),
        Step(StepName.DEFINE, define),
        Step(StepName.START, common.start),
        Step(StepName.BOOT, create.wait_for_boot),
        Step(StepName.ADDRESS, create.ask_address),
    ),
    on_done=rebuilding.record_rebuilt,
    on_failed=lambda machine, message: rebuilding.record_not_rebuilt(machine, message=message),
    cancellable=False,
)
