"""Writes about images. The file work is done by workers; here are the rows."""

from contextlib import ExitStack
from pathlib import Path
from typing import IO
from uuid import UUID, uuid4

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils.text import slugify
from django.utils.translation import gettext as _

from portal.accounts.models import Project, User
from portal.accounts.permissions import Permission
from portal.accounts.selectors import require
from portal.audit import services as audit
from portal.errors import ConflictError, ForbiddenError, InvalidError
from portal.events import services as events
from portal.events.kinds import Kind as EventKind
from portal.images import signing
from portal.images.checksums import checksum_of
from portal.images.models import Firmware, Image, ImageVersion, Kind, Source, VersionStatus
from portal.images.official import OFFICIAL
from portal.jobs import services as jobs
from portal.jobs.models import Job
from portal.jobs.names import JobName
from portal.jobs.selectors import active_job_of
from portal.lib import live
from portal.lib.fetcher import RefusedError, target_of
from portal.uploads import services as uploads

QUEUE = "images"
FETCH_QUEUE = "fetches"


def register_recipe(
    slug: str, *, title: str, description: str, kind: Kind, firmware: Firmware, min_memory_mib: int
) -> Image:
    """The image of a recipe file, made or brought up to date. It has no version until it is built."""
    values = {
        "title": title,
        "description": description,
        "kind": kind,
        "source": Source.RECIPE,
        "recipe": slug,
        "min_memory_mib": min_memory_mib,
    }
    image, created = Image.objects.update_or_create(slug=slug, defaults=values)
    if created:
        audit.record(None, "image.registered", image)
    return image


@transaction.atomic
def request_build(image: Image, *, actor: User | None, request_ip: str | None = None) -> Job:
    """Build the next version by the image's recipe. A build that is under way is not started twice."""
    if actor is not None and not actor.is_staff:
        raise ForbiddenError(_("Only operators build images."))
    if image.source != Source.RECIPE:
        raise InvalidError(_("This image has no recipe to build it by."))
    under_way = image.versions.filter(status=VersionStatus.BUILDING).first()
    if under_way is not None:
        job = active_job_of(under_way)
        if job is not None:
            return job
    version = _next_version(image)
    audit.record(actor, "image.build", image, detail={"version": version.number}, request_ip=request_ip)
    return jobs.enqueue(JobName.IMAGE_BUILD, version, queue=QUEUE, actor=actor, project=image.project)


