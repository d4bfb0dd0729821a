"""Writes about ISOs. The file work is done by workers; here are the rows."""

from __future__ import annotations

import re
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from portal.accounts import quota
from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from portal.events.kinds import Kind
from portal.isos import events
from portal.isos.models import Iso, Role, Status
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.jobs.selectors import active_job_of
from portal.uploads import services as uploads

QUEUE = "images"
_SHA256 = re.compile(r"[0-9a-f]{64}")

# --- what people ask for ------------------------------------------------------------------------------------------


def request_iso(
    upload: UUID,
    *,
    actor: User,
    name: str,
    role: Role = Role.INSTALLER,
    project: Project | None,
    sha256: str = "",
    request_ip: str | None = None,
) -> Iso:
    """Make an ISO of a whole upload of the person's, and have it checked. Without a project it is for everyone.

    It takes over the upload's id, so the same upload asked for again gives the same ISO. `sha256` may be empty.
    """
    _may_add(actor, project)
    earlier = _made_of(actor, upload)
    if earlier is not None:
        return earlier
    expected = _checked_sum(sha256)
    if not name.strip():
        raise InvalidError(_("Give it a name."), field="name")
    try:
        with transaction.atomic():
            return _create(
                upload,
                actor=actor,
                name=name.strip()[:100],
                role=role,
                project=project,
                expected=expected,
                request_ip=request_ip,
            )
    except (IntegrityError, InvalidError):
        # The other of two at once may have been the same one.
        earlier = _made_of(actor, upload)
        if earlier is not None:
            return earlier
        raise


def _made_of(actor: User, upload: UUID) -> Iso | None:
    return Iso.objects.select_related("project").filter(pk=upload, created_by=actor).first()


def _create(
    upload: UUID,
    *,
    actor: User,
    name: str,
    role: Role,
    project: Project | None,
    expected: str,
    request_ip: str | None,
) -> Iso:
    taken = uploads.take_over(actor, upload)
    iso = Iso(
        id=taken.pk,
        project=project,
        name=name,
        role=role,
        size_bytes=taken.size_bytes,
        expected_sha256=expected,
        upload_name=taken.name,
        created_by=actor,
        holds_quota=project is not None,
    )
    if project is not None:
        quota.reserve(project.pk, iso.amount)
    iso.save(force_insert=True)
    audit.record(actor, "iso.uploaded", iso, detail={"bytes": iso.size_bytes}, request_ip=request_ip)
    jobs.enqueue(JobName.ISO_IMPORT, iso, queue=QUEUE, actor=actor, project=project)
    events.iso_changed(iso)
    return iso


def _checked_sum(text: str) -> str:
    found = text.strip().lower().removeprefix("sha256:").strip()
    if found and not _SHA256.fullmatch(found):
        raise InvalidError(_("A SHA-256 checksum has 64 digits, 0 to 9 and a to f."), field="sha256")
    return found


@transaction.atomic
def request_delete(iso: Iso, *, actor: User, request_ip: str | None = None) -> Job:
    """Have an ISO removed that lies in no machine's drive."""
    _may_delete(actor, iso)
    claimed = Iso.objects.filter(pk=iso.pk, status__in=[Status.READY, Status.FAILED]).update(status=Status.DELETING)
    if claimed != 1:
        job = active_job_of(iso)
        if job is not None and job.name == JobName.ISO_DELETE:
            return job
        raise ConflictError(_("This ISO is being checked; wait until that has ended."))
    if iso.discs.exists() or iso.rescues.exists():  # Looked at when nobody can put it into a drive any more.
        raise ConflictError(_("It lies in the drive of a machine. Eject it there first."))
    audit.record(actor, JobName.ISO_DELETE.value, iso, request_ip=request_ip)
    events.iso_changed(iso)
    return jobs.enqueue(JobName.ISO_DELETE, iso, queue=QUEUE, actor=actor, project=iso.project)


def hold_ready(iso_id: UUID) -> Iso:
    """For who puts it into a drive, inside a transaction: until that ends nobody deletes it. ConflictError."""
    iso = Iso.objects.select_for_update().filter(pk=iso_id).first()
    if iso is None:
        raise NotFoundError
    if iso.status != Status.READY:
        raise ConflictError(_("%(name)s is not ready.") % {"name": iso.name})
    return iso


# --- what workers found out ---------------------------------------------------------------------------------------


def record_sum(iso: Iso, sha256: str) -> None:
    Iso.objects.filter(pk=iso.pk).update(sha256=sha256)


@transaction.atomic
def record_ready(iso: Iso) -> None:
    """The file is whole under its name."""
    if Iso.objects.filter(pk=iso.pk, status=Status.CHECKING).update(status=Status.READY, error=""):
        events.record(Kind.ISO_READY, iso)
    events.iso_changed(iso)


@transaction.atomic
def record_failed(iso: Iso, *, message: str) -> None:
    """Nothing of it was kept but the row, which says why."""
    _release(iso)
    if Iso.objects.filter(pk=iso.pk, status=Status.CHECKING).update(status=Status.FAILED, error=message):
        events.record(Kind.ISO_FAILED, iso, error=message)
    events.iso_changed(iso)


@transaction.atomic
def record_deleted(iso: Iso, *, everywhere: bool) -> None:
    """The portal's file is gone. While a host may still have its copy, the row stays and says that it is to go."""
    _release(iso)
    events.iso_changed(iso)
    if everywhere and Iso.objects.filter(pk=iso.pk).exists():
        events.record(Kind.ISO_DELETED, iso)
        Iso.objects.filter(pk=iso.pk).delete()


def _release(iso: Iso) -> None:
    if Iso.objects.filter(pk=iso.pk, holds_quota=True).update(holds_quota=False) == 1 and iso.project_id is not None:
        quota.release(iso.project_id, iso.amount)


def _may_add(actor: User, project: Project | None) -> None:
    if project is not None:
        require(actor, project.pk, Permission.IMAGE_CREATE)
    elif not actor.is_staff:
        raise ForbiddenError(_("Only operators add ISOs for everyone; choose a project."))


def _may_delete(actor: User, iso: Iso) -> None:
    if iso.project_id is not None:
        require(actor, iso.project_id, Permission.IMAGE_DELETE)
    elif not actor.is_staff:
        raise ForbiddenError(_("Only operators delete ISOs that are for everyone."))
