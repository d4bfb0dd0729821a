"""Make image versions: build by recipe, or inspect and convert an upload; and remove them again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from portal.errors import NotFoundError
from portal.hosts.selectors import hosts, is_answering
from portal.images import services
from portal.images.models import ImageVersion
from portal.jobs.names import JobName, StepName
from workers.hosts import driver_of
from workers.hypervisor.errors import HostUnreachableError, HypervisorError
from workers.imaging.build import build_image
from workers.imaging.disk import clean_scratch
from workers.imaging.errors import ImagingError
from workers.imaging.facts import ImageFacts
from workers.imaging.files import partial_path
from workers.imaging.importer import ImportLimits, import_image
from workers.imaging.recipe import load_recipes
from workers.workflows.base import Context, Step, WorkFailedError, Workflow

logger = logging.getLogger(__name__)


def load(pk: str) -> ImageVersion:
    version = ImageVersion.objects.select_related("image__project").filter(pk=pk).first()
    if version is None:
        raise NotFoundError
    return version


def build(context: Context[ImageVersion]) -> None:
    version = context.target
    recipe = load_recipes().get(version.image.recipe)
    if recipe is None:
        raise WorkFailedError(_("The recipe of this image is no longer here."), code="no-recipe")

    def work() -> ImageFacts:
        return build_image(recipe, version.path, scratch=_scratch_of(version), progress=context.progress)

    _record(version, _translated(work))


def _scratch_of(version: ImageVersion) -> Path:
    return settings.IMAGES_DIR / f"{version.pk}.scratch"


def import_upload(context: Context[ImageVersion]) -> None:
    version = context.target
    limits = ImportLimits(max_virtual_bytes=settings.IMAGE_MAX_VIRTUAL_BYTES)

    def work() -> ImageFacts:
        return import_image(version.upload_path, version.path, limits=limits, progress=context.progress)

    if not version.path.is_file():
        _record(version, _translated(work))


def _translated(work: Callable[[], ImageFacts]) -> ImageFacts:
    """Foreign errors end here: the person reads the message, the log keeps the tools' output."""
    settings.IMAGES_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        return work()
    except ImagingError as error:
        if tail := getattr(error, "log_tail", ""):
            logger.warning("image work failed: %s\n%s", error, tail)
        raise WorkFailedError(error.message, code=getattr(error, "code", "image")) from error


def _record(version: ImageVersion, facts: ImageFacts) -> None:
    services.record_version_facts(
        version,
        size_bytes=facts.size_bytes,
        virtual_size_bytes=facts.virtual_size_bytes,
        sha256=facts.sha256,
        upload_sha256=facts.source_sha256,
    )


def publish(context: Context[ImageVersion]) -> None:
    version = context.target
    version.upload_path.unlink(missing_ok=True)
    _put_on_hosts(version)


def _put_on_hosts(version: ImageVersion) -> None:
    """Ahead of time, so that the first launch is as fast as the next. A host that cannot take it now does so then."""
    for host in hosts():
        try:
            driver_of(host).put_image(version.pk, version.path, progress=lambda _percent: None)
        except HypervisorError as error:
            logger.warning("image %s is not on host %s yet: %s", version.pk, host.name, error)


def unpublish(context: Context[ImageVersion]) -> None:
    """From the hosts. One that is away keeps its copy; reconciliation removes what no version knows by its state."""
    for host in hosts():
        try:
            driver_of(host).delete_image(context.target.pk)
        except HostUnreachableError as error:
            logger.warning("image %s stays on host %s for now: %s", context.target.pk, host.name, error)


def remove_files(context: Context[ImageVersion]) -> None:
    """Also what a worker that was killed left of an image that was not whole yet."""
    version = context.target
    version.upload_path.unlink(missing_ok=True)
    version.part_path.unlink(missing_ok=True)
    version.path.unlink(missing_ok=True)
    partial_path(version.path).unlink(missing_ok=True)
    clean_scratch(_scratch_of(version))


def remove_everywhere(context: Context[ImageVersion]) -> None:
    """From the hosts first. One that is away keeps its copy; reconciliation removes it when the host is back."""
    unpublish(context)
    remove_files(context)


def deleted(version: ImageVersion) -> None:
    """While a host that is away may still have its copy, the row stays: it says that the copy is to be removed."""
    if all(is_answering(host) for host in hosts()):
        services.record_version_deleted(version)


def failed(version: ImageVersion, message: str) -> None:
    version.upload_path.unlink(missing_ok=True)  # No step may have been begun whose undo would have removed it.
    services.record_version_failed(version, message=message)


def cancelled(version: ImageVersion) -> None:
    version.upload_path.unlink(missing_ok=True)
    services.record_version_failed(version, message=_("Stopped on request."))


WORKFLOWS: tuple[Workflow[ImageVersion], ...] = (
    Workflow(
        JobName.IMAGE_BUILD,
        load=load,
        steps=(Step(StepName.BUILD, build, undo=remove_files), Step(StepName.PUBLISH, publish, undo=unpublish)),
        on_done=services.record_version_ready,
        on_failed=failed,
        on_cancelled=cancelled,
    ),
    Workflow(
        JobName.IMAGE_IMPORT,
        load=load,
        steps=(
            Step(StepName.IMPORT, import_upload, undo=remove_files),
            Step(StepName.PUBLISH, publish, undo=unpublish),
        ),
        on_done=services.record_version_ready,
        on_failed=failed,
        on_cancelled=cancelled,
    ),
    Workflow(
        JobName.IMAGE_DELETE,
        load=load,
        steps=(Step(StepName.DELETE_FILES, remove_everywhere),),
        on_done=deleted,
        cancellable=False,
        max_retries=20,
    ),
)