def add_upload(
    upload: "UploadedFile[bytes] | UUID",
    *,
    actor: User,
    title: str,
    kind: Kind,
    firmware: Firmware = Firmware.BIOS,
    project: Project | None,
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> ImageVersion:
    """Keep an uploaded disk and have a worker inspect and convert it. Without a project it is for everyone.

    `upload` is what a form brought, or the id of a whole upload that came in pieces, which the version takes over.
    The same `request_key` by the same person gives the same version again: it becomes the image's id.
    """
    _may_add(actor, project)
    earlier = _version_of_request(actor, request_key)
    if earlier is not None:
        return earlier
    if not isinstance(upload, UUID):
        _check_size(upload)
    try:
        return _add_upload(
            upload,
            actor=actor,
            title=title,
            kind=kind,
            firmware=firmware,
            project=project,
            request_key=request_key or uuid4(),
            request_ip=request_ip,
        )
    except IntegrityError as error:
        # The other of two at once may have been the same one.
        earlier = _version_of_request(actor, request_key)
        if earlier is not None:
            return earlier
        raise ConflictError(_("This form has been sent already. Open the page anew to upload another disk.")) from error


def _version_of_request(actor: User, request_key: UUID | None) -> ImageVersion | None:
    if request_key is None:
        return None
    versions = ImageVersion.objects.filter(image=request_key, image__created_by=actor).exclude(
        image__source=Source.RECIPE
    )
    return versions.select_related("image").order_by("number").first()


def _add_upload(
    upload: "UploadedFile[bytes] | UUID",
    *,
    actor: User,
    title: str,
    kind: Kind,
    firmware: Firmware,
    project: Project | None,
    request_key: UUID,
    request_ip: str | None,
) -> ImageVersion:
    with ExitStack() as undo, transaction.atomic():
        image = Image.objects.create(
            id=request_key,
            slug=f"{slugify(title)[:60] or 'image'}-{uuid4().hex[:8]}",
            title=title,
            kind=kind,
            source=Source.UPLOAD,
            project=project,
            created_by=actor,
            has_agent=False,
        )
        if isinstance(upload, UUID):
            taken = uploads.take_over(actor, upload)
            version = _next_version(image, firmware=firmware, id=taken.pk, upload_name=taken.name)
            size_bytes = taken.size_bytes
        else:
            version = _next_version(image, firmware=firmware, upload_name=Path(upload.name or "").name[:255])
            undo.callback(version.upload_path.unlink, missing_ok=True)  # Without its rows nobody would ever find it.
            _keep_file(upload, version.upload_path)
            size_bytes = upload.size or 0
        audit.record(actor, "image.uploaded", image, detail={"bytes": size_bytes}, request_ip=request_ip)
        jobs.enqueue(JobName.IMAGE_IMPORT, version, queue=QUEUE, actor=actor, project=project)
        undo.pop_all()
    _tell(version)
    return version


def add_from_url(
    *,
    actor: User,
    title: str,
    kind: Kind,
    url: str,
    checksum: str,
    signing_key: str = "",
    signature_url: str = "",
    firmware: Firmware = Firmware.BIOS,
    project: Project | None,
    min_memory_mib: int = 256,
    request_key: UUID | None = None,
    request_ip: str | None = None,
) -> ImageVersion:
    """Have a worker fetch a disk, and inspect and convert it as if it had been uploaded.

    `checksum` is one, or the address of a file of checksums that names the disk's file. With a `signing_key`, that of
    an official maker or a public key as text, that file must be signed, at `signature_url` or in itself. Whether the
    addresses lead anywhere, and where, is looked at by the worker only. The same `request_key` gives the same version
    again.
    """
    _may_add(actor, project)
    earlier = _version_of_request(actor, request_key)
    if earlier is not None:
        return earlier
    source = _checked_source(url.strip(), checksum.strip())
    source |= _checked_signing(url.strip(), signing_key.strip(), signature_url.strip(), of="checksums_url" in source)
    try:
        with transaction.atomic():
            image = Image.objects.create(
                id=request_key or uuid4(),
                slug=f"{slugify(title)[:60] or 'image'}-{uuid4().hex[:8]}",
                title=title,
                kind=kind,
                source=Source.URL,
                project=project,
                created_by=actor,
                has_agent=False,
                min_memory_mib=min_memory_mib,
            )
            version = _next_version(image, firmware=firmware, **source)
            audit.record(actor, "image.fetch", image, detail={"host": target_of(url).host}, request_ip=request_ip)
            jobs.enqueue(JobName.IMAGE_FETCH, version, queue=FETCH_QUEUE, actor=actor, project=project)
            _tell(version)
    except IntegrityError as error:
        earlier = _version_of_request(actor, request_key)
        if earlier is not None:
            return earlier
        raise ConflictError(_("This form has been sent already. Open the page anew to fetch another disk.")) from error
    return version


def _checked_source(url: str, checksum: str) -> dict[str, str]:
    """The version's columns that say where it comes from."""
    _check_address(url, field="url")
    found = checksum_of(checksum)
    if found is not None:
        return {"source_url": url, "source_checksum": str(found)}
    if "://" not in checksum:
        text = _("Paste a SHA-256 or SHA-512 checksum (64 or 128 digits), or the https:// address of a file with it.")
        raise InvalidError(text, field="checksum")
    _check_address(checksum, field="checksum")
    return {"source_url": url, "checksums_url": checksum}


def _checked_signing(url: str, key: str, signature_url: str, *, of: bool) -> dict[str, str]:
    """The version's columns that say who signs; `of` says that there is a file of checksums to be signed."""
    if not key and not signature_url:
        return {}
    if not key:
        raise InvalidError(_("Paste the public key of who signs."), field="signing_key")
    if not of:
        text = _("What is signed is a file of checksums: give its https:// address in place of a checksum.")
        raise InvalidError(text, field="checksum")
    if signing.is_makers(key) and url not in {one.url for one in OFFICIAL.values()}:
        raise InvalidError(_("Paste the public key of who signs."), field="signing_key")
    if not signing.is_makers(key):
        try:
            signing.dearmored(key)
        except signing.KeyTextError as error:
            text = _("Paste a public key as gpg --armor --export writes it.")
            raise InvalidError(text, field="signing_key") from error
    if signature_url:
        _check_address(signature_url, field="signature_url")
    return {"signing_key": key, "signature_url": signature_url}


def _check_address(url: str, *, field: str) -> None:
    try:
        target_of(url)
    except RefusedError as error:
        raise InvalidError(error.message, field=field) from error


@transaction.atomic
def add_captured(
    *,
    actor: User,
    kind: Kind,
    firmware: Firmware,
    has_agent: bool,
    min_memory_mib: int,
    image: Image | None = None,
    title: str = "",
    project: Project | None = None,
    request_key: UUID | None = None,
) -> ImageVersion:
    """The row of a version that a worker makes of a machine's disk: of `image`, or of a new one named `title`.

    A new one without a project is for everyone. The caller writes the audit row and has the work done; the same
    `request_key` is the caller's to know again.
    """
    _may_add(actor, image.project if image is not None else project)
    if image is None:
        image = Image.objects.create(
            id=request_key or uuid4(),
            slug=f"{slugify(title)[:60] or 'image'}-{uuid4().hex[:8]}",
            title=title,
            kind=kind,
            source=Source.MACHINE,
            project=project,
            created_by=actor,
            has_agent=has_agent,
            min_memory_mib=min_memory_mib,
        )
    elif image.source == Source.RECIPE:
        raise InvalidError(_("Versions of this image are built by a recipe; choose another one."), field="image")
    version = _next_version(image, firmware=firmware)
    _tell(version)
    return version


@transaction.atomic
def request_delete_version(version: ImageVersion, *, actor: User, request_ip: str | None = None) -> Job:
    """Remove a version that no machine is based on."""
    _may_delete(actor, version.image)
    if version.machines.exclude(status="deleted").exists() or version.rebuilding.exists():
        raise ConflictError(_("Machines are based on this version. Delete them first, or keep it."))
    if version.deployments.exists():
        raise ConflictError(_("Desktops of a deployment are made of this version. Delete that first, or keep it."))
    if version.rescues.exists():
        raise ConflictError(_("A machine is in rescue by this version. Bring it back first, or keep it."))
    if version.parents.exclude(state="deleted").exists():
        raise ConflictError(_("A running copy of this version is kept, or going. It can be deleted when that is gone."))
    if version.pools.exists() or version.pools_to_come.exists():
        raise ConflictError(_("A desktop pool is made from this version. Give it another one first."))
    claimed = (
        ImageVersion.objects.filter(pk=version.pk)
        .exclude(status__in=[VersionStatus.DELETING, VersionStatus.BUILDING])
        .update(status=VersionStatus.DELETING)
    )
    if claimed != 1:
        job = active_job_of(version)
        if job is not None and job.name == JobName.IMAGE_DELETE:
            return job
        raise ConflictError(_("This version is being made; wait until that has ended."))
    audit.record(actor, "image.deleted", version.image, detail={"version": version.number}, request_ip=request_ip)
    _tell(version)
    return jobs.enqueue(JobName.IMAGE_DELETE, version, queue=QUEUE, actor=actor, project=version.image.project)


def record_version_facts(
    version: ImageVersion,
    *,
    size_bytes: int,
    virtual_size_bytes: int,
    sha256: str,
    upload_sha256: str = "",
) -> None:
    """What was found out about the finished file."""
    ImageVersion.objects.filter(pk=version.pk).update(
        size_bytes=size_bytes, virtual_size_bytes=virtual_size_bytes, sha256=sha256, upload_sha256=upload_sha256
    )


@transaction.atomic
def record_version_ready(version: ImageVersion) -> None:
    """The file is whole under its name and its facts are known: offer it."""
    making = ImageVersion.objects.filter(pk=version.pk, status=VersionStatus.BUILDING)
    if making.update(status=VersionStatus.READY, error=""):
        _record(EventKind.IMAGE_READY, version)
    _tell(version)


@transaction.atomic
def record_version_failed(version: ImageVersion, *, message: str) -> None:
    making = ImageVersion.objects.filter(pk=version.pk, status=VersionStatus.BUILDING)
    if making.update(status=VersionStatus.FAILED, error=message):
        _record(EventKind.IMAGE_FAILED, version, error=message)
    _tell(version)


def _record(kind: EventKind, version: ImageVersion, **data: object) -> None:
    data |= {"image": str(version.image_id), "number": version.number}
    events.record(kind, version, project=version.image.project_id, data=data)


@transaction.atomic
def record_version_deleted(version: ImageVersion) -> None:
    """Its files are gone: remove the row, and the image with its last version unless a recipe can make it again.

    A version that deleted machines were based on stays as a row for their history.
    """
    _tell(version)
    _record(EventKind.IMAGE_DELETED, version)
    image = version.image
    if version.machines.exists():
        return
    version.parents.filter(state="deleted").delete()
    version.delete()
    if image.source != Source.RECIPE and not image.versions.exists():
        image.delete()


def _next_version(image: Image, *, firmware: Firmware = Firmware.BIOS, **columns: str | UUID) -> ImageVersion:
    # Not `image.versions`: on an image of `images_for` that leaves out deleted versions, whose numbers stay taken.
    number = (ImageVersion.objects.filter(image=image).aggregate(last=Max("number"))["last"] or 0) + 1
    try:
        return ImageVersion.objects.create(image=image, number=number, firmware=firmware, **columns)
    except IntegrityError as error:
        raise ConflictError(_("Another version of this image is being added just now.")) from error


def _may_add(actor: User, project: Project | None) -> None:
    if project is not None:
        require(actor, project.pk, Permission.IMAGE_CREATE)
    elif not actor.is_staff:
        raise ForbiddenError(_("Only operators add images for everyone; choose a project."))


def _may_delete(actor: User, image: Image) -> None:
    if image.project_id is not None:
        require(actor, image.project_id, Permission.IMAGE_DELETE)
    elif not actor.is_staff:
        raise ForbiddenError(_("Only operators delete images that are for everyone."))


def _check_size(upload: "UploadedFile[bytes]") -> None:
    if not upload.size:
        raise InvalidError(_("The file is empty: nothing arrived. Choose the disk again."), field="file")
    if upload.size > settings.IMAGE_MAX_UPLOAD_BYTES:
        raise InvalidError(
            _("The file is larger than the %(gib)s GiB that are allowed.")
            % {"gib": settings.IMAGE_MAX_UPLOAD_BYTES // 1024**3},
            field="file",
        )


def _keep_file(upload: "UploadedFile[bytes]", destination: Path) -> None:
    """Move the spooled upload under the name that its row knows; across file systems it is copied."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with destination.open("xb") as target:
        for chunk in upload.chunks(4 * 1024**2):
            _write(target, chunk)


def _write(target: IO[bytes], chunk: bytes) -> None:
    try:
        target.write(chunk)
    except OSError as error:
        Path(target.name).unlink(missing_ok=True)
        raise InvalidError(_("The portal's disk is full; the upload was not kept."), field="file") from error


def _tell(version: ImageVersion) -> None:
    project_id = version.image.project_id
    group = live.project_group(project_id) if project_id else live.EVERYONE
    live.publish_on_commit(
        [group, live.OPERATORS], [f"imageversion:{version.pk}", f"image:{version.image_id}", "images"]
    )
