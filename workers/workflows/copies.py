"""Clones, images of machines: a disk is copied as of one moment, and what made its original known is taken from it.

Of an original that runs a snapshot is taken first, named by the copy's own id, and removed when the copy is whole; one
that is off is not started until then. Which of both it was is asked of the host, so whoever goes on does the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from django.conf import settings
from django.utils.translation import gettext as _

from portal.copies import capturing, cloning
from portal.copies.models import DiskCopy
from portal.copies.states import BaseStatus, Identity
from portal.images import services as images
from portal.images.models import ImageVersion
from portal.jobs.names import JobName, StepName
from portal.machines import services
from portal.machines.models import Machine
from workers.hosts import driver_of
from workers.hypervisor.driver import HypervisorDriver
from workers.hypervisor.errors import DomainNotFoundError, HypervisorError
from workers.hypervisor.types import PowerState
from workers.imaging.files import sha256_of
from workers.imaging.inspector import inspect_image
from workers.workflows import common, create
from workers.workflows import images as image_work
from workers.workflows.base import Context, Step, WorkFailedError, Workflow

T = TypeVar("T", Machine, ImageVersion)


def _driver(copy: DiskCopy) -> HypervisorDriver:
    return driver_of(copy.source.host)


# --- the original ---------------------------------------------------------------------------------------------------


def freeze(context: Context[T]) -> None:
    """Of an original that runs, and only if there is anything to be read yet."""
    copy = cloning.copy_behind(context.target)
    if isinstance(context.target, Machine):
        services.record_building(context.target)
    if copy.snapshot is not None or not copy.holds_source:
        return
    driver = _driver(copy)
    if driver.power_state(copy.source_id) != PowerState.SHUT_OFF:
        cloning.record_frozen(copy, is_frozen=True)
        driver.take_snapshot(copy.source_id, copy.pk, memory=False)


def let_go(context: Context[T]) -> None:
    """The copy is whole, or given up: the original is free for other things."""
    copy = cloning.copy_behind(context.target)
    thaw(copy)
    cloning.release_source(copy)


def thaw(copy: DiskCopy) -> None:
    """Remove the snapshot that was taken for this copy. An original that was deleted meanwhile has none."""
    if not copy.is_frozen:
        return
    try:
        _driver(copy).delete_snapshot(copy.source_id, copy.pk)
    except DomainNotFoundError:
        if copy.source.is_live:
            raise
    cloning.record_frozen(copy, is_frozen=False)


def _moment(copy: DiskCopy) -> UUID | None:
    """The snapshot to be read; None for a disk that nobody writes to."""
    return copy.snapshot or (copy.pk if copy.is_frozen else None)


# --- clones ---------------------------------------------------------------------------------------------------------


def copy_disk(context: Context[Machine]) -> None:
    copy = cloning.copy_behind(context.target)
    driver, source, moment = _driver(copy), copy.source_id, _moment(copy)
    if copy.base is None:
        driver.copy_disk(context.target.pk, source=source, snapshot=moment, base=None, progress=context.progress)
    elif copy.base.status == BaseStatus.MAKING:
        flat = copy.base.is_flat
        driver.make_base(copy.base.pk, source=source, snapshot=moment, flat=flat, progress=context.progress)


def give_identity(context: Context[Machine]) -> None:
    """Of a base, once for all the clones that are made of it."""
    copy = cloning.copy_behind(context.target)
    if copy.base is not None and copy.base.status != BaseStatus.MAKING:
        return
    if copy.identity == Identity.NEW:
        disk = context.target.pk if copy.base is None else copy.base.pk
        remove_identity(_driver(copy), disk, personal=False)
    if copy.base is not None:
        cloning.record_base_ready(copy.base)


def remove_identity(driver: HypervisorDriver, disk: UUID, *, personal: bool) -> None:
    try:
        driver.remove_identity(disk, personal=personal)
    except HypervisorError as error:
        if error.code == "unknown-system":
            raise WorkFailedError(_unknown_system(), code=error.code) from error
        raise


def _unknown_system() -> str:
    return _(
        "The system on this disk is not one whose identity can be removed: it is not known, or its disk is encrypted. "
        "Choose “everything as it is”, and give the copy another name and other keys inside before both are used."
    )


def create_disk(context: Context[Machine]) -> None:
    """Of a full clone it is there."""
    copy, machine = cloning.copy_behind(context.target), context.target
    if copy.base is not None:
        size = machine.disk_gib * create.GIB
        common.driver(context).create_disk(machine.pk, image=copy.base.pk, size_bytes=size)


def define(context: Context[Machine]) -> None:
    """An original that was deleted meanwhile has no firmware to copy from any more."""
    create.define(context)
    copy = cloning.copy_behind(context.target)
    try:
        common.driver(context).copy_firmware(context.target.pk, source=copy.source_id)
    except DomainNotFoundError:
        if copy.source.is_live:
            raise


CLONE: Workflow[Machine] = Workflow(
    JobName.MACHINE_CLONE,
    load=common.load,
    steps=(
        Step(StepName.FREEZE, freeze, undo=let_go),
        Step(StepName.COPY, copy_disk, undo=create.delete_storage),
        Step(StepName.LET_GO, let_go),
        Step(StepName.IDENTITY, give_identity),
        Step(StepName.DISK, create_disk, undo=create.delete_storage),
        Step(StepName.SEED, create.write_seed),
        Step(StepName.DEFINE, define, undo=create.undefine),
        Step(StepName.START, common.start),
        Step(StepName.BOOT, create.wait_for_boot),
        Step(StepName.ADDRESS, create.ask_address),
    ),
    on_done=cloning.record_cloned,
    on_failed=lambda clone, message: cloning.record_clone_failed(clone, message=message),
    on_cancelled=lambda clone: cloning.record_clone_failed(clone, message=_("Cloning was stopped on request.")),
)


# --- images ---------------------------------------------------------------------------------------------------------


def make_base(context: Context[ImageVersion]) -> None:
    """On the original's host, under the version's own id: what is not ready yet is offered to nobody."""
    copy = cloning.copy_behind(context.target)
    _driver(copy).make_base(
        context.target.pk, source=copy.source_id, snapshot=_moment(copy), flat=True, progress=context.progress
    )


def remove_people(context: Context[ImageVersion]) -> None:
    copy = cloning.copy_behind(context.target)
    if copy.identity == Identity.NEW:
        remove_identity(_driver(copy), context.target.pk, personal=True)


def export(context: Context[ImageVersion]) -> None:
    version = context.target
    if not version.path.is_file():
        settings.IMAGES_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        driver = _driver(cloning.copy_behind(version))
        driver.get_image(version.pk, version.path, progress=lambda percent: context.progress(percent * 9 // 10))
    facts = replace(inspect_image(version.path), sha256=sha256_of(version.path))
    images.record_version_facts(
        version, size_bytes=facts.size_bytes, virtual_size_bytes=facts.virtual_size_bytes, sha256=facts.sha256
    )


CAPTURE: Workflow[ImageVersion] = Workflow(
    JobName.IMAGE_CAPTURE,
    load=image_work.load,
    steps=(
        Step(StepName.FREEZE, freeze, undo=let_go),
        Step(StepName.COPY, make_base, undo=image_work.unpublish),
        Step(StepName.LET_GO, let_go),
        Step(StepName.IDENTITY, remove_people),
        Step(StepName.EXPORT, export, undo=image_work.remove_files),
        Step(StepName.PUBLISH, image_work.publish, undo=image_work.unpublish),
    ),
    on_done=capturing.record_captured,
    on_failed=lambda version, message: capturing.record_capture_failed(version, message=message),
    on_cancelled=lambda version: capturing.record_capture_failed(version, message=_("Stopped on request.")),
)
