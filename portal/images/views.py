"""Images: what machines are made from, how they get here, and how they go."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import projects_for
from portal.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError, PortalError
from portal.images import services
from portal.images.forms import UploadForm
from portal.images.models import Firmware, Image, ImageVersion, Kind, Source, VersionStatus
from portal.images.selectors import image_for, images_for, machine_count_of, may_delete, version_for, versions_of
from portal.jobs.models import Job, JobStep
from portal.jobs.names import StepStatus
from portal.jobs.selectors import newest_job_by_target, overall_progress
from portal.lib.units import format_bytes
from portal.uploads.selectors import uploads_of


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version, and the newest job that made or makes or deletes it."""

    version: ImageVersion
    job: Job | None

    @property
    def percent(self) -> int:
        """How far its making is: the mean of its steps."""
        return overall_progress(self.job) if self.job else 0

    @property
    def is_there(self) -> bool:
        """False for a version that was deleted and is kept only for the history of machines made from it."""
        return self.version.status != VersionStatus.DELETING or (self.job is not None and self.job.is_active)

    @property
    def steps(self) -> list[JobStep]:
        return sorted(self.job.steps.all(), key=lambda step: step.position) if self.job else []

    @property
    def now(self) -> str:
        """What is being done just now, in words."""
        running = next((step for step in self.steps if step.status == StepStatus.RUNNING), None)
        if running is None:
            return _("waiting for a worker")
        return running.detail or running.get_name_display()


@dataclass(frozen=True, slots=True)
class ImageRow:
    """An image with the version that new machines get, and what is being made."""

    image: Image
    ready: ImageVersion | None
    making: VersionRow | None
    failed: ImageVersion | None
    version_count: int


@require_safe
def image_list(request: HttpRequest) -> HttpResponse:
    images = list(images_for(request.user))
    making = [v.pk for image in images for v in image.versions.all() if v.status == VersionStatus.BUILDING]
    jobs = newest_job_by_target("imageversion", making)
    rows = [_row(image, jobs) for image in images if image.source == Source.RECIPE or image.versions.all()]
    context = {
        "making": [row.making for row in rows if row.making],
        "shared": [row for row in rows if row.image.project_id is None],
        "of_projects": [row for row in rows if row.image.project_id is not None],
        "can_upload": UploadForm(user=person(request)).can_upload,
    }
    return render(request, "images/_list.html" if is_live(request) else "images/list.html", context)


@require_safe
def image_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    image = image_for(request.user, pk)
    versions = list(versions_of(image))
    jobs = newest_job_by_target("imageversion", [version.pk for version in versions])
    rows = [row for row in (VersionRow(version, jobs.get(version.pk)) for version in versions) if row.is_there]
    if not rows and image.source != Source.RECIPE:
        raise NotFoundError  # Its last version went; the row stays for the history of machines that are gone.
    context = {
        "image": image,
        "rows": rows,
        "ready": next((v for v in versions if v.status == VersionStatus.READY), None),
        "making": next((row for row in rows if row.version.status == VersionStatus.BUILDING), None),
        "failed": next((v for v in versions[:1] if v.status == VersionStatus.FAILED), None),
        "can_launch": _may_launch(request, image),
        "can_build": request.user.is_staff and image.source == Source.RECIPE,
        "can_delete": may_delete(request.user, image),
        "sees_jobs": request.user.is_staff or image.project_id is not None,
    }
    return render(request, "images/_detail.html" if is_live(request) else "images/detail.html", context)


@require_POST
def image_build(request: HttpRequest, pk: UUID) -> HttpResponse:
    image = image_for(request.user, pk)
    services.request_build(image, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("A new version of %(image)s is being built.") % {"image": image.title})
    return redirect("images:detail", pk=image.pk)


