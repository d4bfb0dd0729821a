"""ISOs: what has arrived is looked at and put into the library; and removed everywhere."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from typing import BinaryIO

from django.conf import settings
from django.utils.translation import gettext as _

from portal.hosts.selectors import hosts, is_answering
from portal.isos import services
from portal.isos.models import Iso
from portal.isos.selectors import iso_by_id
from portal.jobs.names import JobName, StepName
from workers.hosts import driver_of
from workers.hypervisor.errors import HostUnreachableError
from workers.workflows.base import Context, Step, WorkFailedError, Workflow

logger = logging.getLogger(__name__)

BLOCK = 4 * 1024**2
# Where a disc's first volume descriptor is, and how those of ISO 9660 and UDF begin. That a file has one says that it
# is meant as a disc, and no more: whatever else it may be, nothing ever reads it as anything but one.
_DESCRIPTOR_AT = 16 * 2048
_DESCRIPTORS = (b"CD001", b"BEA01", b"NSR02", b"NSR03")


def check(context: Context[Iso]) -> None:
    """Size, kind and checksum of what has arrived."""
    iso = context.target
    if iso.path.is_file():
        return  # It was found good by a worker that died just after it had put it away.
    try:
        descriptor = os.open(iso.upload_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise WorkFailedError(_("What had arrived is not there any more. Upload it again."), code="lost") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_size != iso.size_bytes:
            raise WorkFailedError(_("Not all of it is there. Upload it again."), code="cut-off")
        _refuse_other_kinds(file)
        found = _sum_of(context, file)
    if iso.expected_sha256 and found != iso.expected_sha256:
        text = _("It has another checksum than the one that it was said to have: %(found)s. It was thrown away.")
        raise WorkFailedError(text % {"found": found}, code="checksum")
    services.record_sum(iso, found)


def _refuse_other_kinds(file: BinaryIO) -> None:
    file.seek(_DESCRIPTOR_AT)
    if file.read(6)[1:] not in _DESCRIPTORS:
        raise WorkFailedError(
            _("This is no ISO: it has neither an ISO 9660 nor a UDF file system. Disks are uploaded as images."),
            code="no-iso",
        )
    file.seek(0)


def _sum_of(context: Context[Iso], file: BinaryIO) -> str:
    digest, done, whole = hashlib.sha256(), 0, max(context.target.size_bytes, 1)
    while block := file.read(BLOCK):
        digest.update(block)
        done += len(block)
        context.progress(min(done * 100 // whole, 99))
    return digest.hexdigest()


def keep(context: Context[Iso]) -> None:
    iso = context.target
    if not iso.path.is_file():
        settings.ISOS_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        _move(iso)


def _move(iso: Iso) -> None:
    """Both lie below CASEMENT_HOME; where somebody put them apart, it is copied and appears when it is whole."""
    try:
        iso.upload_path.replace(iso.path)
    except OSError:
        part = iso.path.with_suffix(".part")
        with iso.upload_path.open("rb") as source, part.open("wb") as target:
            while block := source.read(BLOCK):
                target.write(block)
        part.replace(iso.path)
        iso.upload_path.unlink(missing_ok=True)


def remove_files(context: Context[Iso]) -> None:
    _remove(context.target)


def _remove(iso: Iso) -> None:
    for path in (iso.upload_path, iso.path, iso.path.with_suffix(".part")):
        path.unlink(missing_ok=True)


def remove_everywhere(context: Context[Iso]) -> None:
    """From the hosts first. One that is away keeps its copy; reconciliation removes it when the host is back."""
    for host in hosts():
        try:
            driver_of(host).delete_iso(context.target.pk)
        except HostUnreachableError as error:
            logger.warning("ISO %s stays on host %s for now: %s", context.target.pk, host.name, error)
    _remove(context.target)


def deleted(iso: Iso) -> None:
    services.record_deleted(iso, everywhere=all(is_answering(host) for host in hosts()))


def failed(iso: Iso, message: str) -> None:
    _remove(iso)  # No step may have been begun whose undo would have removed it.
    services.record_failed(iso, message=message)


WORKFLOWS: tuple[Workflow[Iso], ...] = (
    Workflow(
        JobName.ISO_IMPORT,
        load=iso_by_id,
        steps=(
            Step(StepName.CHECK_ISO, check, undo=remove_files),
            Step(StepName.KEEP_ISO, keep, undo=remove_files),
        ),
        on_done=services.record_ready,
        on_failed=failed,
        on_cancelled=lambda iso: failed(iso, _("Stopped on request.")),
    ),
    Workflow(
        JobName.ISO_DELETE,
        load=iso_by_id,
        steps=(Step(StepName.DELETE_FILES, remove_everywhere),),
        on_done=deleted,
        cancellable=False,
        max_retries=20,
    ),
)
