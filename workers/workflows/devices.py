"""Disks and network cards of machines: attach, detach, grow, limit.

A machine that is busy with a device has exactly one that is being changed; each step looks for it, and does nothing if
that is over. What the rows say in the end is what the host said, never what was asked of it.
"""

from __future__ import annotations

from collections.abc import Callable

from django.utils.translation import gettext as _

from portal.jobs.names import JobName, StepName
from portal.machines import cards, disks
from portal.machines.devices import Plug
from portal.machines.models import Attachment, Machine
from portal.volumes import services as volumes
from portal.volumes.models import Volume
from portal.volumes.states import Status as VolumeStatus
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.types import VolumeInfo
from workers.workflows import common
from workers.workflows.base import Again, Context, Step, WorkFailedError, Workflow

GIB = 1024**3
# A guest's kernel lets a device go within a second or two; one that is not up, or clings to it, does not at all.
DETACH_WAIT_S = 45.0
DETACH_POLL_S = 1.0


# --- disks ----------------------------------------------------------------------------------------------------------


def _adding(context: Context[Machine]) -> tuple[Attachment, Volume] | None:
    attachment = disks.in_change(context.target, task=Plug.ADDING)
    return (attachment, attachment.volume) if attachment is not None and attachment.volume is not None else None


def make_volume(context: Context[Machine]) -> None:
    """Of a disk that was asked for together with its volume; one that is there already stays as it is."""
    found = _adding(context)
    if found is not None and found[1].status == VolumeStatus.CREATING:
        common.driver(context).create_volume(found[1].pk, size_bytes=found[1].size_gib * GIB)
        volumes.record_made(found[1])


def attach(context: Context[Machine]) -> None:
    found = _adding(context)
    if found is not None:
        context.progress(10, found[1].name)
        common.driver(context).attach_disk(context.target.pk, common.disk_of(found[0]))


def take_back_attach(context: Context[Machine]) -> None:
    """The volume is free again if the machine's host says so, else it counts as attached. A new one that was made
    stays, as a free volume.
    """
    found = _adding(context)
    if found is None:
        return
    attachment, volume = found
    if volume.status == VolumeStatus.CREATING:
        common.driver(context).delete_volume(volume.pk)
    elif common.driver(context).detach_disk(context.target.pk, volume.pk):
        disks.record_gone(attachment)


def detach(context: Context[Machine]) -> None:
    attachment = disks.in_change(context.target, task=Plug.REMOVING)
    if attachment is None or attachment.volume is None:
        return
    volume = attachment.volume
    still = _(
        "The guest did not let go of the disk %(name)s, so it is still attached. Unmount it inside and try again, or "
        "shut the machine down first."
    )
    _wait_until_gone(
        context, lambda driver: driver.detach_disk(context.target.pk, volume.pk), still % {"name": volume.name}
    )


def attach_again(context: Context[Machine]) -> None:
    """The row will say that it is still attached, so it is. A host that has it already is left as it is."""
    attachment = disks.in_change(context.target, task=Plug.REMOVING)
    if attachment is not None:
        common.driver(context).attach_disk(context.target.pk, common.disk_of(attachment))


def grow(context: Context[Machine]) -> None:
    attachment = disks.in_change(context.target, task=Plug.GROWING)
    if attachment is not None and attachment.wanted_gib:
        size = attachment.wanted_gib * GIB
        common.driver(context).grow_disk(context.target.pk, attachment.volume_id, size_bytes=size)


def settle_growth(context: Context[Machine]) -> None:
    """What has grown cannot be taken back: then the row follows it, whatever else went wrong."""
    attachment = disks.in_change(context.target, task=Plug.GROWING)
    if attachment is None or not attachment.wanted_gib:
        return
    for info in common.driver(context).list_volumes():
        is_it = info.volume == attachment.volume_id if attachment.volume_id else _is_root_of(context.target, info)
        if is_it and info.capacity_bytes >= attachment.wanted_gib * GIB:
            disks.record_grown(context.target)


def _is_root_of(machine: Machine, info: VolumeInfo) -> bool:
    return info.is_disk and info.machine == machine.pk