@require_http_methods(["GET", "HEAD", "POST"])
def image_upload(request: HttpRequest) -> HttpResponse:
    """With a script the answer is JSON (where to go, or what is wrong with which field); without one it is a page."""
    user = person(request)
    form = UploadForm(request.POST or None, request.FILES or None, user=user)
    if not form.can_upload:
        raise ForbiddenError(_("You need to be a member or owner of a project to add images to it."))
    if request.method != "POST":
        return _upload_page(request, UploadForm(user=user))
    version = _add(request, UploadForm(request.POST, request.FILES, user=user))
    if isinstance(version, UploadForm):
        if _wants_json(request):
            return JsonResponse({"errors": version.errors}, status=422)
        return _upload_page(request, version, status=422)
    messages.success(request, _("%(image)s has arrived and is being checked.") % {"image": version.image.title})
    address = reverse("images:detail", args=[version.image_id])
    return JsonResponse({"url": address}, status=201) if _wants_json(request) else redirect(address)


@require_http_methods(["GET", "HEAD", "POST"])
def version_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    """First what will be lost, in words; then, by POST, it goes."""
    version = version_for(request.user, pk)
    if not may_delete(request.user, version.image):
        raise ForbiddenError
    if request.method == "POST":
        services.request_delete_version(version, actor=person(request), request_ip=client_ip(request))
        messages.success(request, _("%(version)s is being deleted.") % {"version": str(version)})
        return redirect("images:list")  # Not to the image: with its last version an uploaded one goes too.
    template = "images/_delete_version.html" if is_live(request) else "images/delete_version.html"
    return render(request, template, _what_goes(version))


def _what_goes(version: ImageVersion) -> dict[str, object]:
    if version.status == VersionStatus.DELETING:
        raise ConflictError(_("This version is being deleted already."))
    others = list(versions_of(version.image).exclude(status=VersionStatus.DELETING).exclude(pk=version.pk))
    return {
        "version": version,
        "image": version.image,
        "machine_count": machine_count_of(version),
        "next_ready": next((other for other in others if other.status == VersionStatus.READY), None),
        "image_goes_too": not others and version.image.source != Source.RECIPE,
    }


def _may_launch(request: HttpRequest, image: Image) -> bool:
    """True if the person has a project to make a machine from this image in."""
    projects = projects_for(request.user, Permission.MACHINE_CREATE)
    return (projects.filter(pk=image.project_id) if image.project_id else projects).exists()


def _add(request: HttpRequest, form: UploadForm) -> ImageVersion | UploadForm:
    """The new version, or the form with what is wrong with it."""
    if not form.is_valid():
        return form
    upload: UploadedFile[bytes] | UUID = form.cleaned_data["upload"] or form.cleaned_data["file"]
    try:
        return services.add_upload(
            upload,
            actor=person(request),
            title=form.cleaned_data["title"],
            kind=Kind(form.cleaned_data["kind"]),
            firmware=Firmware(form.cleaned_data["firmware"]),
            project=form.project(),
            request_key=form.cleaned_data["request_key"],
            request_ip=client_ip(request),
        )
    except (InvalidError, ConflictError) as error:
        _put_error(form, error)
        return form


def _put_error(form: UploadForm, error: PortalError) -> None:
    form.add_error(error.field if error.field in form.fields else None, str(error.message))


def _upload_page(request: HttpRequest, form: UploadForm, *, status: int = 200) -> HttpResponse:
    context = {
        "form": form,
        "most": format_bytes(settings.IMAGE_MAX_UPLOAD_BYTES),
        "most_virtual": format_bytes(settings.IMAGE_MAX_VIRTUAL_BYTES),
        "unfinished": uploads_of(person(request)),
    }
    return render(request, "images/upload.html", context, status=status)


def _row(image: Image, jobs: dict[UUID, Job]) -> ImageRow:
    versions = list(image.versions.all())
    making = next((v for v in versions if v.status == VersionStatus.BUILDING), None)
    newest = versions[0] if versions else None
    return ImageRow(
        image=image,
        ready=next((v for v in versions if v.status == VersionStatus.READY), None),
        making=VersionRow(making, jobs.get(making.pk)) if making else None,
        failed=newest if newest and newest.status == VersionStatus.FAILED else None,
        version_count=len(versions),
    )


def _wants_json(request: HttpRequest) -> bool:
    return request.headers.get("Accept", "").startswith("application/json")
