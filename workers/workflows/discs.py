"""What lies in the disc drives of machines; and machines that are made to be installed from a disc."""

from __future__ import annotations

from django.utils.translation import gettext as _

from portal.isos.models import Iso
from portal.jobs.names import JobName, StepName
from portal.machines import discs, services
from portal.machines.devices import Plug
from portal.machines.models import Disc, Machine
from workers.hypervisor.driver import HypervisorDriver
from workers.workflows import common, create
from workers.workflows.base import Again, Context, Step, WorkFailedError, Workflow

GIB = 1024**3
# A guest that lets its disc go does so within seconds.
EJECT_WAIT_S = 30.0
EJECT_POLL_S = 1.0


def put_iso(context: Context[Machine], iso: Iso, driver: HypervisorDriver) -> None:
    """On the machine's host; at once if it is there."""
    if driver.has_iso(iso.pk):
        return
    if not iso.path.is_file():
        raise WorkFailedError(_("The file of %(iso)s is missing in the portal.") % {"iso": iso.name}, code="iso-lost")
    driver.put_iso(iso.pk, iso.path, progress=context.progress)


# --- in and out -----------------------------------------------------------------------------------------------------


def bring(context: Context[Machine]) -> None:
    disc = discs.in_change(context.target, task=Plug.ADDING)
    if disc is not None:
        put_iso(context, disc.iso, common.driver(context))


def insert(context: Context[Machine]) -> None:
    disc = discs.in_change(context.target, task=Plug.ADDING)
    if disc is not None:
        common.driver(context).insert_disc(context.target.pk, disc.slot, disc.iso_id)


def take_out_again(context: Context[Machine]) -> None:
    """It is out if the machine's host says so, else it counts as in the drive."""
    disc = discs.in_change(context.target, task=Plug.ADDING)
    if disc is not None and common.driver(context).insert_disc(context.target.pk, disc.slot, None):
        discs.record_gone(disc)


def eject(context: Context[Machine]) -> None:
    disc = discs.in_change(context.target, task=Plug.REMOVING)
    if disc is None or common.driver(context).insert_disc(context.target.pk, disc.slot, None, force=disc.force):
        return
    if context.seconds_in_step() > EJECT_WAIT_S:
        still = _(
            "The guest keeps the drive shut, so %(iso)s is still in it. Unmount it inside and try again, or eject it "
            "by force."
        )
        raise WorkFailedError(still % {"iso": disc.iso.name}, code="guest-keeps-disc")
    context.progress(50, _("Waiting for the guest to open the drive"))
    raise Again(EJECT_POLL_S)


def insert_again(context: Context[Machine]) -> None:
    """The row will say that it is still in the drive, so it is."""
    disc = discs.in_change(context.target, task=Plug.REMOVING)
    if disc is not None:
        common.driver(context).insert_disc(context.target.pk, disc.slot, disc.iso_id)


# --- a machine to be installed --------------------------------------------------------------------------------------


def put_isos(context: Context[Machine]) -> None:
    services.record_building(context.target)
    for disc in Disc.objects.filter(machine=context.target).select_related("iso").order_by("slot"):
        put_iso(context, disc.iso, common.driver(context))


def create_disk(context: Context[Machine]) -> None:
    machine = context.target
    common.driver(context).create_empty_disk(machine.pk, size_bytes=machine.disk_gib * GIB)


WORKFLOWS: tuple[Workflow[Machine], ...] = (
    Workflow(
        JobName.DISC_INSERT,
        load=common.load,
        steps=(
            Step(StepName.ISO, bring, undo=take_out_again),
            Step(StepName.INSERT, insert, undo=take_out_again),
        ),
        on_done=discs.record_inserted,
        on_failed=lambda machine, message: discs.record_inserted(machine, message=message),
        on_cancelled=discs.record_inserted,
    ),
    Workflow(
        JobName.DISC_EJECT,
        load=common.load,
        steps=(Step(StepName.EJECT, eject, undo=insert_again),),
        on_done=discs.record_ejected,
        on_failed=lambda machine, message: discs.record_not_ejected(machine, message=message),
        on_cancelled=discs.record_not_ejected,
    ),
    # Nobody inside could tell that it is up: it is ready when it runs.
    Workflow(
        JobName.MACHINE_INSTALL,
        load=common.load,
        steps=(
            Step(StepName.ISO, put_isos),
            Step(StepName.DISK, create_disk, undo=create.delete_storage),
            Step(StepName.DEFINE, create.define, undo=create.undefine),
            Step(StepName.START, common.start),
        ),
        on_done=services.record_ready,
        on_failed=lambda machine, message: services.record_build_failed(machine, message=message),
        on_cancelled=lambda machine: services.record_build_failed(
            machine, message=_("Building was stopped on request.")
        ),
    ),
)