def limit(context: Context[Machine]) -> None:
    attachment = disks.in_change(context.target, task=Plug.LIMITING)
    if attachment is not None:
        limits = common.disk_of(attachment).limits
        common.driver(context).set_io_limits(context.target.pk, attachment.volume_id, limits)


# --- network cards ----------------------------------------------------------------------------------------------------


def add_card(context: Context[Machine]) -> None:
    card = cards.in_change(context.target, task=Plug.ADDING)
    if card is not None:
        common.driver(context).attach_nic(context.target.pk, common.nic_of(context.target, card.mac))


def take_back_card(context: Context[Machine]) -> None:
    card = cards.in_change(context.target, task=Plug.ADDING)
    if card is not None and common.driver(context).detach_nic(context.target.pk, card.mac):
        cards.record_gone(card)


def remove_card(context: Context[Machine]) -> None:
    card = cards.in_change(context.target, task=Plug.REMOVING)
    if card is None:
        return
    mac = card.mac
    still = _(
        "The guest did not let go of the network card %(mac)s, so it is still there. Try again when the guest is up, "
        "or shut the machine down first."
    )
    _wait_until_gone(context, lambda driver: driver.detach_nic(context.target.pk, mac), still % {"mac": mac})


def add_card_again(context: Context[Machine]) -> None:
    """The row will say that it is still there, so it is."""
    card = cards.in_change(context.target, task=Plug.REMOVING)
    if card is not None:
        common.driver(context).attach_nic(context.target.pk, common.nic_of(context.target, card.mac))


def _wait_until_gone(context: Context[Machine], ask: Callable[[HypervisorDriver], bool], still: str) -> None:
    """Ask the guest again and again; past the deadline `still` says what is true."""
    if ask(common.driver(context)):
        return
    if context.seconds_in_step() > DETACH_WAIT_S:
        raise WorkFailedError(still, code="guest-keeps-device")
    context.progress(50, _("Waiting for the guest to let it go"))
    raise Again(DETACH_POLL_S)


WORKFLOWS: tuple[Workflow[Machine], ...] = (
    Workflow(
        JobName.DISK_ATTACH,
        load=common.load,
        steps=(
            Step(StepName.VOLUME, make_volume, undo=take_back_attach),
            Step(StepName.ATTACH, attach, undo=take_back_attach),
        ),
        on_done=disks.record_attached,
        on_failed=lambda machine, message: disks.record_attach_failed(machine, message=message),
        on_cancelled=lambda machine: disks.record_attach_failed(machine, message=""),
    ),
    Workflow(
        JobName.DISK_DETACH,
        load=common.load,
        steps=(Step(StepName.DETACH, detach, undo=attach_again),),
        on_done=disks.record_detached,
        on_failed=lambda machine, message: disks.record_not_detached(machine, message=message),
        on_cancelled=lambda machine: disks.record_not_detached(machine, message=""),
    ),
    Workflow(
        JobName.DISK_GROW,
        load=common.load,
        steps=(Step(StepName.GROW, grow, undo=settle_growth),),
        on_done=disks.record_grown,
        on_failed=lambda machine, message: disks.record_not_grown(machine, message=message),
        on_cancelled=lambda machine: disks.record_not_grown(machine, message=""),
    ),
    Workflow(
        JobName.DISK_LIMITS,
        load=common.load,
        steps=(Step(StepName.LIMIT, limit),),
        on_done=disks.record_limited,
        on_failed=lambda machine, message: disks.record_limited(machine, message=message),
        on_cancelled=disks.record_limited,
    ),
    Workflow(
        JobName.CARD_ADD,
        load=common.load,
        steps=(Step(StepName.ADD_CARD, add_card, undo=take_back_card),),
        on_done=cards.record_added,
        on_failed=lambda machine, message: cards.record_added(machine, message=message),
        on_cancelled=cards.record_added,
    ),
    Workflow(
        JobName.CARD_REMOVE,
        load=common.load,
        steps=(Step(StepName.REMOVE_CARD, remove_card, undo=add_card_again),),
        on_done=cards.record_removed,
        on_failed=lambda machine, message: cards.record_not_removed(machine, message=message),
        on_cancelled=lambda machine: cards.record_not_removed(machine, message=""),
    ),
)
