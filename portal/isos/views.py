"""The library of ISOs as pages: the list, one of them, a new one."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import projects_for
from portal.errors import ForbiddenError, PortalError
from portal.isos import services
from portal.isos.forms import IsoForm
from portal.isos.models import Iso, Role, Status
from portal.isos.selectors import iso_for, isos_for, may_delete
from portal.jobs.selectors import active_jobs_of, jobs_of, overall_progress
from portal.lib.paging import page_of, text_of
from portal.lib.units import format_bytes
from portal.uploads.selectors import may_upload, uploads_of


@require_safe
def iso_list(request: HttpRequest) -> HttpResponse:
    search = text_of(request, "q")
    isos = isos_for(request.user).exclude(status=Status.DELETING)
    page = page_of(request, isos.filter(name__icontains=search) if search else isos)
    jobs = active_jobs_of("iso", [iso.pk for iso in page.object_list])
    context = {
        "page": page,
        "rows": [(iso, overall_progress(jobs[iso.pk]) if iso.pk in jobs else 0) for iso in page.object_list],
        "search": search,
        "can_upload": may_upload(person(request)),
        "unfinished": uploads_of(person(request)),
    }
    return render(request, "isos/_list.html" if is_live(request) else "isos/list.html", context)


@require_safe
def iso_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    iso = iso_for(request.user, pk)
    jobs = jobs_of(iso, limit=5)
    launchable = projects_for(request.user, Permission.MACHINE_CREATE)
    if iso.project_id:
        launchable = launchable.filter(pk=iso.project_id)
    context = {
        "iso": iso,
        "job": next((job for job in jobs if job.is_active), None),
        "progress": next((overall_progress(job) for job in jobs if job.is_active), 0),
        "may_launch": iso.status == Status.READY and iso.role == Role.INSTALLER and launchable.exists(),
        "may_delete": may_delete(request.user, iso) and iso.status in {Status.READY, Status.FAILED},
        "machine_count": iso.discs.count() + iso.rescues.count(),
    }
    return render(request, "isos/_detail.html" if is_live(request) else "isos/detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def iso_upload(request: HttpRequest) -> HttpResponse:
    """The page's script sends the file by itself, and then this form with the upload's id."""
    user = person(request)
    if not may_upload(user):
        raise ForbiddenError(_("You need to be a member or owner of a project to add ISOs to it."))
    form = IsoForm(request.POST if request.method == "POST" else None, user=user)
    iso = _add(request, form) if form.is_valid() else None
    if iso is not None:
        messages.success(request, _("%(iso)s has arrived and is being checked.") % {"iso": iso.name})
        address = reverse("isos:detail", args=[iso.pk])
        return JsonResponse({"url": address}, status=201) if _wants_json(request) else redirect(address)
    if form.errors and _wants_json(request):
        return JsonResponse({"errors": form.errors}, status=422)
    context = {
        "form": form,
        "most_bytes": settings.IMAGE_MAX_UPLOAD_BYTES,
        "most": format_bytes(settings.IMAGE_MAX_UPLOAD_BYTES),
        "keep_hours": settings.UPLOADS_KEEP_HOURS,
        "unfinished": uploads_of(user),
    }
    return render(request, "isos/upload.html", context, status=422 if form.errors else 200)


def _add(request: HttpRequest, form: IsoForm) -> Iso | None:
    """The ISO, or None with the reason in the form."""
    data = form.cleaned_data
    try:
        return services.request_iso(
            data["upload"],
            actor=person(request),
            name=data["name"],
            role=Role(data["role"]),
            project=form.project(),
            sha256=data["sha256"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, str(error.message))
        return None


@require_POST
def iso_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    iso = iso_for(request.user, pk)
    services.request_delete(iso, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("%(iso)s is being deleted.") % {"iso": iso.name})
    return redirect("isos:list")


def _wants_json(request: HttpRequest) -> bool:
    return request.headers.get("Accept", "").startswith("application/json")
