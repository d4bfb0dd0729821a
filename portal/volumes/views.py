"""Volumes as pages: the list, a new one, one with its buttons. Machines attach and detach them on their own page."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.http import client_ip, is_live, person
from portal.accounts.permissions import Permission
from portal.accounts.selectors import permissions_in, projects_for, quota_lines
from portal.errors import PortalError
from portal.jobs.selectors import active_job_of, jobs_of
from portal.lib.paging import page_of, text_of
from portal.volumes import services
from portal.volumes.forms import GrowForm, VolumeForm
from portal.volumes.models import Volume
from portal.volumes.selectors import suggest_name, volume_for, volumes_for
from portal.volumes.states import CAN_ATTACH, CAN_DELETE, Status, Task

_STATES = [(value, label) for value, label in Status.choices if value != Status.DELETED]


@require_safe
def volume_list(request: HttpRequest) -> HttpResponse:
    user = person(request)
    search, status, project = (text_of(request, name) for name in ("q", "status", "project"))
    context = {
        "page": page_of(request, volumes_for(user, search=search, status=status, project=project)),
        "search": search,
        "status": status,
        "project": project,
        "filtered": bool(search or status or project),
        "may_create": projects_for(user, Permission.MACHINE_CREATE).exists(),
    }
    if not is_live(request):
        context |= {"states": _STATES, "projects": list(projects_for(user).values("name"))}
    return render(request, "volumes/_list.html" if is_live(request) else "volumes/list.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def volume_new(request: HttpRequest) -> HttpResponse:
    projects = projects_for(person(request), Permission.MACHINE_CREATE)
    first = projects.first()
    if first is None:
        return render(request, "volumes/new_nowhere.html", status=403 if request.method == "POST" else 200)
    if request.method == "POST":
        form = VolumeForm(request.POST, projects=projects)
        volume = _create(request, form) if form.is_valid() else None
        if volume is not None:
            return redirect("volumes:detail", pk=volume.pk)
        return render(request, "volumes/new.html", {"form": form}, status=422)
    chosen = projects.filter(name=text_of(request, "project")).first() or first
    form = VolumeForm(projects=projects, initial={"project": chosen.pk, "name": suggest_name(chosen)})
    return render(request, "volumes/new.html", {"form": form})


def _create(request: HttpRequest, form: VolumeForm) -> Volume | None:
    """The volume, or None with the reason in the form."""
    data = form.cleaned_data
    try:
        return services.request_volume(
            data["project"],
            actor=person(request),
            name=data["name"],
            size_gib=data["size_gib"],
            request_key=data["request_key"],
            request_ip=client_ip(request),
        )
    except PortalError as error:
        form.add_error(error.field if error.field in form.fields else None, str(error.message))
        return None


@require_safe
def volume_detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    return _detail(request, volume_for(request.user, pk))


def _detail(request: HttpRequest, volume: Volume, *, form: GrowForm | None = None, status: int = 200) -> HttpResponse:
    granted = permissions_in(request.user, volume.project_id)
    idle = volume.task == Task.NONE
    can_be_deleted = volume.status in CAN_DELETE and not volume.personal
    context = {
        "volume": volume,
        "job": active_job_of(volume),
        "jobs": jobs_of(volume, limit=10),
        "quota": [line for line in quota_lines(volume.project) if line.label == _("Disk")],
        "grow_form": form or GrowForm(initial={"size_gib": volume.size_gib + 1}),
        "may_grow": idle and volume.status in CAN_ATTACH and Permission.MACHINE_OPERATE in granted,
        "may_delete": idle and can_be_deleted and Permission.MACHINE_DELETE in granted,
    }
    template = "volumes/_detail.html" if is_live(request) else "volumes/detail.html"
    return render(request, template, context, status=status)


@require_POST
def volume_grow(request: HttpRequest, pk: UUID) -> HttpResponse:
    volume = volume_for(request.user, pk, Permission.MACHINE_OPERATE)
    form = GrowForm(request.POST)
    if form.is_valid():
        size = form.cleaned_data["size_gib"]
        try:
            services.request_grow(volume, actor=person(request), size_gib=size, request_ip=client_ip(request))
            return redirect("volumes:detail", pk=volume.pk)
        except PortalError as error:
            form.add_error("size_gib", str(error.message))
    return _detail(request, volume, form=form, status=422)


@require_POST
def volume_delete(request: HttpRequest, pk: UUID) -> HttpResponse:
    volume = volume_for(request.user, pk, Permission.MACHINE_DELETE)
    services.request_delete(volume, actor=person(request), request_ip=client_ip(request))
    messages.success(request, _("%(name)s is being deleted.") % {"name": volume.name})
    return redirect("volumes:list")
